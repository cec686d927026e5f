// Package parentfile opens the files that an image names: its parents and its data file. Their
// paths are text from the image, so only regular files in trusted directories are opened. The
// caller can permit other directories.
package parentfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// ErrLoop: the file is in the chain already.
var ErrLoop = errors.New("the image is among its own parents")

// The reasons why a path from an image is not followed.
var (
	// ErrRefused: the path leads out of the trusted directories.
	ErrRefused = errors.New("not followed: the path leads out of the image's directory")
	// ErrNetwork: the path leads to another machine.
	ErrNetwork = errors.New("not followed: a path to another machine")
	// ErrSpecial: the file is not a regular file.
	ErrSpecial = errors.New("not followed: not a regular file")
)

// Opener opens files for reading by paths that images name. It is for one goroutine.
type Opener struct {
	// Anywhere permits regular files in all directories. Paths to other machines and devices are
	// still refused.
	Anywhere bool
	// Lock locks each file before it is measured; nil locks nothing.
	Lock disk.LockFunc

	roots []string // absolute
	chain []os.FileInfo
}

// Start trusts the directories of the image in f and those of the caller. The image becomes the
// first file of the chain.
func (o *Opener) Start(f *os.File, dirs []string) error {
	for _, dir := range append(Dirs(f.Name()), dirs...) {
		if err := o.Trust(dir); err != nil {
			return err
		}
	}
	st, err := f.Stat()
	if err == nil {
		o.Note(st)
	}
	return err
}

// Note adds a file to the chain, so that it is not opened again.
func (o *Opener) Note(st os.FileInfo) { o.chain = append(o.chain, st) }

// Has reports whether a file is in the chain.
func (o *Opener) Has(st os.FileInfo) bool {
	return slices.ContainsFunc(o.chain, func(seen os.FileInfo) bool { return os.SameFile(seen, st) })
}

// lock is the [disk.LockFunc] of all files. It refuses those of the chain, which may be locked for
// writing.
func (o *Opener) lock(f *os.File, write bool) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if o.Has(st) {
		return ErrLoop
	}
	if o.Lock == nil {
		return nil
	}
	return o.Lock(f, write)
}

// OpenNamed opens, locks and measures a file that the caller names, in any directory. The caller
// closes the file. The errors are ErrLoop, and those of the file system and of Lock.
func (o *Opener) OpenNamed(path string) (*os.File, int64, error) {
	return disk.OpenFile(path, false, o.lock)
}

// Trust permits files in a directory and below it.
func (o *Opener) Trust(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for _, d := range []string{abs, Resolve(abs)} {
		if !slices.Contains(o.roots, d) {
			o.roots = append(o.roots, d)
		}
	}
	return nil
}

// Resolve returns a path without symbolic links, or the path itself if its target does not exist.
func Resolve(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	return path
}

// Dirs returns the directory of a file, and if the file is a symbolic link, also the directory of
// its target.
func Dirs(name string) []string {
	dir, real := filepath.Dir(name), filepath.Dir(Resolve(name))
	if disk.SameFile(dir, real) {
		return []string{dir}
	}
	return []string{dir, real}
}

// Open opens, locks and measures a regular file in a trusted directory. The caller closes the file.
// The errors are ErrLoop, ErrRefused, ErrNetwork, ErrSpecial, and those of the file system and of
// Lock.
func (o *Opener) Open(path string) (*os.File, int64, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, 0, err
	}
	// A symbolic link with an absolute path is not followed below a directory, but its target
	// may be in a trusted directory, too.
	real := Resolve(abs)
	for _, path := range []string{abs, real} {
		for _, root := range o.roots {
			rel, err := filepath.Rel(root, path)
			if err != nil || !filepath.IsLocal(rel) {
				continue
			}
			f, size, err := o.openBelow(root, rel)
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
	case !o.Anywhere:
		return nil, 0, ErrRefused
	case strings.HasPrefix(real, "//"):
		return nil, 0, ErrNetwork
	case strings.HasPrefix(real, "/proc/"), strings.HasPrefix(real, "/sys/"), strings.HasPrefix(real, "/dev/"), !st.Mode().IsRegular():
		return nil, 0, ErrSpecial
	}
	return o.OpenNamed(abs)
}

// openBelow is OpenRegular in the directory root.
func (o *Opener) openBelow(root, rel string) (*os.File, int64, error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, 0, err
	}
	defer dir.Close()
	return OpenRegular(dir, rel, o.lock)
}

// OpenRegular opens, locks and measures a regular file in a directory or below it. It follows
// symbolic links only within the directory. The caller closes the file.
func OpenRegular(dir *os.Root, rel string, lock disk.LockFunc) (*os.File, int64, error) {
	st, err := dir.Stat(rel) // opening a pipe would wait for its other end
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, ErrSpecial
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

// Reason removes the path from an error that is reported with its path.
func Reason(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
