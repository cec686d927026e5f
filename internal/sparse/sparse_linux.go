//go:build linux && !portable

package sparse

import (
	"errors"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// nextData returns the first run of data that ends behind off. start is
// MaxInt64 where only a hole follows. ok is false where the file cannot tell.
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
	if errors.Is(err, unix.ENXIO) { // the file shrank in between
		return math.MaxInt64, math.MaxInt64, true, nil
	}
	return start, end, true, err
}

// isFull reports whether a file on tmpfs has no holes, and its size. That looks for
// the next hole page by page.
func isFull(f *os.File) (size int64, full bool) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(int(f.Fd()), &fs) != nil || uint32(fs.Type) != unix.TMPFS_MAGIC || unix.Fstat(int(f.Fd()), &st) != nil {
		return 0, false
	}
	return st.Size, st.Blocks*512 >= st.Size // it counts nothing but pages of data
}

// punch makes a hole, and reports whether it did.
func punch(file disk.File, off, n int64) bool {
	f, isFile := file.(*os.File)
	if !isFile {
		return false
	}
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n) == nil
}
