package target

import (
	"context"
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

// Fill gives n bytes of a file, from off on, the storage that the mode asks for. progress
// may be nil; it counts the bytes.
func (p Preallocation) Fill(ctx context.Context, f *os.File, off, n int64, progress disk.Progress) error {
	if p == PreallocateOff {
		return nil
	}
	return filesystem.Fill(ctx, f, off, n, p == PreallocateFull, progress)
}

// Preallocate gives the file the storage that the mode asks for: now, or if the size of its
// disk is not known yet, when it is complete. Files of dynamic images grow, and nothing is
// reserved for them, as in qemu-img; nor on devices. ctx holds until Commit; progress may be
// nil.
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
