package vhd

import (
	"os"

	"github.com/vhdtool/vhdtool/internal/imagelock"
)

// Lock locks an open image file as qemu does, for the Lock of [disk.OpenOptions] and
// for [disk.OpenFile]: a file has several readers, or one writer. It waits for a moment,
// and then returns ErrLocked. The lock ends when f is closed. Only Linux has such locks;
// elsewhere, and on file systems without them, Lock does nothing and returns nil.
func Lock(f *os.File, write bool) error { return imagelock.Lock(f, write) }
