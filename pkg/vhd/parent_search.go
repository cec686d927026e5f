package vhd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"
	"github.com/vhdtool/vhdtool/internal/parentfile"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

// parentSearch is the search for the parents of one image, the leaf.
type parentSearch struct {
	o     *OpenOptions
	files parentfile.Opener
	ids   map[uuid.UUID]bool

	opened []string // paths of the opened parents, nearest first
	index  *idIndex // the caller's directories; nil until it is needed
}

// newParentSearch starts the search for the parents of an image in the file f.
func newParentSearch(o *OpenOptions, f *os.File, img *Image) (*parentSearch, error) {
	c := &parentSearch{o: o, ids: map[uuid.UUID]bool{}}
	c.files.Anywhere = o.Parents.Trust
	if !o.NoLock {
		c.files.Lock = Lock
	}
	c.noteID(img.footer.UniqueID)
	return c, c.files.Start(f, o.Parents.Dirs)
}

// openParents searches for all parents of a differencing image in a file, and opens them. With
// an error it returns the image whose parent could not be opened; the parents before that one
// stay open.
func (img *Image) openParents(o *OpenOptions) (last *Image, err error) {
	f, ok := imageFile(img.r)
	if !ok {
		return img, &ParentError{ID: img.header.ParentID, Kind: ErrParentNotFound}
	}
	c, err := newParentSearch(o, f, img)
	if err != nil {
		return img, err
	}
	level, name := img, f.Name()
	for depth := 0; level.footer.Type == Differencing; depth++ {
		switch {
		case depth == MaxParents:
			err = errTooDeep
		case level.parentErr != nil: // the parent record is lost
			err = level.parentErr
		default:
			err = c.openParent(level, name)
		}
		if err != nil {
			return level, err
		}
		next, ok := level.parent.(*Image)
		if !ok {
			break
		}
		level, name = next, level.parentPath
	}
	return nil, nil
}

// noteID records the unique id of a level of the chain.
func (c *parentSearch) noteID(id uuid.UUID) {
	if id != uuid.Nil {
		c.ids[id] = true
	}
}

// givenFile returns the file that the caller names as the next parent, or "".
func (c *parentSearch) givenFile() string {
	if depth := len(c.opened); depth < len(c.o.Parents.Files) {
		return c.o.Parents.Files[depth]
	}
	return ""
}

// openParent finds and opens the parent of one level, which is in the named file. It is called
// for the leaf first, and then for each parent that it opened.
func (c *parentSearch) openParent(level *Image, name string) error {
	e := &ParentError{ID: level.header.ParentID, Kind: ErrParentNotFound, Opened: slices.Clone(c.opened)}
	try := func(path string, f *os.File, size int64, err error) bool {
		var parent disk.Disk
		if err == nil {
			if parent, err = c.examine(f, size, level); err != nil {
				f.Close()
			}
		}
		if err != nil {
			e.Tried = append(e.Tried, TriedParent{path, parentfile.Reason(err)})
			switch {
			case errors.Is(err, ErrParentLoop):
				e.Kind = ErrParentLoop
			case errors.Is(err, ErrParentMismatch) && e.Kind == ErrParentNotFound:
				e.Kind = ErrParentMismatch
			}
			return false
		}
		level.parent, level.parentPath = parent, path
		c.opened = append(c.opened, path)
		return true
	}
	if file := c.givenFile(); file != "" {
		if err := c.files.Trust(filepath.Dir(file)); err != nil {
			return err
		}
		f, size, err := c.files.OpenNamed(file)
		if try(file, f, size, err) {
			return nil
		}
		return e
	}
	for _, p := range c.candidates(&level.parentRecord, parentfile.Dirs(name)) {
		f, size, err := (*os.File)(nil), int64(0), p.refused
		if err == nil {
			f, size, err = c.files.Open(p.path)
		}
		if try(p.path, f, size, err) {
			return nil
		}
	}
	paths, looked := c.withID(e.ID)
	if len(paths) == 0 && e.ID != uuid.Nil { // a commit may have been interrupted
		paths, looked = c.withID(level.idAfterCommit(e.ID))
	}
	if len(paths) > 1 {
		e.Kind = ErrParentAmbiguous
		for _, path := range paths {
			e.Tried = append(e.Tried, TriedParent{path, errSameID})
		}
		return e
	}
	for _, path := range paths {
		f, size, err := c.files.Open(path)
		if try(path, f, size, err) {
			return nil
		}
	}
	if len(paths) == 0 {
		e.Tried = append(e.Tried, looked...)
	}
	return e
}

// examine opens a possible parent of a level: a locked file of size bytes, which is closed with
// the disk.
func (c *parentSearch) examine(f *os.File, size int64, level *Image) (disk.Disk, error) {
	want := level.header.ParentID
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if want == uuid.Nil {
		c.files.Note(st)
		return raw.Format.Open(f, size, &disk.OpenOptions{Closer: f})
	}
	o := &OpenOptions{
		IgnoreChecksums: c.o.IgnoreChecksums, SizeRule: c.o.SizeRule, Parents: disk.ParentSearch{None: true}, tolerateBAT: c.o.tolerateBAT,
		Closer: f, Salvage: c.o.Salvage,
	}
	img, err := NewImage(f, size, o)
	if err == nil && img.encrypted() {
		err = errEncrypted
	}
	if err == nil && level.size > img.size && uint64(level.size) <= img.footer.CurrentSize {
		// The program that made the child may have used another field for the parent's size.
		o.SizeRule = SizeFromCurrent
		img, err = NewImage(f, size, o)
	}
	if err != nil {
		return nil, err
	}
	id := img.footer.UniqueID
	switch {
	case !level.isParentID(id):
		return nil, fmt.Errorf("%w: %w", ErrParentMismatch, mismatch(id))
	case c.ids[id]:
		return nil, fmt.Errorf("%w: an image nearer to it has this unique id, too", ErrParentLoop)
	}
	c.files.Note(st)
	c.noteID(id)
	return img, nil
}

// imageFile returns the file that an image is in, for the search for its parents. A reader that
// overlays a file with changes has a method Below() io.ReaderAt, which returns the file.
func imageFile(r io.ReaderAt) (*os.File, bool) {
	if x, ok := r.(interface{ Below() io.ReaderAt }); ok {
		r = x.Below()
	}
	f, ok := r.(*os.File)
	return f, ok
}
