package vhdx

import (
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Errors for decisions of the caller; find them with [errors.Is].
var (
	// ErrNotVHDX: the file does not start with the file identifier of a VHDX.
	ErrNotVHDX = errors.New("not a VHDX: the file does not start with vhdxfile")
	// ErrCorrupt: the file is a damaged VHDX.
	ErrCorrupt = errors.New("damaged VHDX")
	// ErrUnsupported: the image may be correct, but this package cannot read it.
	ErrUnsupported = errors.New("not supported")
	// ErrTooLarge: the disk exceeds the limit of the format.
	ErrTooLarge = errors.New("too large for a VHDX")
	// ErrReadOnly: an existing image cannot be written.
	ErrReadOnly = disk.ErrReadOnly
	// ErrLocked: another process uses the image.
	ErrLocked = imagelock.ErrLocked
	// ErrClosed: the image was closed.
	ErrClosed = errors.New("image is closed")

	errInPlace = fmt.Errorf("%w: changing a VHDX in place; convert it to a new file", ErrUnsupported)
)

// FormatError is a fault that makes an image unreadable. It wraps ErrCorrupt or
// ErrUnsupported.
type FormatError struct {
	ID     string // of the [disk.Finding], such as "bat-state"
	Offset int64  // of the field in the file, bytes
	Field  string // such as "metadata: block size"
	Got    string // found value
	Want   string // value in a correct image
	Kind   error  // ErrCorrupt or ErrUnsupported
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%v: %s at offset %d: found %s, wanted %s", e.Kind, e.Field, e.Offset, e.Got, e.Want)
}

func (e *FormatError) Unwrap() error { return e.Kind }

// readFull reads all of p. The end of the file is unexpected.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read of %d bytes at offset %d: %w", len(p), off, err)
}
