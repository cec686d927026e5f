package chain

import (
	"context"
	"errors"
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// RebaseOptions say which parent an image gets. The zero value takes the parent away:
// the image becomes a dynamic one that has all that it inherited.
type RebaseOptions struct {
	// Parent is the file of the new parent; "" for none. RebaseImage does not use it.
	Parent string
	// Raw says that the parent is a raw disk. Without it, the parent must be a VHD:
	// what a raw disk holds is not trusted to say that it is raw. RebaseImage does not
	// use it.
	Raw bool
	// Paths is how the image spells the paths to the parent; nil means as it spelled
	// those to the old one. RebaseImage does not use it.
	Paths *vhd.PathStyle
	// Unsafe changes only the record of the parent: for a parent that has moved, or has
	// the same contents. Nothing is read or compared, and the old parent is not needed.
	// A parent that is made of the image, or larger, is refused all the same.
	Unsafe bool
	// Open says how to open the image, and where its parents may be. The new parent is
	// opened with the same locks, trust and Dirs. Write and Parent are not used. Saved
	// states are refused, unless Force is set. RebaseImage does not use it.
	Open vhd.OpenOptions
	// Workers is how many chunks are compared at a time; 0 means as many as there are
	// processors.
	Workers int
	// Progress counts the bytes of the image's disk. It is called by one goroutine at a
	// time, which waits for it.
	Progress disk.Progress
}

// Rebase gives the differencing image in the named file another parent, or none. What
// the new parent lacks, or has otherwise, is copied into the image before. A nil o means
// the zero value.
//
// After an error, after ctx is cancelled and after a crash at any instant the image
// opens with its old parent or with the new one, and reads the same with both; blocks
// that were copied may be left in it. No parent is written to. Rebase can be called
// again.
//
// With Unsafe the same holds but for the contents: with the new parent the image has
// whatever that holds.
//
// The errors are those of [vhd.Open] and of the files. They wrap ErrUnsupported for an
// image that is not a differencing one, for a new parent larger than the image or at the
// end of too long a chain, and for Unsafe without a new parent; and ErrParentLoop for a new parent that is the image, or
// is made of it. The image is locked for writing, and all parents for reading.
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

// recordOfParent is what the image in the named file is to record of its new parent.
func recordOfParent(img *vhd.Image, name string, parent disk.Disk, o *RebaseOptions) (vhd.ParentRecord, error) {
	if parent == nil || differencing(img) != nil { // which RebaseImage refuses
		return vhd.ParentRecord{}, nil
	}
	record := img.ParentRecord()
	style := record.Style()
	if o.Paths != nil {
		style = *o.Paths
	}
	return vhd.ParentRecordOf(name, o.Parent, parent, style)
}

// RebaseImage gives an open differencing image another parent, of which it records what
// record says, or none if parent is nil. All that [Rebase] says holds, but for the check
// of the parents' files, and nothing else may use the image meanwhile. A nil o means the
// zero value.
//
// The image is open for writing, and with its old parent unless o.Unsafe is set. On
// success it has taken over the new parent, and closes it; after an error the parent is
// still the caller's. The caller closes the image.
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
			// What is not in the image itself: the parent's, and zeros.
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

// largerParentError refuses a new parent that is larger than the image.
type largerParentError struct{ parent, img int64 }

func (e *largerParentError) Error() string {
	return fmt.Sprintf("the new parent has %d bytes, more than the image, which has %d", e.parent, e.img)
}

func (e *largerParentError) Unwrap() error { return vhd.ErrUnsupported }

// NewParentError is why Rebase could not open the new parent or one of that one's parents.
// ParentSearch.Files does not apply to these.
type NewParentError struct{ Err error }

func (e *NewParentError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *NewParentError) Unwrap() error { return e.Err }

// openNewParent opens the new parent of the image in the named file for reading. It must
// neither be the image nor be made of it.
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
		// Perhaps it is the next one to be given a parent.
		open.Parents = disk.ParentSearch{None: true}
		img, err = vhd.Open(o.Parent, &open)
	}
	if err != nil {
		return nil, &NewParentError{err}
	}
	for level := img; level != nil; {
		if disk.SameFile(level.ParentPath(), name) {
			img.Close()
			return nil, fmt.Errorf("%s: %w: %s is made of it", name, vhd.ErrParentLoop, o.Parent)
		}
		level, _ = level.Parent().(*vhd.Image)
	}
	return img, nil
}

// levels is the number of disks in the chain that starts at d, as far as they are open.
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
