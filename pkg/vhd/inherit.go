package vhd

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// RecordedParent implements [disk.Child]. The path is the first one in the parent record, or
// else the parent's name. [Image.ParentRecord] returns all paths.
func (img *Image) RecordedParent() (path string, ok bool) {
	if !img.differencing() {
		return "", false
	}
	for _, l := range img.parentRecord.Locators {
		if l.Path != "" {
			return l.Path, true
		}
	}
	return img.parentRecord.Name, true
}

// Parent implements [disk.Child]. The parent is an *Image or a raw disk.
func (img *Image) Parent() disk.Disk { return img.parent }

// ParentPath implements [disk.Child].
func (img *Image) ParentPath() string { return img.parentPath }

// ParentErr implements [disk.Child].
func (img *Image) ParentErr() error { return img.parentErr }

// openParentsWith opens all parents of a differencing image with a function of the caller. On
// an error it closes those that were opened.
func (img *Image) openParentsWith(open func(ParentRecord) (disk.Disk, error)) error {
	ids := map[uuid.UUID]bool{img.footer.UniqueID: true}
	for level := img; level.differencing() && level.parent == nil; {
		err := level.openParentWith(open, ids)
		if err == nil && img.depth() > MaxParents {
			err = errTooDeep
		}
		if err != nil {
			_ = img.closeParents()
			return err
		}
		next, ok := level.parent.(*Image)
		if !ok {
			break
		}
		level = next
	}
	return nil
}

// openParentWith opens the parent of one level. ids are the unique ids of that level and its
// children; the parent's is added.
func (img *Image) openParentWith(open func(ParentRecord) (disk.Disk, error), ids map[uuid.UUID]bool) error {
	fail := func(kind, err error) error {
		name := cmp.Or(img.parentRecord.Name, "the disk that OpenParent opens")
		return &ParentError{ID: img.header.ParentID, Kind: kind, Tried: []TriedParent{{name, err}}}
	}
	parent, err := open(img.ParentRecord())
	if err == nil && parent == nil {
		err = errors.New("OpenParent returned no disk")
	}
	if err != nil {
		return fail(ErrParentNotFound, err)
	}
	if p, ok := parent.(*Image); ok {
		if ids[p.footer.UniqueID] {
			err = fail(ErrParentLoop, ErrParentLoop)
		}
		ids[p.footer.UniqueID] = true
	}
	if err == nil {
		err = img.adopt(parent)
	}
	if err != nil {
		_ = parent.Close()
	}
	return err
}

// adopt makes an open disk the image's parent.
func (img *Image) adopt(parent disk.Disk) error {
	id := uuid.Nil
	if p, ok := parent.(*Image); ok {
		if id = p.footer.UniqueID; id == uuid.Nil {
			return fmt.Errorf("%w: a parent whose unique id is zero", ErrUnsupported)
		}
		if p.encrypted() {
			return errEncrypted
		}
		if depth := 1 + p.depth(); depth > MaxParents {
			return errTooDeep
		}
	}
	if !img.isParentID(id) {
		return &ParentError{ID: img.header.ParentID, Kind: ErrParentMismatch, Tried: []TriedParent{{"the given disk", mismatch(id)}}}
	}
	img.parent = parent
	return nil
}

// depth returns the number of open parents in the image's chain.
func (img *Image) depth() int {
	n := 0
	for next := img.parent; next != nil; n++ {
		p, ok := next.(*Image)
		if !ok {
			return n + 1
		}
		next = p.parent
	}
	return n
}

var (
	errTooDeep   = fmt.Errorf("%w: an image with more than %d parents", ErrUnsupported, MaxParents)
	errEncrypted = fmt.Errorf("%w: the image is encrypted by XenServer", ErrUnsupported)
)

func mismatch(id uuid.UUID) error { return fmt.Errorf("it is %s", describeID(id)) }

// closeParents closes the parent and all its parents.
func (img *Image) closeParents() error {
	if img.parent == nil {
		return nil
	}
	err := img.parent.Close()
	img.parent = nil
	return err
}

// readInherited reads sectors of the parent. Past the parent's end they are zeros.
func (img *Image) readInherited(p []byte, off int64) error {
	if img.orphaned() {
		clear(p)
		return nil
	}
	if img.parent == nil {
		return ErrNoParent
	}
	n := max(0, min(int64(len(p)), img.parent.Size()-off))
	if n > 0 {
		if k, err := img.parent.ReadAt(p[:n], off); int64(k) < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("parent: %w", err)
		}
	}
	clear(p[n:])
	return nil
}

// inheritsZeros reports whether the parent's sectors in [off, off+n) are known to be zero.
func (img *Image) inheritsZeros(off, n int64) bool {
	if img.parent == nil {
		return false
	}
	n = min(n, img.parent.Size()-off)
	if n <= 0 {
		return true
	}
	for e, err := range img.parent.Extents(off, n) {
		if err != nil || e.State == disk.Data {
			return false
		}
	}
	return true
}
