package chain

import (
	"context"
	"errors"
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// RebaseOptions control a change of the parent. The zero value removes the parent: the image
// becomes a dynamic one, with everything that it inherited.
type RebaseOptions struct {
	// Parent is the file of the new parent; "" for none. RebaseImage does not use it.
	Parent string
	// Raw says that the parent is a raw disk. Without it the parent must be a VHD: the contents
	// of a raw disk are not trusted to identify it as raw. RebaseImage ignores Raw.
	Raw bool
	// Paths is the style of the paths to the parent in the image; nil means the style of the
	// paths to the old parent. RebaseImage ignores Paths.
	Paths *vhd.PathStyle
	// Unsafe changes only the parent record, for a parent that has moved or has the same
	// contents. Nothing is read or compared, and the old parent is not needed. Unsafe still
	// refuses a parent that depends on the image, or is larger.
	Unsafe bool
	// Open has the options for opening the image and its parents. The new parent is opened with
	// the same locks, trust and Dirs. Write and Parent are ignored. A saved state is an error
	// unless Force is set. RebaseImage ignores Open.
	Open vhd.OpenOptions
	// Workers is the number of chunks that are compared at a time; 0 means the number of
	// processors.
	Workers int
	// Progress counts the bytes of the image's disk. One goroutine calls it at a time, and
	// waits for it.
	Progress disk.Progress
}

// Rebase gives the differencing image in the named file another parent, or none. First it
// copies data that the new parent lacks, or has differently, into the image. A nil o means the
// zero value.
//
// An error, a cancelled ctx and a crash at any instant do no harm: the image opens with its old
// parent or with the new one, and reads the same with both. Blocks that were copied may stay in
// it. No parent is written to. Rebase can be called again.
//
// With Unsafe the contents may change: with the new parent the image reads what that parent
// holds.
//
// Errors are those of [vhd.Open] and of the files. ErrUnsupported means one of these: the image
// is not differencing, the new parent is too large or has too many parents, or Unsafe is set
// without a new parent. ErrParentLoop means that the new parent is the image or
// depends on it. The image is locked for writing, and all parents for reading.
func Rebase(ctx context.Context, name string, o *RebaseOptions) error {
	if o == nil {
		o = &RebaseOptions{}
	}
	if o.Unsafe && o.Parent == "" {
		return inFile(name, errUnsafeNone)
	}
	var parent disk.Disk
	if o.Parent != "" {
		var err error
		if parent, err = openNewParent(name, o); err != nil {
			return err
		}
	}
	open := o.Open
	open.Write, open.Parent = true, nil
	if o.Unsafe {
		open.Parents = disk.ParentSearch{None: true}
	}
	img, err := vhd.Open(name, &open)
	if err != nil {
		closeParent(parent)
		return err
	}
	record, err := recordOfParent(img, name, parent, o)
	if err == nil {
		err = RebaseImage(ctx, img, parent, record, o)
	}
	if err != nil {
		closeParent(parent)
		err = inFile(name, err)
	}
	if cerr := img.Close(); err == nil && cerr != nil {
		err = inFile(name, cerr)
	}
	return err
}

// recordOfParent returns the record of the new parent for the image in the named file.
func recordOfParent(img *vhd.Image, name string, parent disk.Disk, o *RebaseOptions) (vhd.ParentRecord, error) {
	if parent == nil || differencing(img) != nil { // RebaseImage reports these
		return vhd.ParentRecord{}, nil
	}
	record := img.ParentRecord()
	style := record.Style()
	if o.Paths != nil {
		style = *o.Paths
	}
	return vhd.ParentRecordOf(name, o.Parent, parent, style)
}

// RebaseImage gives an open differencing image another parent, and records it as record says. A
// nil parent means none. All other properties are those of [Rebase], but RebaseImage does not
// compare the parents' files. Nothing else may use the image meanwhile. A nil o means the zero
// value.
//
// The image is open for writing, with its old parent unless o.Unsafe is set. On success it owns
// the new parent, and closes it; after an error the caller still owns the parent. The caller
// closes the image.
func RebaseImage(ctx context.Context, img *vhd.Image, parent disk.Disk, record vhd.ParentRecord, o *RebaseOptions) error {
	if o == nil {
		o = &RebaseOptions{}
	}
	if err := differencing(img); err != nil {
		return err
	}
	switch {
	case o.Unsafe && parent == nil:
		return errUnsafeNone
	case parent != nil && parent.Size() > img.Size():
		return &largerParentError{parent.Size(), img.Size()}
	case levels(parent) > vhd.MaxParents:
		return fmt.Errorf("%w: the image would have more than %d parents", vhd.ErrUnsupported, vhd.MaxParents)
	}
	if !o.Unsafe {
		err := convert.CopyDifference(ctx, img, img, parent, &convert.Options{
			Workers: o.Workers, Progress: o.Progress,
			// Extents that are not in the image itself: those of parents, and zeros.
			Only: func(e disk.Extent) bool { return e.Depth > 0 || e.State != disk.Data },
		})
		if err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if parent == nil {
		return img.Detach(ctx, nil)
	}
	return img.SetParent(parent, record)
}

var errUnsafeNone = fmt.Errorf("%w: an unsafe rebase to no parent, which would lose all that the image inherits", vhd.ErrUnsupported)

// largerParentError is the error for a new parent that is larger than the image.
type largerParentError struct{ parent, img int64 }

func (e *largerParentError) Error() string {
	return fmt.Sprintf("the new parent has %d bytes, more than the image, which has %d", e.parent, e.img)
}

func (e *largerParentError) Unwrap() error { return vhd.ErrUnsupported }

// NewParentError says why Rebase could not open the new parent or one of its parents.
// ParentSearch.Files does not apply to these.
type NewParentError struct{ Err error }

func (e *NewParentError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *NewParentError) Unwrap() error { return e.Err }

// openNewParent opens the new parent of the image in the named file for reading. The new parent
// must be neither the image nor depend on it.
func openNewParent(name string, o *RebaseOptions) (disk.Disk, error) {
	if disk.SameFile(name, o.Parent) {
		return nil, fmt.Errorf("%s: %w: it cannot be its own parent", name, vhd.ErrParentLoop)
	}
	if o.Raw {
		return openRaw(o.Parent, false, o.Open.NoLock)
	}
	open := vhd.OpenOptions{NoLock: o.Open.NoLock, Parents: disk.ParentSearch{Dirs: o.Open.Parents.Dirs, Trust: o.Open.Parents.Trust}}
	img, err := vhd.Open(o.Parent, &open)
	if search := (*vhd.ParentError)(nil); o.Unsafe && errors.As(err, &search) && search.Kind != vhd.ErrParentLoop {
		// The new parent may lack its own parent: a later rebase may give it one.
		open.Parents = disk.ParentSearch{None: true}
		img, err = vhd.Open(o.Parent, &open)
	}
	if err != nil {
		return nil, &NewParentError{err}
	}
	for level := img; level != nil; {
		if disk.SameFile(level.ParentPath(), name) {
			img.Close()
			return nil, fmt.Errorf("%s: %w: %s depends on it", name, vhd.ErrParentLoop, o.Parent)
		}
		level, _ = level.Parent().(*vhd.Image)
	}
	return img, nil
}

// levels returns the number of open disks in the chain that starts at d.
func levels(d disk.Disk) int {
	n := 0
	for d != nil {
		n++
		img, ok := d.(*vhd.Image)
		if !ok {
			break
		}
		d = img.Parent()
	}
	return n
}

func closeParent(parent disk.Disk) {
	if parent != nil {
		parent.Close()
	}
}
