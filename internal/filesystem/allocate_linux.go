//go:build linux && !portable

package filesystem

import (
	"os"

	"golang.org/x/sys/unix"
)

// AllocatesSlowly reports whether writes are faster in space that is allocated before. On ext4 they
// are, because it otherwise allocates block by block.
func AllocatesSlowly(f *os.File) bool { return fileSystem(f) == unix.EXT4_SUPER_MAGIC }

// AllocatedAhead returns the number of bytes allocated beyond the written ones, and the offset of
// their end. XFS allocates up to 8 GiB after the last write to a growing file, and keeps them when
// the file continues at another offset.
func AllocatedAhead(f *os.File, written int64) (end, left int64) {
	var st unix.Stat_t
	if fileSystem(f) != unix.XFS_SUPER_MAGIC || unix.Fstat(int(f.Fd()), &st) != nil {
		return 0, 0
	}
	return st.Size + 8<<30, st.Blocks*512 - written
}

// Allocate allocates space for n bytes at off, up to the end of the file unless grow is set.
// It returns how many bytes were allocated: 0 if the file system has less than minFree bytes
// free.
func Allocate(f *os.File, off, n int64, grow bool, minFree int64) int64 {
	var fs unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &fs) != nil || fs.Bavail < uint64(minFree/fs.Bsize) {
		return 0
	}
	mode := uint32(0)
	if !grow {
		st, err := f.Stat()
		if err != nil {
			return 0
		}
		mode, n = unix.FALLOC_FL_KEEP_SIZE, min(n, st.Size()-off)
	}
	if n <= 0 || unix.Fallocate(int(f.Fd()), mode, off, n) != nil {
		return 0
	}
	return n
}

// FreeUnwritten frees unwritten space in the n bytes at off, in runs of at least least bytes.
func FreeUnwritten(f *os.File, off, n, least int64) {
	fd := int(f.Fd())
	for end := off + n; off < end; {
		hole, err := unix.Seek(fd, off, unix.SEEK_HOLE)
		if err != nil || hole >= end {
			return
		}
		data, err := unix.Seek(fd, hole, unix.SEEK_DATA)
		if err != nil { // no such run
			data = end
		}
		data = min(data, end)
		if data-hole >= least && unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, hole, data-hole) != nil {
			return
		}
		off = data
	}
}
