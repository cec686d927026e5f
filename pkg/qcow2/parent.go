package qcow2

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vhdtool/vhdtool/internal/parentfile"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

// MaxParents is the number of parents that an image can have, one after the other.
const MaxParents = 256

var (
	// ErrParentNotFound: none of the paths that were tried leads to the parent.
	ErrParentNotFound = errors.New("the parent was not found")
	// ErrParentLoop: the image is among its own parents.
	ErrParentLoop = parentfile.ErrLoop

	errTooDeep = fmt.Errorf("%w: an image with more than %d parents", ErrUnsupported, MaxParents)
)

// ParentError says why the parent of an image could not be opened.
type ParentError struct {
	// Opened are the paths of the parents that could be opened, nearest first. The missing
	// one is the parent of the last of them, or of the image itself.
	Opened   []string
	Recorded string // path of the missing parent as its child records it
	Tried    []TriedParent
}

// TriedParent is a path that was tried, and why no parent was opened there.
type TriedParent struct {
	Path string
	Err  error
}

func (e *ParentError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the parent %s", strconv.Quote(e.Recorded))
	if n := len(e.Opened); n > 0 {
		fmt.Fprintf(&b, " of %s", strconv.Quote(e.Opened[n-1]))
	}
	b.WriteString(" could not be opened")
	sep := ": "
	for _, t := range e.Tried {
		fmt.Fprintf(&b, "%s%s: %v", sep, strconv.Quote(t.Path), t.Err)
		sep = "; "
	}
	return b.String()
}

// Unwrap returns [ErrParentNotFound] and the reasons.
func (e *ParentError) Unwrap() []error {
	errs := []error{ErrParentNotFound}
	for _, t := range e.Tried {
		errs = append(errs, t.Err)
	}
	return errs
}

// fileSearch opens the files that one image and its parents name.
type fileSearch struct {
	o      *OpenOptions
	files  parentfile.Opener
	opened []string
}

func newFileSearch(o *OpenOptions) *fileSearch {
	s := &fileSearch{o: o}
	s.files = parentfile.Opener{Anywhere: o.Parents.Trust, Lock: o.lock()}
	return s
}

// openParents opens the parents of an image in the file name. With an error it returns the
// image whose parent could not be opened.
func (s *fileSearch) openParents(img *Image, name string) (last *Image, err error) {
	for level := img; level.header.BackingFile != ""; {
		if len(s.opened) == MaxParents {
			return level, errTooDeep
		}
		if err := s.openParent(level, name); err != nil {
			return level, err
		}
		name = level.parentPath
		next, ok := level.parent.(*Image)
		if !ok {
			break
		}
		level = next
	}
	return nil, nil
}

// openParent opens the parent of one level, which is in the file name.
func (s *fileSearch) openParent(level *Image, name string) error {
	recorded := level.header.BackingFile
	e := &ParentError{Recorded: recorded, Opened: slices.Clone(s.opened)}
	try := func(path string, f *os.File, size int64, err error) bool {
		var parent disk.Disk
		if err == nil {
			if parent, err = s.examine(f, size, level.header.BackingFormat); err != nil {
				f.Close()
			}
		}
		if err != nil {
			e.Tried = append(e.Tried, TriedParent{path, parentfile.Reason(err)})
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
	paths, err := s.candidates(recorded, name)
	if err != nil {
		e.Tried = []TriedParent{{recorded, err}}
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

// candidates lists where a file may be that the image in the file name records. An image
// has no id by which a file could be recognised. Only the directories that the caller names are
// searched for the last part of the path.
func (s *fileSearch) candidates(recorded, name string) ([]string, error) {
	path := strings.TrimPrefix(recorded, "file:")
	if strings.ContainsRune(path, 0) {
		return nil, errors.New("a path with a zero byte")
	}
	if i := strings.IndexAny(path, ":/"); i > 0 && path[i] == ':' && filepath.VolumeName(filepath.FromSlash(path)) == "" {
		return nil, fmt.Errorf("%w: %s: is not a file", ErrUnsupported, path[:i])
	}
	path = filepath.FromSlash(path)
	var list []string
	add := func(p string) {
		if p = filepath.Clean(p); !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	if filepath.IsAbs(path) {
		add(path)
	} else {
		for _, dir := range append(parentfile.Dirs(name), s.o.Parents.Dirs...) {
			add(filepath.Join(dir, path))
		}
	}
	for _, dir := range s.o.Parents.Dirs {
		add(filepath.Join(dir, filepath.Base(path)))
	}
	return list, nil
}

// examine opens a parent in a locked file, which is closed with it. The parents of a qcow2
// parent are not opened.
func (s *fileSearch) examine(f *os.File, size int64, format string) (disk.Disk, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	as, err := s.parentFormat(f, size, format)
	if err != nil {
		return nil, err
	}
	var d disk.Disk
	if as == nil {
		var img *Image
		o := &OpenOptions{Closer: f}
		if img, err = openAlone(f, size, o); err == nil && img.header.HasDataFile() {
			err = img.openDataFile(s, f, o)
		}
		d = img
	} else {
		o := &disk.OpenOptions{Closer: f, Formats: s.o.Formats, Parents: disk.ParentSearch{Dirs: s.o.Parents.Dirs, Trust: s.o.Parents.Trust}}
		if lock := s.o.lock(); lock != nil {
			o.Lock = lock
		}
		d, err = as.Open(f, size, o)
	}
	if err != nil {
		return nil, err
	}
	s.files.Note(st)
	return d, nil
}

// parentFormat is the format of a parent whose child records the format name; nil means
// this package's.
func (s *fileSearch) parentFormat(f *os.File, size int64, name string) (*disk.Format, error) {
	if name == formatName || name == "" && Probe(f, size) == nil {
		return nil, nil
	}
	formats := s.o.Formats
	if len(formats) == 0 {
		formats = disk.Formats{&raw.Format}
	}
	if name != "" {
		return formats.ByName(name)
	}
	return formats.Probe(f, size)
}

// openDataFile opens the external data file of an image in the file f, which is nil if the
// image is not in a file.
func (img *Image) openDataFile(s *fileSearch, f *os.File, o *OpenOptions) error {
	fail := func(path string, err error) error {
		return fmt.Errorf("external data file %s: %w", strconv.Quote(path), parentfile.Reason(err))
	}
	set := func(data *os.File, size int64) error {
		st, err := data.Stat()
		if err != nil {
			data.Close()
			return err
		}
		s.files.Note(st)
		img.data, img.dataLength, img.dataCloser = data, size, data
		return nil
	}
	img.data, img.dataLength = nil, 0
	if o.DataFile != "" {
		data, size, err := s.files.OpenNamed(o.DataFile)
		if err != nil {
			return fail(o.DataFile, err)
		}
		return set(data, size)
	}
	recorded := img.header.DataFile
	switch {
	case recorded == "":
		return fail(recorded, errors.New("the image records no path to it"))
	case f == nil:
		return fail(recorded, errors.New("the image is not in a file"))
	}
	paths, err := s.candidates(recorded, f.Name())
	if err != nil {
		return fail(recorded, err)
	}
	for _, path := range paths {
		data, size, oerr := s.files.Open(path)
		if oerr == nil {
			return set(data, size)
		}
		if err == nil {
			err = fail(path, oerr)
		}
	}
	return err
}
