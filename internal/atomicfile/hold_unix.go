//go:build unix && !portable

package atomicfile

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// lock locks a temporary file until it is closed, which marks it as in use. It reports
// whether it could.
func lock(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return err == nil, err
}

// hold locks a new file of that name. It reports false if the file has been removed as a
// leftover before. Where files cannot be locked, none is removed.
func hold(f *os.File, name string) bool {
	if locked, err := lock(f); !locked {
		return !errors.Is(err, unix.EWOULDBLOCK)
	}
	return hasName(f, name)
}

func hasName(f *os.File, name string) bool {
	named, err := os.Lstat(name)
	if err != nil {
		return false
	}
	st, err := f.Stat()
	return err == nil && os.SameFile(named, st)
}

// removeLeftover removes a temporary file of that name if its owner is the user and no
// program holds it.
func removeLeftover(name string) {
	f, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || int(sys.Uid) != os.Geteuid() && os.Geteuid() != 0 {
		return
	}
	if locked, _ := lock(f); locked && hasName(f, name) {
		os.Remove(name)
	}
}
