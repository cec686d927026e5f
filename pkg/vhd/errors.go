package vhd

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Errors that a caller can test for with [errors.Is].
var (
	// ErrNotVHD: the file has no mark of a VHD.
	ErrNotVHD = errors.New("not a VHD: no trailing footer and no copy of one at the start of the file")
	// ErrCorrupt: the file is a VHD, and damaged.
	ErrCorrupt = errors.New("damaged VHD")
	// ErrUnsupported: the image may be valid, but this package does not support it.
	ErrUnsupported = errors.New("not supported")
	// ErrTooLarge: the size exceeds the limits of the format.
	ErrTooLarge = errors.New("too large for a VHD")
	// ErrReadOnly: a write to an image that was opened for reading.
	ErrReadOnly = disk.ErrReadOnly
	// ErrFailed: an earlier change stopped halfway, or a flush failed. Every later call returns
	// this, with the reason, until the image is opened again.
	ErrFailed = errors.New("open the image again before using it")
	// ErrNotDurable: a flush failed, and data written since the last Sync may be lost. It comes
	// with ErrFailed.
	ErrNotDurable = errors.New("flush failed: recent writes may be lost")
	// ErrLocked: another process uses the image.
	ErrLocked = imagelock.ErrLocked
	// ErrTwoIDs: both copies of the footer are valid and their unique ids differ, so they
	// belong to different images.
	ErrTwoIDs = errors.New("the copies of the footer have different unique ids")
	// ErrSavedState: a suspended virtual machine depends on the exact contents.
	ErrSavedState = errors.New("image belongs to a saved (suspended) virtual machine")
)

// errNoSpace says that a device is full. Callers handle it like a full file system.
var errNoSpace error = syscall.ENOSPC

// FormatError describes a faulty field of an image. It wraps ErrCorrupt or ErrUnsupported.
type FormatError struct {
	ID     string // of the [Finding], such as "bat-overlap"
	Offset int64  // offset of the field in the file, bytes
	Field  string // such as "dynamic disk header: block size"
	Got    string // the value found
	Want   string // the value of a valid image
	Note   string // see Finding.Note
	Text   string // the fault in a sentence; "" if Field, Got and Want say it
	Kind   error  // ErrCorrupt or ErrUnsupported
}

func (e *FormatError) Error() string {
	if e.Text != "" {
		return fmt.Sprintf("%v: %s", e.Kind, e.Text)
	}
	return fmt.Sprintf("%v: %s at offset %d: found %s, wanted %s", e.Kind, e.Field, e.Offset, e.Got, e.Want)
}

func (e *FormatError) Unwrap() error { return e.Kind }
