//go:build linux && !portable

package filesystem

import (
	"os"

	"golang.org/x/sys/unix"
)

// CloneRange makes n bytes of dst share the storage of src. It fails if the file system cannot
// share, or if an offset is not a multiple of its block size.
func CloneRange(dst *os.File, dstOff int64, src *os.File, srcOff, n int64) error {
	return unix.IoctlFileCloneRange(int(dst.Fd()), &unix.FileCloneRange{
		Src_fd: int64(src.Fd()), Src_offset: uint64(srcOff), Src_length: uint64(n), Dest_offset: uint64(dstOff),
	})
}

// CopyRange copies n bytes from src to dst in the kernel, or on the server that has both.
// It returns how many were copied.
func CopyRange(dst *os.File, dstOff int64, src *os.File, srcOff, n int64) int64 {
	done := int64(0)
	for done < n {
		from, to := srcOff+done, dstOff+done
		k, err := unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(min(n-done, 1<<30)), 0)
		if err != nil || k <= 0 {
			break
		}
		done += int64(k)
	}
	return done
}

// fileSystem returns the magic number of the file system that a file is on, or 0 if it is not
// known.
func fileSystem(f *os.File) uint32 {
	var fs unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &fs) != nil {
		return 0
	}
	return uint32(fs.Type)
}

// CopiesRemotely reports whether a file is on a file system whose server copies ranges.
func CopiesRemotely(f *os.File) bool {
	switch fileSystem(f) {
	case unix.NFS_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC:
		return true
	}
	return false
}
