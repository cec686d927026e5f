package convert

import (
	"os"
	"sync"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// zoneSize is how much room is taken at a time.
const zoneSize = 16 << 20

// maxSpare is how much room may be taken that is not, or not yet, used, because what
// is not is given back at the end only: others may write into it. minFree is how much
// must be free besides.
const (
	maxSpare = 3 * zoneSize
	minFree  = 1 << 30
)

// room takes room in a new target's file ahead of what is written, where that makes
// writing faster: in zones behind those that got full. What stays unused of it is
// given back, and so is what the file system takes ahead by itself.
type room struct {
	placer disk.Placer // nil: no place is known

	mu    sync.Mutex
	tried bool            // to find out about the file
	f     *os.File        // the target's file; nil if it is not known
	grows bool            // it ends where was written last
	zones map[int64]*zone // nil: no room is taken
	spare int64           // taken, and not written
	total int64           // bytes written, in all
}

// zone is a part of the file, from its index * zoneSize on.
type zone struct {
	taken   int64 // how much of it, from its start on, there was room taken for
	written int64 // bytes, anywhere in it
}

// prepare is called before n bytes of the target are written at off.
func (r *room) prepare(off, n int64) {
	if r.placer == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.tried {
		f, fileOff, m := r.placer.Place(off, n)
		if f == nil || m <= 0 {
			return
		}
		r.tried = true
		r.look(f, fileOff+m)
	}
	r.total += n
	if r.zones == nil || n < zoneSize/64 {
		return
	}
	for n > 0 {
		f, fileOff, m := r.placer.Place(off, n)
		if f == nil || m <= 0 {
			return
		}
		r.written(fileOff, m)
		off, n = off+m, n-m
	}
}

// look finds out what to do in a file of which something that ends at end is the first
// that is written.
func (r *room) look(f *os.File, end int64) {
	st, err := f.Stat()
	if err != nil {
		return
	}
	grows := st.Size() < end
	if !grows && filesystem.Reserved(f) {
		return // nothing is missing, and what is there is the owner's
	}
	r.f, r.grows = f, grows
	if filesystem.AllocatesSlowly(f) {
		r.zones = map[int64]*zone{}
	}
}

// written counts n bytes of the file, and takes room in the zones that they are the
// first in.
func (r *room) written(fileOff, n int64) {
	for end := fileOff + n; fileOff < end; {
		index := fileOff / zoneSize
		z := r.zones[index]
		if z == nil {
			z = &zone{}
			r.zones[index] = z
			if before := r.zones[index-1]; before != nil && before.written >= zoneSize*3/4 && r.spare < maxSpare {
				z.taken = filesystem.Allocate(r.f, index*zoneSize, zoneSize, r.grows, minFree)
				r.spare += z.taken
			}
		}
		k := min(end, (index+1)*zoneSize) - fileOff
		r.spare -= min(k, max(0, z.taken-z.written))
		z.written += k
		fileOff += k
	}
}

// finish gives back what was not used.
func (r *room) finish() {
	if r.f != nil && r.grows {
		if end, left := filesystem.AllocatedAhead(r.f, r.total); left > zoneSize/16 {
			filesystem.FreeUnwritten(r.f, 0, end, zoneSize/256)
		}
	}
	for index, z := range r.zones {
		if z.taken > 0 && zoneSize-z.written >= zoneSize/256 {
			filesystem.FreeUnwritten(r.f, index*zoneSize, z.taken, 0)
		}
	}
}
