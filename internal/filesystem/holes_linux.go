//go:build linux && !portable

package filesystem

import (
	"errors"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// nextData returns the first run of data that ends after off. start is MaxInt64 if only a hole
// follows. ok is false if the file's holes are not known.
func nextData(file io.ReaderAt, off int64) (start, end int64, ok bool, err error) {
	f, isFile := file.(*os.File)
	if !isFile {
		return 0, 0, false, nil
	}
	start, err = f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return math.MaxInt64, math.MaxInt64, true, nil
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
		return 0, 0, false, nil // a block device, or a file system without the call
	}
	if err != nil {
		return 0, 0, false, err
	}
	if start == off {
		if size, full := isFull(f); full && size > off {
			return off, size, true, nil
		}
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // the file was truncated meanwhile
		return math.MaxInt64, math.MaxInt64, true, nil
	}
	return start, end, true, err
}

// isFull reports whether a file on tmpfs has no holes, and its size. tmpfs searches for a hole page
// by page, which is slow.
func isFull(f *os.File) (size int64, full bool) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(int(f.Fd()), &fs) != nil || uint32(fs.Type) != unix.TMPFS_MAGIC || unix.Fstat(int(f.Fd()), &st) != nil {
		return 0, false
	}
	return st.Size, st.Blocks*512 >= st.Size // counts only pages of data
}

// punch makes a hole, and reports success.
func punch(file disk.File, off, n int64) bool {
	return fallocate(file, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// zeroRange zeroes a range that keeps its storage, and reports success.
func zeroRange(file disk.File, off, n int64) bool {
	return fallocate(file, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func fallocate(file disk.File, mode uint32, off, n int64) bool {
	f, isFile := file.(*os.File)
	return isFile && unix.Fallocate(int(f.Fd()), mode, off, n) == nil
}

func reserved(file disk.File) bool {
	f, isFile := file.(*os.File)
	var st unix.Stat_t
	return isFile && unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG &&
		st.Size > 0 && st.Blocks*512 >= st.Size
}

// reserve allocates storage for [off, off+n). If the file system cannot, the error is
// [errors.ErrUnsupported].
func reserve(f *os.File, off, n int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, off, n)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
