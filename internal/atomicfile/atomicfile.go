// Package atomicfile writes a file next to its target, and renames it to the target when it is
// complete. If anything fails before, the target is unchanged.
//
// If the file system supports it, the file has no name until then, and a killed program leaves
// no file. Otherwise it has a temporary name, and the next Create of the same target removes
// the file that a killed program left.
//
// It is not renameio. That package always flushes, and does not build on Windows. Flushing is
// left to the caller, as in cp.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Flushing, if set, is called with each directory before it is flushed. It is for tests, which
// have no other way to observe the flush.
var Flushing func(dir string)

// File is a file that will replace its target.
type File struct {
	*os.File
	target  string
	temp    string // name of the file before Commit; "" if it has none
	inPlace error  // why the file is the target itself; nil if it replaces the target
	done    bool
}

// Create starts a file that will replace the named one, or the file that a symbolic link of that
// name points to. It gets the owner, permissions, access control list and extended attributes of
// the replaced file. Without one it gets those of any new file.
//
// If the target can be written but not replaced, or its owner could not be kept, Create opens it by
// [InPlace]. File.InPlace then returns the reason.
func Create(name string) (*File, error) {
	target := follow(name)
	old, err := os.Stat(target)
	if err != nil {
		f, err := create(target, 0o666)
		if err != nil {
			return nil, forName(name, err)
		}
		return f, nil
	}
	if !old.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "replace", Path: name, Err: errors.New("not a regular file")}
	}
	// A file that must not be written must not be replaced either.
	w, err := os.OpenFile(target, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) {
		w, err = os.OpenFile(target, os.O_WRONLY, 0)
	}
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if reason := cannotReplace(target, old); reason != nil {
		return InPlace(name, reason)
	}
	f, err := create(target, old.Mode().Perm())
	if isRefused(err) {
		return InPlace(name, fmt.Errorf("no file can be created in its directory: %w", cause(err)))
	}
	if err != nil {
		return nil, forName(name, err)
	}
	if err := takeAttributes(f.File, w, old); err != nil {
		f.Discard()
		if isRefused(err) {
			return InPlace(name, fmt.Errorf("its owner cannot be kept: %w", cause(err)))
		}
		return nil, forName(name, err)
	}
	return f, nil
}

// InPlace opens the named regular file to write it in place. The file is emptied at once, and
// Discard leaves it empty. File.InPlace returns reason.
func InPlace(name string, reason error) (*File, error) {
	target := follow(name)
	f, err := os.OpenFile(target, os.O_RDWR|os.O_TRUNC, 0)
	if err != nil {
		return nil, forName(name, err)
	}
	return &File{File: f, target: target, inPlace: reason}, nil
}

// InPlace returns why the file is written in place. It is nil if the file is renamed when it
// is complete.
func (f *File) InPlace() error { return f.inPlace }

// forName replaces the temporary name in an error by the requested one.
func forName(name string, err error) error {
	return &fs.PathError{Op: "create", Path: name, Err: cause(err)}
}

// cause returns an error without its path.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// isRefused reports whether the system allows writing a file, but not the tried operation.
func isRefused(err error) bool {
	return errors.Is(err, fs.ErrPermission) || isReadOnly(err)
}

// follow returns the file that a name refers to, through symbolic links. The file need not exist.
func follow(name string) string {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		return real
	}
	for range 40 { // Linux's limit
		link, err := os.Readlink(name)
		if err != nil {
			break
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(filepath.Dir(name), link)
		}
		name = link
	}
	return name
}

// Commit closes the file, if it is still open, and renames it to the target. durable also flushes
// the directory, so that the name survives a power cut. The caller flushes the contents. After an
// error the target is unchanged, and the new file is removed.
func (f *File) Commit(durable bool) error {
	if f.done {
		return fs.ErrClosed
	}
	f.done = true
	if f.inPlace != nil {
		return f.closeOnce() // the caller has flushed it
	}
	named := false
	var err error
	if f.temp == "" {
		named, err = f.takeTarget()
	}
	if cerr := f.closeOnce(); err == nil {
		err = cerr
	}
	if err == nil && !named {
		err = os.Rename(f.temp, f.target)
	}
	if err != nil {
		f.removeTemp()
		if named {
			os.Remove(f.target) // it did not exist before
		}
		return err
	}
	if durable {
		dir := filepath.Dir(f.target)
		if Flushing != nil {
			Flushing(dir)
		}
		return syncDir(dir)
	}
	return nil
}

// Discard closes and removes the file. A file written in place is emptied, so that an incomplete
// one is not used. After Commit it does nothing.
func (f *File) Discard() {
	if f.done {
		return
	}
	f.done = true
	f.File.Close()
	if f.inPlace != nil {
		_ = os.Truncate(f.target, 0)
		return
	}
	f.removeTemp()
}

// Close closes the file without replacing the target; call Commit for that.
func (f *File) Close() error {
	if f.temp == "" && f.inPlace == nil && !f.done {
		if err := f.takeTemp(); err != nil && !errors.Is(err, fs.ErrClosed) {
			return err
		}
	}
	return f.File.Close()
}

// closeOnce is Close, also for a file that is closed already.
func (f *File) closeOnce() error {
	if err := f.File.Close(); !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return nil
}

func (f *File) removeTemp() {
	if f.temp != "" {
		os.Remove(f.temp)
	}
}
