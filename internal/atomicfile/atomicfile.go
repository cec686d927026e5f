// Package atomicfile writes a file beside its target and gives it the target's
// name when it is complete, so that whatever fails before leaves the target as
// it was.
//
// It is not renameio: that package always flushes, which the copying of
// images leaves to the caller as cp does, and it does not build on Windows.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// Flushing, if set, is told of each directory before it is flushed. It is for tests:
// nothing else shows that a directory was.
var Flushing func(dir string)

// File is a file on its way to become the target.
type File struct {
	*os.File
	target string
	done   bool
}

// Create starts a file that will replace the named one, or the one that the
// name is a symbolic link to. It has the permissions of the file it replaces,
// else those of any new file.
func Create(name string) (*File, error) {
	target := follow(name)
	perm := fs.FileMode(0o666)
	old, err := os.Stat(target)
	exists := err == nil
	if exists {
		if !old.Mode().IsRegular() {
			return nil, &fs.PathError{Op: "replace", Path: name, Err: errors.New("not a regular file")}
		}
		// A file that may not be written may not be replaced either.
		w, err := os.OpenFile(target, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		w.Close()
		perm = old.Mode().Perm()
	}
	f, err := create(target, perm)
	if err != nil {
		// The error speaks of the name that was asked for, not of the passing one.
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = &fs.PathError{Op: "create", Path: name, Err: pe.Err}
		}
		return nil, err
	}
	if exists {
		keepOwner(f, old)
		if err := f.Chmod(perm); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			f.Close()
			os.Remove(f.Name())
			return nil, err
		}
	}
	return &File{File: f, target: target}, nil
}

// follow returns what a name stands for, through symbolic links, even if there
// is nothing of that name yet.
func follow(name string) string {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		return real
	}
	for range 40 { // as many as Linux follows
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

func create(target string, perm fs.FileMode) (*os.File, error) {
	dir, base := filepath.Split(target)
	if len(base) > 200 {
		base = strings.ToValidUTF8(base[:200], "")
	}
	for try := 0; ; try++ {
		name := fmt.Sprintf("%s.%s.%08x.tmp", dir, base, rand.Uint32())
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
		if err == nil || !errors.Is(err, fs.ErrExist) || try == 100 {
			return f, err
		}
	}
}

// Commit closes the file, if it is still open, and gives it the target's name.
// Durable flushes the directory too, so that the name survives a power cut;
// the file's contents are the caller's to flush. After an error the target is
// as it was, and the new file is gone.
func (f *File) Commit(durable bool) error {
	if f.done {
		return fs.ErrClosed
	}
	f.done = true
	err := f.Close()
	if errors.Is(err, fs.ErrClosed) {
		err = nil
	}
	if err == nil {
		err = os.Rename(f.Name(), f.target)
	}
	if err != nil {
		os.Remove(f.Name())
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

// Discard closes and removes the file. After Commit it does nothing.
func (f *File) Discard() {
	if f.done {
		return
	}
	f.done = true
	f.Close()
	os.Remove(f.Name())
}
