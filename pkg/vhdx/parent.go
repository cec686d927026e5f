package vhdx

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/internal/parentfile"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// MaxParents is the number of parents that an image can have, one after the other.
const MaxParents = 256

// RecordedParent implements [disk.Child].
func (img *Image) RecordedParent() (path string, ok bool) {
	if !img.s.meta.HasParent {
		return "", false
	}
	if paths := img.s.locator.Paths(); len(paths) > 0 {
		path = paths[0]
	}
	return path, true
}

// Parent implements [disk.Child]. The parent is an *Image.
func (img *Image) Parent() disk.Disk {
	if img.parent == nil {
		return nil // not img.parent: a nil *Image is not a nil disk.Disk
	}
	return img.parent
}

// ParentPath implements [disk.Child].
func (img *Image) ParentPath() string { return img.parentPath }

// ParentErr implements [disk.Child].
func (img *Image) ParentErr() error { return img.parentErr }

// ParentFindings implements [disk.Child]. It lists parents with another sector size, whose
// contents the child cannot use.
func (img *Image) ParentFindings() []disk.Finding {
	var found []disk.Finding
	path := ""
	for level := img; level.parent != nil; level = level.parent {
		if got, want := level.parent.LogicalSectorSize(), level.LogicalSectorSize(); got != want {
			f := newFinding("parent-sector-size", disk.Warning, 0, "metadata: logical sector size of the parent", fmt.Sprint(want), "%d", got)
			f.File = path
			found = append(found, f.Finding)
		}
		path = level.parentPath
	}
	return found
}

// parentSearch is the search for the parents of one image.
type parentSearch struct {
	o      *OpenOptions
	files  parentfile.Opener
	ids    map[uuid.UUID]bool // data write GUIDs of the chain
	opened []string           // paths of the parents, nearest first
	byID   map[uuid.UUID][]string
}

// openParents opens all parents of a differencing image. With an error it returns the image whose
// parent could not be opened. The parents before that one stay open.
func (img *Image) openParents(o *OpenOptions) (last *Image, err error) {
	f, ok := img.file.(*os.File)
	if !ok {
		return img, &ParentError{ID: img.s.locator.Linkage, Kind: ErrParentNotFound}
	}
	s := &parentSearch{o: o, ids: map[uuid.UUID]bool{img.s.header.DataWriteGUID: true}}
	s.files.Anywhere = o.Parents.Trust
	if !o.NoLock {
		s.files.Lock = imagelock.Lock
	}
	if err := s.files.Start(f, o.Parents.Dirs); err != nil {
		return img, err
	}
	for level, name := img, f.Name(); level.s.meta.HasParent; level, name = level.parent, level.parentPath {
		if len(s.opened) == MaxParents {
			return level, errTooDeep
		}
		if err := s.openParent(level, name); err != nil {
			return level, err
		}
	}
	return nil, nil
}

