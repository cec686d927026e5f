package convert

import (
	"os"
	"sync"

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
// given back.
type room struct {
	placer disk.Placer // nil: no place is known
	f      *os.File    // the target's file; nil if it is not known, or not to be used

	mu    sync.Mutex
	tried bool // to find out the file
	zones map[int64]*zone
	spare int64 // taken, and not written
}

// zone is a part of the file, from its index * zoneSize on.
type zone struct {
	taken   int64 // how much of it, from its start on, there was room taken for
	written int64 // bytes, anywhere in it
}

// prepare is called before n bytes of the target are written at off.
func (r *room) prepare(off, n int64) {
	if r.placer == nil || n < zoneSize/64 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for n > 0 && !(r.tried && r.f == nil) {
		f, fileOff, m := r.placer.Place(off, n)
		if f == nil || m <= 0 {
			return
		}
		if !r.tried {
			r.tried = true
			if takesRoom(f) {
				r.f, r.zones = f, map[int64]*zone{}
			}
		}
		if r.f != nil {
			r.written(fileOff, m)
		}
		off, n = off+m, n-m
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
				z.taken = takeRoom(r.f, index*zoneSize, zoneSize)
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
	for index, z := range r.zones {
		if z.taken > 0 && zoneSize-z.written >= zoneSize/256 {
			giveBack(r.f, index*zoneSize, z.taken)
		}
	}
}
