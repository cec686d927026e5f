package vhd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// checkParents opens the parents of the image, one after the other, and checks
// each.
func (c *Checker) checkParents() error {
	o := &OpenOptions{Parents: c.o.Parents, NoLock: c.o.NoLock, IgnoreChecksums: true, tolerateBAT: true}
	o.Parents.None = true
	img, err := NewImage(c.r, c.size, o)
	if err != nil {
		return nil // why was told
	}
	o.Parents.None = false
	f, ok := c.r.(*os.File)
	if !ok {
		return errors.New("the parents of an image that is not in a file cannot be checked")
	}
	search, err := newParentSearch(o, f, img)
	if err != nil {
		return err
	}
	defer func(leaf *Image) { _ = leaf.closeParents() }(img)
	name, child := f.Name(), ""
	for depth := 0; img.differencing(); depth++ {
		err := search.openParent(img, name)
		if depth == MaxParents {
			err = errTooDeep
		}
		if errors.Is(err, ErrLocked) || errors.Is(err, fs.ErrPermission) {
			return err // it says nothing about the image
		}
		if err != nil {
			if err := c.add(missingParent(img, child, err)); err != nil {
				return err
			}
			return c.checkTried(search, err)
		}
		name = img.parentPath
		if err := c.add(checkLink(img, child)...); err != nil {
			return err
		}
		child = name
		parent, ok := img.parent.(*Image)
		if !ok {
			return nil
		}
		if err := c.checkFile(parent.r.(*os.File), name); err != nil {
			return err
		}
		img = parent
	}
	return nil
}

// missingParent is the finding of a parent that cannot be had, of the image in the
// file child.
func missingParent(img *Image, child string, err error) finding {
	id := "parent-missing"
	switch {
	case errors.Is(err, ErrParentLoop):
		id = "parent-loop"
	case errors.Is(err, ErrParentMismatch):
		id = "parent-mismatch"
	}
	want := "the image with unique id " + img.header.ParentID.String()
	if img.header.ParentID == uuid.Nil {
		want = "a raw disk"
	}
	return finding{Finding: Finding{ID: id, Severity: Error, File: child, Offset: int64(img.footer.DataOffset) + 40, Field: "parent", Got: err.Error(), Want: want}}
}

// checkLink lists where what an image, in the file child, records of its parent is not
// what that is.
func checkLink(img *Image, child string) []finding {
	var fs []finding
	name := img.parentPath
	image := "IMAGE"
	if f, ok := img.r.(*os.File); ok {
		image = printable(f.Name())
	}
	if st, err := os.Stat(name); err == nil && img.header.ParentTimestamp != 0 {
		if changed := NearestTimestamp(st.ModTime()); changed != img.header.ParentTimestamp {
			fs = append(fs, finding{Finding: Finding{
				ID: "parent-time", Severity: Warning, File: child, Offset: int64(img.footer.DataOffset) + 56,
				Field: "dynamic disk header: parent time stamp", Got: img.header.ParentTimestamp.Time().Format(time.RFC3339),
				Want: fmt.Sprintf("%s, when %s was last changed", changed.Time().Format(time.RFC3339), printable(name)),
				Note: fmt.Sprintf("copying a file changes its time. If %[1]s was only copied, nothing is lost: 'rebase -u -b %[1]s %[2]s' records the new time. "+
					"If it was written to, the disk in %[2]s has changed with it: restore %[1]s", printable(name), image),
			}})
		}
	}
	if size := img.parent.Size(); size != img.size {
		f := finding{Finding: Finding{
			ID: "parent-size", Severity: Warning, File: child, Offset: img.footerAt + 48, Field: "footer: current size",
			Got: fmt.Sprintf("a disk of %d bytes", img.size), Want: fmt.Sprintf("%d, as many as the parent %s has", size, printable(name)),
		}}
		f.Note = fmt.Sprintf("the bytes after the end of %s read as zeros, as they should if %s was enlarged; otherwise restore the parent", printable(name), image)
		if img.size < size {
			f.Severity = Error
			f.Note = fmt.Sprintf("%s does not show the last bytes of its parent; if %s was enlarged, restore it or enlarge %[1]s with 'resize'", image, printable(name))
		}
		fs = append(fs, f)
	}
	return fs
}

// ParentFindings implements [disk.Child]: the findings are parent-time and parent-size.
func (img *Image) ParentFindings() []Finding {
	var list []Finding
	child := ""
	for level := img; level != nil && level.parent != nil; {
		for _, f := range checkLink(level, child) {
			list = append(list, f.Finding)
		}
		child = level.parentPath
		level, _ = level.parent.(*Image)
	}
	return list
}

// checkTried checks those files in which a parent was looked for that are damaged
// images.
func (c *Checker) checkTried(search *parentSearch, err error) error {
	var e *ParentError
	if !errors.As(err, &e) {
		return nil
	}
	for _, t := range e.Tried {
		var damaged *FormatError
		if !errors.As(t.Err, &damaged) {
			continue
		}
		open := search.files.Open
		if slices.Contains(c.o.Parents.Files, t.Path) { // the user's word
			open = func(path string) (*os.File, int64, error) { return disk.OpenFile(path, false, search.lock) }
		}
		f, _, err := open(t.Path)
		if err != nil {
			continue // it was there a moment ago
		}
		err = c.checkFile(f, t.Path)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// checkFile checks a parent, in a file that has this name, as an image of its own.
func (c *Checker) checkFile(f *os.File, name string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	size := st.Size()
	if disk.IsDevice(f) {
		if size, err = disk.FileSize(f); err != nil {
			return err
		}
	}
	o := c.o
	o.Chain, o.SizeRule, o.Device = false, SizeAuto, disk.IsDevice(f)
	parent := NewChecker(f, size, &o)
	for x, err := range parent.Findings(c.ctx) {
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		x.File = name
		if err := c.report(x); err != nil {
			return err
		}
	}
	return nil
}
