//go:build linux && !portable

package filesystem

import (
	"os"

	"golang.org/x/sys/unix"
)

// isFUSE reports whether f is on a FUSE file system.
func isFUSE(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && int64(st.Type) == unix.FUSE_SUPER_MAGIC
}
