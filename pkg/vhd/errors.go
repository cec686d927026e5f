package vhd

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// What a caller may want to decide on, found with [errors.Is].
var (
	// ErrNotVHD: the file has no mark of a VHD.
	ErrNotVHD = errors.New("not a VHD: no footer at the end of the file and no copy of one at its start")
	// ErrCorrupt: the file is a VHD, and damaged.
	ErrCorrupt = errors.New("damaged VHD")
	// ErrUnsupported: the image may be fine, but this package does not do it.
	ErrUnsupported = errors.New("not supported")
	// ErrTooLarge: the size is beyond what the format can hold.
	ErrTooLarge = errors.New("too large for a VHD")
	// ErrReadOnly: a write to an image that was opened for reading.
	ErrReadOnly = disk.ErrReadOnly
	// ErrFailed: an earlier change stopped halfway, or a flush failed. Every later
	// call returns this, with the reason, until the image is opened again.
	ErrFailed = errors.New("open the image again before using it")
	// ErrNotDurable: a flush failed, and what was written since the last Sync may be
	// lost. It comes with ErrFailed.
	ErrNotDurable = errors.New("flush failed: recent writes may be lost")
	// ErrLocked: another process uses the image.
	ErrLocked = imagelock.ErrLocked
	// ErrTwoIDs: the two copies of the footer are valid and have different unique ids,
	// so they are of different images.
	ErrTwoIDs = errors.New("the copies of the footer have different unique ids")
	// ErrSavedState: a suspended virtual machine depends on the exact contents.
	ErrSavedState = errors.New("image belongs to a saved (suspended) virtual machine")
)

// errNoRoom: a device is full, which callers treat like a full file system.
var errNoRoom error = syscall.ENOSPC

// FormatError says which field of an image is wrong, and how. It wraps
// ErrCorrupt or ErrUnsupported.
type FormatError struct {
	ID     string // of the [Finding], such as "bat-overlap"
	Offset int64  // of the field in the file, bytes
	Field  string // such as "dynamic disk header: block size"
	Got    string // what was found
	Want   string // what a right image has there
	Note   string // see Finding.Note
	Kind   error  // ErrCorrupt or ErrUnsupported
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%v: %s at offset %d: found %s, wanted %s", e.Kind, e.Field, e.Offset, e.Got, e.Want)
}

func (e *FormatError) Unwrap() error { return e.Kind }
