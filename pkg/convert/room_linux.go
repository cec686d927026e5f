//go:build linux && !portable

package convert

import (
	"os"

	"golang.org/x/sys/unix"
)

// takesRoom reports whether writing into a file is faster where room was taken
// before: in ext4, which else looks for room block by block.
func takesRoom(f *os.File) bool { return fileSystem(f) == unix.EXT4_SUPER_MAGIC }

// leftRoom returns how much room the file system has taken beyond the bytes written, and
// where it ends: XFS takes up to 8 GiB behind what is written at the end of a file, and
// leaves them there when the file goes on elsewhere.
func leftRoom(f *os.File, written int64) (end, left int64) {
	var st unix.Stat_t
	if fileSystem(f) != unix.XFS_SUPER_MAGIC || unix.Fstat(int(f.Fd()), &st) != nil {
		return 0, 0
	}
	return st.Size + 8<<30, st.Blocks*512 - written
}

// takeRoom takes room for n bytes at off, as far as the file goes if it is not to grow,
// and returns for how many it did: none where there is not plenty.
func takeRoom(f *os.File, off, n int64, grow bool) int64 {
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

// giveBack gives back what was not written of n bytes at off, in pieces of least bytes or
// more. The file system counts it as holes.
func giveBack(f *os.File, off, n, least int64) {
	fd := int(f.Fd())
	for end := off + n; off < end; {
		hole, err := unix.Seek(fd, off, unix.SEEK_HOLE)
		if err != nil || hole >= end {
			return
		}
		data, err := unix.Seek(fd, hole, unix.SEEK_DATA)
		if err != nil { // there is none
			data = end
		}
		data = min(data, end)
		if data-hole >= least && unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, hole, data-hole) != nil {
			return
		}
		off = data
	}
}
