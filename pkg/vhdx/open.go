package vhdx

import (
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// OpenOptions say how to open an image. The zero value searches for parents in the directory of
// the image, and locks all files.
type OpenOptions struct {
	// NoLock opens files even if another process writes to them.
	NoLock bool
	// Parents says where to search for the parents of an image in an [os.File].
	Parents disk.ParentSearch
	// Closer, if set, is closed with the image.
	Closer io.Closer
}

// Open opens the named image for reading. A nil o means the zero value. Errors are those of the
// file system, ErrNotVHDX, ErrLocked, a *[ParentError], or wrap ErrCorrupt or ErrUnsupported.
// Closing the image closes the file.
func Open(name string, o *OpenOptions) (*Image, error) {
	var own OpenOptions
	if o != nil {
		own = *o
	}
	var lock disk.LockFunc
	if !own.NoLock {
		lock = imagelock.Lock
	}
	f, size, err := disk.OpenFile(name, false, lock)
	if errors.Is(err, ErrLocked) {
		err = fmt.Errorf("%s: %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	own.Closer = f
	img, err := NewImage(f, size, &own)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return img, nil
}

// NewImage opens the image in the first size bytes of r for reading. A nil o means the zero
// value. A log that holds changes is replayed in memory. The parents of an image that is not in
// an [os.File] cannot be found. If there is an error, nothing is closed.
func NewImage(r io.ReaderAt, size int64, o *OpenOptions) (*Image, error) {
	if o == nil {
		o = &OpenOptions{}
	}
	img, err := openAlone(r, size)
	if err != nil {
		return nil, err
	}
	img.closer = o.Closer
	if !img.s.meta.HasParent || o.Parents.None {
		return img, nil
	}
	last, err := img.openParents(o)
	if err != nil && o.Parents.Partial {
		last.parentErr = err
		return img, nil
	}
	if err != nil {
		_ = img.closeParent()
		return nil, err
	}
	return img, nil
}

// openAlone opens an image without its parents.
func openAlone(r io.ReaderAt, size int64) (*Image, error) {
	s, found, err := readStructures(r, size)
	if err != nil {
		return nil, err
	}
	if err := refusal(found); err != nil {
		return nil, err
	}
	return &Image{s: s, file: r}, nil
}
