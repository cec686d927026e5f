package vhdx

import (
	"io"
	"sync/atomic"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Image is an open image: a [disk.Disk] and a [disk.Child]. ReadAt and Extents are safe for
// concurrent use. Close does not wait for calls in flight: call it last.
type Image struct {
	s      *structures
	file   io.ReaderAt // without the changes of the log
	closer io.Closer
	closed atomic.Bool

	parent     *Image // nil if there is none, or without it
	parentPath string
	parentErr  error
}

// Size returns the virtual size in bytes, a multiple of the logical sector size.
func (img *Image) Size() int64 { return img.s.meta.Size }

// BlockSize implements [disk.Blocker].
func (img *Image) BlockSize() int64 { return img.s.meta.BlockSize }

// LogicalSectorSize implements [disk.SectorSizer].
func (img *Image) LogicalSectorSize() int64 { return img.s.meta.LogicalSector }

// Metadata returns the properties of the disk.
func (img *Image) Metadata() Metadata { return img.s.meta }

// Header returns the current header.
func (img *Image) Header() Header { return img.s.header }

// Creator returns the name of the program that created the file.
func (img *Image) Creator() string { return img.s.creator }

// PendingLogEntries returns the number of log entries that were replayed in memory.
func (img *Image) PendingLogEntries() int { return img.s.log.pending }

// ParentLocator returns the parent record of the image. It is zero without a parent.
func (img *Image) ParentLocator() ParentLocator { return img.s.locator }

// BlockCounts returns the number of blocks of the disk, and how many of them are in the file.
// It reads the whole BAT.
func (img *Image) BlockCounts() (total, allocated int64, err error) {
	t := img.s.bat
	for b := int64(0); ; b++ {
		if b, err = t.nextPresent(b, t.blocks); err != nil || b == t.blocks {
			return t.blocks, allocated, err
		}
		e, err := t.entry(t.payload(b))
		if err != nil {
			return 0, 0, err
		}
		if e.stored() {
			allocated++
		}
	}
}

// FormatName implements [disk.Describer].
func (img *Image) FormatName() string { return formatName }

// Subformat implements [disk.Describer]: dynamic, fixed or differencing.
func (img *Image) Subformat() string { return img.s.meta.subformat() }

func (m *Metadata) subformat() string {
	switch {
	case m.HasParent:
		return "differencing"
	case m.LeaveAllocated:
		return "fixed"
	}
	return "dynamic"
}

// Close closes the parents, and the file if it was opened for the image.
func (img *Image) Close() error {
	img.closed.Store(true)
	err := img.closeParent()
	if img.closer != nil {
		if cerr := img.closer.Close(); err == nil {
			err = cerr
		}
	}
	return err
}

func (img *Image) closeParent() error {
	if img.parent == nil {
		return nil
	}
	return img.parent.Close()
}

var _ interface {
	disk.Child
	disk.Blocker
	disk.Describer
	disk.SectorSizer
} = (*Image)(nil)
