//go:build linux && !portable

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// nullDevice is the device number of /dev/null.
var nullDevice = unix.Mkdev(1, 3)

// opened is what can be seen of an open file. They are equal for standard files that were
// closed when the program started.
type opened struct {
	null bool // /dev/null
	mode int  // O_RDWR and the like, and O_CLOEXEC as given to open
}

func openedAs(fd int) opened {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return opened{}
	}
	mode, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return opened{}
	}
	return opened{st.Rdev == nullDevice, mode & (unix.O_ACCMODE | unix.O_CLOEXEC)}
}

// placeholder is what Go's runtime opens for a standard file that is closed.
var placeholder = opened{null: true, mode: unix.O_RDWR}

// isClosedInput reports whether stdin was closed when the program started.
func isClosedInput(f *os.File) bool { return openedAs(int(f.Fd())) == placeholder }

// isClosedOutput reports whether stdout was closed when the program started. Some programs
// open /dev/null as the runtime does, for a child whose output they do not want: Node for
// stdout and stderr, daemons for all three. Those are not taken for closed.
func isClosedOutput(f *os.File) bool {
	return openedAs(int(f.Fd())) == placeholder && openedAs(int(os.Stderr.Fd())) != placeholder
}
