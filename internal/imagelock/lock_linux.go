//go:build linux && !portable

package imagelock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Where qemu's rights are in a file (block/file-posix.c): one byte of each row
// is locked for each right that is used, and for each that is not shared.
const (
	usedBase     = 100
	unsharedBase = 200
)

// The rights, by their number.
const (
	consistentRead = 0
	write          = 1
	resize         = 3
)

var rightNames = [...]string{consistentRead: "consistent read", write: "write", resize: "resize"}

func lock(f *os.File, writing bool) (err error) {
	defer func() {
		if err != nil { // so that two who try at the same time do not hinder each other
			all := unix.Flock_t{Type: unix.F_UNLCK, Whence: unix.SEEK_SET, Start: usedBase, Len: unsharedBase - usedBase + 8}
			_ = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &all)
		}
	}()
	used, unshared := []int64{consistentRead}, []int64{write, resize}
	if writing {
		used = append(used, write, resize)
	}
	// First take, then look: of two who come at the same time at least one sees
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
		if taken(f, unsharedBase+right) {
			return &Error{Right: rightNames[right]}
		}
	}
	for _, right := range unshared {
		if taken(f, usedBase+right) {
			return &Error{Shared: true, Right: rightNames[right]}
		}
	}
	return nil
}

func byteLock(kind int16, at int64) unix.Flock_t {
	return unix.Flock_t{Type: kind, Whence: unix.SEEK_SET, Start: at, Len: 1}
}

// taken reports whether somebody else has a lock on the byte.
func taken(f *os.File, at int64) bool {
	l := byteLock(unix.F_WRLCK, at)
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l)
	return err == nil && l.Type != unix.F_UNLCK
}
