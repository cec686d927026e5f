package target

import (
	"os"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Preallocation says how much of a file gets storage before it is written.
type Preallocation uint8

// The kinds of preallocation.
const (
	PreallocateOff   Preallocation = iota // none
	PreallocateSpace                      // space is reserved
	PreallocateFull                       // zeros are written
)

// Fill gives n bytes of a file, from off on, the storage that the mode asks for.
func (p Preallocation) Fill(f *os.File, off, n int64) error {
	if p == PreallocateOff {
		return nil
	}
	return filesystem.Fill(f, off, n, p == PreallocateFull)
}

// Preallocate gives the file the storage that the mode asks for: now, or if the size of its
// disk is not known yet, when it is complete. Files of dynamic images grow, and nothing is
// reserved for them, as in qemu-img; nor on devices.
func (t *File) Preallocate(p Preallocation, sizeKnown bool) error {
	if t.file == nil {
		return nil
	}
	if b, ok := t.Disk.(disk.Blocker); ok && b.BlockSize() != 0 {
		return nil
	}
	if !sizeKnown {
		t.preallocation = p
		return nil
	}
	return t.fill(p)
}

// fill gives the whole file the storage that the mode asks for.
func (t *File) fill(p Preallocation) error {
	st, err := t.file.Stat()
	if err != nil {
		return err
	}
	return p.Fill(t.file.File, 0, st.Size())
}
