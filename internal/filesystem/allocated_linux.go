//go:build linux && !portable

package filesystem

import (
	"os"

	"golang.org/x/sys/unix"
)

// Allocated returns how many bytes of storage a file has; ok is false if that is not known.
func Allocated(f *os.File) (n int64, ok bool) {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return 0, false
	}
	return st.Blocks * 512, true
}
