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

// checkParents opens the parents of the image in turn, and checks each.
func (c *Checker) checkParents() error {
	o := &OpenOptions{Parents: c.o.Parents, NoLock: c.o.NoLock, IgnoreChecksums: true, tolerateBAT: true}
	o.Parents.None = true
	img, err := NewImage(c.r, c.size, o)
	if err != nil {
		return nil // already reported
	}
	o.Parents.None = false
	f, ok := imageFile(c.r)
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
			return err // not about the image
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

// missingParent returns the finding about a parent that cannot be opened. child is the file of
// its child.
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

// checkLink returns findings about the differences between the parent and what its child
// records. child is the file of that child.
func checkLink(img *Image, child string) []finding {
	var fs []finding
	name := img.parentPath
	image := "IMAGE"
	if f, ok := imageFile(img.r); ok {
		image = printable(f.Name())
	}
	if p, ok := img.parent.(*Image); ok && p.footer.UniqueID != img.header.ParentID {
		fs = append(fs, finding{Finding: Finding{
			ID: "parent-id", Severity: Warning, File: child, Offset: int64(img.footer.DataOffset) + 40,
			Field: "dynamic disk header: parent unique id", Got: img.header.ParentID.String(),
			Want: fmt.Sprintf("%v, which %s got from a commit that was interrupted", p.footer.UniqueID, printable(name)),
			Note: fmt.Sprintf("'commit' completes it; until then, other programs refuse %s as the parent of %s", printable(name), image),
		}})
	}
	if st, err := os.Stat(name); err == nil && img.header.ParentTimestamp != 0 {
		if changed := NearestTimestamp(st.ModTime()); changed != img.header.ParentTimestamp {
			fs = append(fs, finding{Finding: Finding{
				ID: "parent-time", Severity: Warning, File: child, Offset: int64(img.footer.DataOffset) + 56,
				Field: "dynamic disk header: parent time stamp", Got: img.header.ParentTimestamp.Time().Format(time.RFC3339),
				Want: fmt.Sprintf("%s, when %s was last changed", changed.Time().Format(time.RFC3339), printable(name)),
				Note: fmt.Sprintf("copying a file changes its time. If %[1]s was only copied, nothing is lost: 'vhdtool rebase -u -b %[1]s %[2]s' records the new time. "+
					"If it was written to, the disk in %[2]s has changed with it: restore %[1]s", printable(name), image),
			}})
		}
	}
	if size := img.parent.Size(); size != img.size {
		f := finding{Finding: Finding{
			ID: "parent-size", Severity: Warning, File: child, Offset: img.footerAt + 48, Field: "footer: current size",
			Got: fmt.Sprintf("a disk of %d bytes", img.size), Want: fmt.Sprintf("%d, the size of the parent %s", size, printable(name)),
		}}
		f.number(uint64(img.size), oneOf(uint64(size)))
		f.Note = fmt.Sprintf("the bytes after the end of %s read as zeros, as they should if %s was enlarged; otherwise restore the parent", printable(name), image)
		if img.size < size {
			f.Severity = Error
			f.Note = fmt.Sprintf("%s does not show the last bytes of its parent; if %s was enlarged, restore it or enlarge %[1]s with 'resize'", image, printable(name))
		}
		fs = append(fs, f)
	}
	return fs
}

// ParentFindings implements [disk.Child]: the findings are parent-time, parent-size and
// parent-id.
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

// checkTried checks the damaged images among the files that the search for a parent has tried.
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
		if slices.Contains(c.o.Parents.Files, t.Path) { // the caller names the parent
			open = search.files.OpenNamed
		}
		f, _, err := open(t.Path)
		if err != nil {
			continue // the file is gone since
		}
		err = c.checkFile(f, t.Path)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// checkFile checks the parent in f, named name, as an image of its own.
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
