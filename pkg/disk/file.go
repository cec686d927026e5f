package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// File is the storage of an image that is written. An [os.File] is one. Other types also have a
// method Size() (int64, error), which [FileSize] calls. Images do not close a File; its opener
// does.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Truncate sets the length in bytes.
	Truncate(size int64) error
	// Sync returns when everything written before it survives a power failure.
	Sync() error
}

// FileSize returns the length in bytes of a file or block device: an [os.File], or a value with
// a method Size() (int64, error) or Size() int64.
func FileSize(f any) (int64, error) {
	switch f := f.(type) {
	case *os.File:
		st, err := f.Stat()
		if err != nil {
			return 0, err
		}
		if st.Mode().IsRegular() {
			return st.Size(), nil
		}
		return f.Seek(0, io.SeekEnd) // block devices have no size in Stat
	case interface{ Size() (int64, error) }:
		return f.Size()
	case interface{ Size() int64 }:
		return f.Size(), nil
	}
	return 0, fmt.Errorf("%T has no size: want an *os.File or a Size method", f)
}

// IsDevice reports whether the length of f is fixed: f is an [os.File] other than a regular
// file, or its method FixedLength() bool returns true.
func IsDevice(f any) bool {
	switch f := f.(type) {
	case *os.File:
		st, err := f.Stat()
		return err == nil && !st.Mode().IsRegular()
	case interface{ FixedLength() bool }:
		return f.FixedLength()
	}
	return false
}

// LockFunc locks an open image file against writes by other processes, and if write is set also
// against reads. The lock ends when f is closed. LockFunc may wait for another process, which
// may change the file until then.
type LockFunc = func(f *os.File, write bool) error

// OpenFile opens a regular file or a block device, locks it, and then reads its length in
// bytes. A nil lock means no lock. It refuses files without random access, such as directories
// and pipes. The caller closes the file.
//
// System errors are an *[fs.PathError]. Errors of lock are returned unchanged.
func OpenFile(name string, write bool, lock LockFunc) (f *os.File, size int64, err error) {
	// Check before opening: opening a FIFO would wait for its other end.
	st, err := os.Stat(name)
	if err != nil {
		return nil, 0, err
	}
	refuse := func(err error) error { return &fs.PathError{Op: "open", Path: name, Err: err} }
	switch {
	case st.IsDir():
		return nil, 0, refuse(errors.New("is a directory, want a regular file or a block device"))
	case st.Mode()&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeCharDevice) != 0:
		return nil, 0, refuse(fmt.Errorf("cannot be read at random (mode %v), want a regular file or a block device", st.Mode()))
	}
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	f, err = os.OpenFile(name, flag, 0)
	if err != nil {
		return nil, 0, err
	}
	size, err = LockAndMeasure(f, write, lock)
	if err == nil && size == 0 && !st.Mode().IsRegular() {
		err = refuse(errors.New("a device whose size is 0 or unknown"))
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

// LockAndMeasure locks an open file and then returns its length in bytes. The order matters:
// another process may append until the file is locked. A nil lock means no lock.
func LockAndMeasure(f *os.File, write bool, lock LockFunc) (int64, error) {
	if lock != nil {
		if err := lock(f, write); err != nil {
			return 0, err
		}
	}
	return FileSize(f)
}

// SameFile reports whether two names refer to the same existing file. "" refers to none.
func SameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