// openParent opens the parent of one level, which is in the file name.
func (s *parentSearch) openParent(level *Image, name string) error {
	e := &ParentError{ID: level.s.locator.Linkage, Kind: ErrParentNotFound, Opened: slices.Clone(s.opened)}
	try := func(path string, f *os.File, size int64, err error) bool {
		var parent *Image
		if err == nil {
			if parent, err = s.examine(f, size, level); err != nil {
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
		s.opened = append(s.opened, path)
		return true
	}
	if depth := len(s.opened); depth < len(s.o.Parents.Files) && s.o.Parents.Files[depth] != "" {
		file := s.o.Parents.Files[depth]
		if err := s.files.Trust(filepath.Dir(file)); err != nil {
			return err
		}
		f, size, err := s.files.OpenNamed(file)
		if try(file, f, size, err) {
			return nil
		}
		return e
	}
	for _, c := range s.candidates(&level.s.locator, name) {
		if c.refused != nil {
			e.Tried = append(e.Tried, TriedParent{c.path, c.refused})
			continue
		}
		f, size, err := s.files.Open(c.path)
		if try(c.path, f, size, err) {
			return nil
		}
	}
	paths := s.withID(&level.s.locator)
	if len(paths) > 1 {
		e.Kind = ErrParentAmbiguous
		for _, path := range paths {
			e.Tried = append(e.Tried, TriedParent{path, errors.New("it has this data write GUID")})
		}
		return e
	}
	for _, path := range paths {
		f, size, err := s.files.Open(path)
		if try(path, f, size, err) {
			return nil
		}
	}
	return e
}

// examine opens a possible parent of a level, in a locked file that is closed with it.
func (s *parentSearch) examine(f *os.File, size int64, level *Image) (*Image, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	img, err := openAlone(f, size)
	if err != nil {
		return nil, err
	}
	id := img.s.header.DataWriteGUID
	switch {
	case !level.s.locator.accepts(id):
		return nil, fmt.Errorf("%w: it is %v", ErrParentMismatch, id)
	case s.ids[id]:
		return nil, fmt.Errorf("%w: an image nearer to it has this data write GUID, too", ErrParentLoop)
	}
	s.files.Note(st)
	s.ids[id] = true
	img.closer = f
	return img, nil
}

// candidate is a path where a parent may be, or a text that cannot be a path on this system.
type candidate struct {
	path    string
	refused error
}

// candidates lists where the parent of the image in the file name may be: at the recorded paths,
// and by their last parts in the directories of the search.
func (s *parentSearch) candidates(l *ParentLocator, name string) []candidate {
	var list []candidate
	add := func(path string, refused error) {
		if refused == nil {
			path = filepath.Clean(path)
		}
		if !slices.ContainsFunc(list, func(c candidate) bool { return c.path == path }) {
			list = append(list, candidate{path, refused})
		}
	}
	dirs := append(parentfile.Dirs(name), s.o.Parents.Dirs...)
	for _, text := range l.Paths() {
		path, err := localPath(text)
		switch {
		case err != nil:
			add(text, err)
		case filepath.IsAbs(path):
			add(path, nil)
		default:
			for _, d := range dirs {
				add(filepath.Join(d, path), nil)
			}
		}
	}
	if base := l.name(); base != "" && !strings.ContainsRune(base, 0) {
		for _, d := range dirs {
			add(filepath.Join(d, base), nil)
		}
	}
	return list
}

// localPath reads a recorded path as a path of this system.
func localPath(text string) (string, error) {
	path := strings.ReplaceAll(text, `\`, "/")
	switch {
	case strings.HasPrefix(path, "//?/") || len(path) >= 2 && path[1] == ':' && runtime.GOOS != "windows":
		return "", errDrivePath
	case strings.HasPrefix(path, "//"):
		return "", parentfile.ErrNetwork
	}
	return filepath.FromSlash(path), nil
}

// maxIndexed is the number of files that a search by GUID examines in one directory.
const maxIndexed = 4096

// withID returns the files in the directories of the caller that the locator accepts.
func (s *parentSearch) withID(l *ParentLocator) []string {
	if s.byID == nil {
		s.byID = map[uuid.UUID][]string{}
		for _, dir := range s.o.Parents.Dirs {
			s.indexDir(dir)
		}
	}
	paths := slices.Clone(s.byID[l.Linkage])
	if l.Linkage2 != uuid.Nil && l.Linkage2 != l.Linkage {
		paths = append(paths, s.byID[l.Linkage2]...)
	}
	return paths
}

// indexDir records the data write GUIDs of the images in a directory. It skips unreadable files.
func (s *parentSearch) indexDir(dir string) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return
	}
	defer root.Close()
	d, err := root.Open(".")
	if err != nil {
		return
	}
	defer d.Close()
	names, err := d.Readdirnames(maxIndexed)
	if err != nil && !errors.Is(err, io.EOF) {
		return
	}
	slices.Sort(names)
	for _, name := range names {
		f, size, err := parentfile.OpenRegular(root, name, nil)
		if err != nil {
			continue
		}
		if Probe(f, size) == nil {
			if h, _, err := readHeaders(f, size); err == nil && h.best >= 0 {
				id := h.current().DataWriteGUID
				s.byID[id] = append(s.byID[id], filepath.Join(dir, name))
			}
		}
		f.Close()
	}
}
