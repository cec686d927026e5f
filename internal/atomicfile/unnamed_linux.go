//go:build linux && !portable

package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// createUnnamed creates a file without a name in the directory of the target. It returns nil if
// that is not possible, or if the file could not get a name later. Errors name the target.
func createUnnamed(target string, perm fs.FileMode) *os.File {
	// A second file tests whether the file system links unnamed files, because a file can be linked
	// only once.
	probe := openUnnamed(target, perm)
	if probe == nil {
		return nil
	}
	file := &File{File: probe, target: target}
	err := file.takeTemp()
	file.Discard()
	if err != nil {
		return nil
	}
	return openUnnamed(target, perm)
}

// openUnnamed creates a locked file without a name, or returns nil.
func openUnnamed(target string, perm fs.FileMode) *os.File {
	fd, err := unix.Open(filepath.Dir(target), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, uint32(perm.Perm()))
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Open(filepath.Dir(target), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, uint32(perm.Perm()))
	}
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), target)
	if locked, _ := lock(f); !locked {
		f.Close()
		return nil
	}
	return f
}

// linkUnnamed gives an unnamed file a name that does not exist yet.
func linkUnnamed(f *os.File, name string) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var linked error
	err = conn.Control(func(fd uintptr) {
		linked = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
	})
	if err == nil && linked != nil {
		err = &fs.PathError{Op: "link", Path: name, Err: linked}
	}
	return err
}
