//go:build linux && !portable

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// mayBeClosed reports whether a standard file may have been closed when the program started. Go's
// runtime opens /dev/null for reading and writing in its place. Python and Node do the same for
// children without output. So only a file that must hold a disk is refused.
func mayBeClosed(f *os.File) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return true
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		return false
	}
	mode, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	return err != nil || mode&unix.O_ACCMODE == unix.O_RDWR
}
