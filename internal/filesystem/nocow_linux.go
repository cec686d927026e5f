//go:build linux && !portable

package filesystem

import (
	"os"

	"golang.org/x/sys/unix"
)

// noCOW is the flag of btrfs that turns copy-on-write off.
const noCOW = 0x00800000

// SetNoCOW turns copy-on-write off for an empty file. Like qemu-img it ignores file systems that do
// not support it.
func SetNoCOW(f *os.File) {
	if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|noCOW)
	}
}
