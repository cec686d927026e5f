package vhd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

// parentSearch is the search for the parents of one image, the leaf.
type parentSearch struct {
	o     *OpenOptions
	roots []string // the directories that parents may be in, absolute
	seen  []os.FileInfo
	ids   map[uuid.UUID]bool

	opened []string // paths of the opened parents, nearest first
	index  *idIndex // the caller's directories; nil until it is needed
}

// newParentSearch starts the search for the parents of an image in the file f.
func newParentSearch(o *OpenOptions, f *os.File, img *Image) (*parentSearch, error) {
	c := &parentSearch{o: o, ids: map[uuid.UUID]bool{}}
	for _, dir := range append(directoriesOf(f.Name()), o.Parents.Dirs...) {
		if err := c.trust(dir); err != nil {
			return nil, err
		}
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	c.note(st, img.footer.UniqueID)
	return c, nil
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

// trust allows parents in a directory and below it.
func (c *parentSearch) trust(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for _, d := range []string{abs, resolved(abs)} {
		if !slices.Contains(c.roots, d) {
			c.roots = append(c.roots, d)
		}
	}
	return nil
}

// resolved returns a path without symbolic links, or the path itself if its target does not
// exist.
func resolved(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	return path
}

// directoriesOf returns the directory of a file, and if the file is a symbolic link, also the
// directory of its target.
func directoriesOf(name string) []string {
	dir, real := filepath.Dir(name), filepath.Dir(resolved(name))
	if disk.SameFile(dir, real) {
		return []string{dir}
	}
	return []string{dir, real}
}

// note records a level of the chain, so that it is not opened again.
func (c *parentSearch) note(st os.FileInfo, id uuid.UUID) {
	c.seen = append(c.seen, st)
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
			e.Tried = append(e.Tried, TriedParent{path, withoutPath(err)})
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
		if err := c.trust(filepath.Dir(file)); err != nil {
			return err
		}
		f, size, err := disk.OpenFile(file, false, c.lock)
		if try(file, f, size, err) {
			return nil
		}
		return e
	}
	for _, p := range c.candidates(&level.parentRecord, directoriesOf(name)) {
		f, size, err := (*os.File)(nil), int64(0), p.refused
		if err == nil {
			f, size, err = c.open(p.path)
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
		f, size, err := c.open(path)
		if try(path, f, size, err) {
			return nil
		}
	}
	if len(paths) == 0 {
		e.Tried = append(e.Tried, looked...)
	}
	return e
}

// withoutPath removes the path from an error that is reported with its path.
func withoutPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// lock is the [disk.LockFunc] for files that may be a parent. It refuses files that are in the
// chain already, which may be locked for writing.
func (c *parentSearch) lock(f *os.File, write bool) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	for _, s := range c.seen {
		if os.SameFile(s, st) {
			return ErrParentLoop
		}
	}
	if c.o.NoLock {
		return nil
	}
	return Lock(f, write)
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
		c.note(st, uuid.Nil)
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
	c.note(st, id)
	return img, nil
}

// open opens, locks and measures a regular file that an image names as its parent. The file
// must be in a trusted directory.
func (c *parentSearch) open(path string) (*os.File, int64, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, 0, err
	}
	// A symbolic link with an absolute path is not followed below a directory, but its target
	// may be in a trusted directory, too.
	real := resolved(abs)
	for _, path := range []string{abs, real} {
		for _, root := range c.roots {
			rel, err := filepath.Rel(root, path)
			if err != nil || !filepath.IsLocal(rel) {
				continue
			}
			f, size, err := c.openIn(root, rel)
			if err == nil || path == real {
				return f, size, err
			}
		}
	}
	st, err := os.Stat(abs)
	if err != nil {
		return nil, 0, err
	}
	switch real := filepath.ToSlash(real); {
	case !c.o.Parents.Trust:
		return nil, 0, ErrParentRefused
	case strings.HasPrefix(real, "//"):
		return nil, 0, errNetworkPath
	case strings.HasPrefix(real, "/proc/"), strings.HasPrefix(real, "/sys/"), strings.HasPrefix(real, "/dev/"), !st.Mode().IsRegular():
		return nil, 0, errSpecialPath
	}
	return disk.OpenFile(abs, false, c.lock)
}

// openIn opens, locks and measures a regular file below a directory. It follows symbolic links
// only within the directory.
func (c *parentSearch) openIn(root, rel string) (*os.File, int64, error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, 0, err
	}
	defer dir.Close()
	return openRegular(dir, rel, c.lock)
}

// openRegular opens, locks and measures a regular file in a directory or below it.
func openRegular(dir *os.Root, rel string, lock disk.LockFunc) (*os.File, int64, error) {
	st, err := dir.Stat(rel) // opening a pipe would wait for its other end
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, errSpecialPath
	}
	f, err := dir.Open(rel)
	if err != nil {
		return nil, 0, err
	}
	size, err := disk.LockAndMeasure(f, false, lock)
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
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
