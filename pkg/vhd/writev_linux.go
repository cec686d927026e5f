//go:build linux && !portable

package vhd

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// writev writes a, and then b after it, at off, with one request if the file supports that.
func writev(f disk.File, a, b []byte, off int64) error {
	file, ok := f.(*os.File)
	if !ok {
		return writeBoth(f, a, b, off)
	}
	n, err := unix.Pwritev(int(file.Fd()), [][]byte{a, b}, off)
	runtime.KeepAlive(file)
	if err != nil {
		n = 0 // the following writes report the error, with the file's name
	}
	skip := min(n, len(a))
	return writeBoth(f, a[skip:], b[n-skip:], off+int64(n))
}
