package target

import (
	"context"
	"os"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Preallocation is the storage that a file gets before it is written.
type Preallocation uint8

// The kinds of preallocation.
const (
	PreallocateOff   Preallocation = iota // none
	PreallocateSpace                      // space is reserved
	PreallocateFull                       // zeros are written
)

// Fill allocates n bytes of a file, from off on, by the mode. progress may be nil; it counts the
// bytes.
func (p Preallocation) Fill(ctx context.Context, f *os.File, off, n int64, progress disk.Progress) error {
	if p == PreallocateOff {
		return nil
	}
	return filesystem.Fill(ctx, f, off, n, p == PreallocateFull, progress)
}

// Preallocate allocates the file by the mode: at once, or on completion if the size of its disk is
// not known yet. As in qemu-img, nothing is reserved for dynamic images, which grow. Devices are
// not preallocated. ctx is used until Commit; progress may be nil.
func (t *File) Preallocate(ctx context.Context, p Preallocation, sizeKnown bool, progress disk.Progress) error {
	if t.file == nil {
		return nil
	}
	if b, ok := t.Disk.(disk.Blocker); ok && b.BlockSize() != 0 {
		return nil
	}
	fill := func() error {
		st, err := t.file.Stat()
		if err != nil {
			return err
		}
		return p.Fill(ctx, t.file.File, 0, st.Size(), progress)
	}
	if !sizeKnown {
		t.fill = fill
		return nil
	}
	return fill()
}
