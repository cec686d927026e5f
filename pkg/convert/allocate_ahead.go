package convert

import (
	"os"
	"sync"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// zoneSize is how many bytes are allocated at a time.
const zoneSize = 16 << 20

// maxSpare bounds the bytes that are allocated and not yet written. Unused ones are freed only
// at the end, because other workers may write into them before. minFree is how many bytes must
// stay free in the file system.
const (
	maxSpare = 3 * zoneSize
	minFree  = 1 << 30
)

// aheadAllocator allocates space in a new target's file before it is written, where that makes
// writing faster. It allocates the zone after each zone that is nearly full. finish frees the
// unused space, also the space that the file system has allocated ahead by itself.
type aheadAllocator struct {
	placer disk.Placer // nil: offsets in the file are not known

	mu        sync.Mutex
	inspected bool            // whether inspect was called
	f         *os.File        // the target's file; nil if it is not known
	grows     bool            // the file ends where it was last written
	zones     map[int64]*zone // nil: nothing is allocated ahead
	spare     int64           // bytes allocated and not written
	total     int64           // bytes written
}

// zone is the part of the file that starts at its index * zoneSize.
type zone struct {
	allocated int64 // bytes allocated ahead, from its start
	written   int64 // bytes written, anywhere in it
}

// prepare is called before n bytes of the target are written at off.
func (a *aheadAllocator) prepare(off, n int64) {
	if a.placer == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.inspected {
		f, fileOff, m := a.placer.Place(off, n)
		if f == nil || m <= 0 {
			return
		}
		a.inspected = true
		a.inspect(f, fileOff+m)
	}
	a.total += n
	if a.zones == nil || n < zoneSize/64 {
		return
	}
	for n > 0 {
		f, fileOff, m := a.placer.Place(off, n)
		if f == nil || m <= 0 {
			return
		}
		a.written(fileOff, m)
		off, n = off+m, n-m
	}
}

// inspect decides how to allocate in f, whose first write ends at offset end.
func (a *aheadAllocator) inspect(f *os.File, end int64) {
	st, err := f.Stat()
	if err != nil {
		return
	}
	grows := st.Size() < end
	if !grows && filesystem.Reserved(f) {
		return // all space is allocated already, and must stay so
	}
	a.f, a.grows = f, grows
	if filesystem.AllocatesSlowly(f) {
		a.zones = map[int64]*zone{}
	}
}

// written counts n bytes of the file. The first bytes of a zone allocate the zone, if the one
// before is nearly full.
func (a *aheadAllocator) written(fileOff, n int64) {
	for end := fileOff + n; fileOff < end; {
		index := fileOff / zoneSize
		z := a.zones[index]
		if z == nil {
			z = &zone{}
			a.zones[index] = z
			if before := a.zones[index-1]; before != nil && before.written >= zoneSize*3/4 && a.spare < maxSpare {
				z.allocated = filesystem.Allocate(a.f, index*zoneSize, zoneSize, a.grows, minFree)
				a.spare += z.allocated
			}
		}
		k := min(end, (index+1)*zoneSize) - fileOff
		a.spare -= min(k, max(0, z.allocated-z.written))
		z.written += k
		fileOff += k
	}
}

// finish frees the unused space.
func (a *aheadAllocator) finish() {
	if a.f != nil && a.grows {
		if end, left := filesystem.AllocatedAhead(a.f, a.total); left > zoneSize/16 {
			filesystem.FreeUnwritten(a.f, 0, end, zoneSize/256)
		}
	}
	for index, z := range a.zones {
		if z.allocated > 0 && zoneSize-z.written >= zoneSize/256 {
			filesystem.FreeUnwritten(a.f, index*zoneSize, z.allocated, 0)
		}
	}
}
