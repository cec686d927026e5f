package qcow2

import (
	"errors"
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Errors that callers decide on, found with [errors.Is].
var (
	// ErrNotQCOW2: the file does not start with the magic of qcow2.
	ErrNotQCOW2 = errors.New("not a qcow2 image: no magic at the start of the file")
	// ErrCorrupt: the file is a qcow2 image, and damaged.
	ErrCorrupt = errors.New("damaged qcow2 image")
	// ErrUnsupported: the image may be correct, but this package cannot read it.
	ErrUnsupported = errors.New("not supported")
	// ErrTooLarge: the disk is larger than the format or the options allow.
	ErrTooLarge = errors.New("too large for a qcow2 image")
	// ErrReadOnly: a write to an image that was opened for reading.
	ErrReadOnly = disk.ErrReadOnly
	// ErrNoParent: the image was opened without its parent, and a read needs the parent.
	ErrNoParent = errors.New("the image was opened without its parent")
	// ErrNoSnapshot: the image has no snapshot of this id or name.
	ErrNoSnapshot = errors.New("the image has no such snapshot")
)

// FormatError says which field of an image is wrong, and how. It wraps ErrCorrupt or
// ErrUnsupported.
type FormatError struct {
	Offset int64  // of the field in the file, bytes
	Field  string // such as "header: cluster bits"
	Got    string // what was found
	Want   string // what a correct image has there
	Kind   error  // ErrCorrupt or ErrUnsupported
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%v: %s at offset %d: found %s, wanted %s", e.Kind, e.Field, e.Offset, e.Got, e.Want)
}

func (e *FormatError) Unwrap() error { return e.Kind }

func corrupt(off int64, field string, got any, want string) error {
	return &FormatError{Offset: off, Field: field, Got: fmt.Sprint(got), Want: want, Kind: ErrCorrupt}
}

func unsupported(off int64, field string, got any, want string) error {
	return &FormatError{Offset: off, Field: field, Got: fmt.Sprint(got), Want: want, Kind: ErrUnsupported}
}

var errNotThis = fmt.Errorf("%w: %w", disk.ErrNotThisFormat, ErrNotQCOW2)
