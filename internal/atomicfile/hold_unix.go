//go:build unix && !portable

package atomicfile

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// lock locks a temporary file until it is closed, which marks it as used. It reports success.
func lock(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return err == nil, err
}

// hold locks a new file of that name. It returns false if another program has removed the file as a
// leftover. If files cannot be locked, none is removed.
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

// removeLeftover removes the temporary file of that name, if the user owns it and no program holds
// it.
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
