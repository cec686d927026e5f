package vhd

import (
	"os"

	"github.com/vhdtool/vhdtool/internal/imagelock"
)

// Lock locks an open image file as qemu does, for the Lock of [disk.OpenOptions] and for
// [disk.OpenFile]. A file has several readers, or one writer. If it is locked, Lock waits
// briefly and then returns ErrLocked. Closing f releases the lock. Only Linux has such locks.
// On other systems, and on file systems without them, Lock does nothing and returns nil.
func Lock(f *os.File, write bool) error { return imagelock.Lock(f, write) }
