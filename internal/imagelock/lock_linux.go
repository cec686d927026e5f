//go:build linux && !portable

package imagelock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// qemu locks bytes of the image (block/file-posix.c): from usedBase on, one for each right that
// it uses, and from unsharedBase on, one for each right that it does not share.
const (
	usedBase     = 100
	unsharedBase = 200
)

// Numbers of the rights.
const (
	consistentRead = 0
	write          = 1
	resize         = 3
)

var rightNames = [...]string{consistentRead: "consistent read", write: "write", resize: "resize"}

func lock(f *os.File, writing bool) (err error) {
	defer func() {
		if err != nil { // release partial locks, which would hinder other processes
			all := unix.Flock_t{Type: unix.F_UNLCK, Whence: unix.SEEK_SET, Start: usedBase, Len: unsharedBase - usedBase + 8}
			_ = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &all)
		}
	}()
	used, unshared := []int64{consistentRead}, []int64{write, resize}
	if writing {
		used = append(used, write, resize)
	}
	// Lock first, then test: if two processes do so at the same time, at least one detects
	// the other.
	for _, row := range []struct {
		base   int64
		rights []int64
	}{{usedBase, used}, {unsharedBase, unshared}} {
		for _, right := range row.rights {
			l := byteLock(unix.F_RDLCK, row.base+right)
			if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l); err != nil {
				if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
					return &Error{Right: rightNames[right]}
				}
				return nil // a file system without locks
			}
		}
	}
	for _, right := range used {
		if lockedByOther(f, unsharedBase+right) {
			return &Error{Right: rightNames[right]}
		}
	}
	for _, right := range unshared {
		if lockedByOther(f, usedBase+right) {
			return &Error{Shared: true, Right: rightNames[right]}
		}
	}
	return nil
}

func byteLock(kind int16, at int64) unix.Flock_t {
	return unix.Flock_t{Type: kind, Whence: unix.SEEK_SET, Start: at, Len: 1}
}

// lockedByOther reports whether another open file has a lock on the byte.
func lockedByOther(f *os.File, at int64) bool {
	l := byteLock(unix.F_WRLCK, at)
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l)
	return err == nil && l.Type != unix.F_UNLCK
}
