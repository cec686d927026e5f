// Package imagelock prevents processes from using an image file while one of them writes to it.
// It uses the locks of qemu, so that qemu and this program respect each other.
//
// A lock belongs to the open file and ends when that is closed. On systems and file systems
// without such locks, nothing is locked.
package imagelock

import (
	"errors"
	"os"
	"time"
)

// ErrLocked reports that another process uses the file.
var ErrLocked = errors.New("another process uses the image")

// Error is an ErrLocked that names the conflicting right in the terms of qemu.
type Error struct {
	Shared bool   // another process uses the right, and this one would not share it
	Right  string // "write", "resize" or "consistent read"
}

func (e *Error) Error() string { return ErrLocked.Error() }

// Is reports whether target is ErrLocked.
func (e *Error) Is(target error) bool { return target == ErrLocked }

// maxWait is how long Lock waits for another process. A process that starts another one passes
// its open files, and so its locks, on for a moment.
const (
	maxWait = 200 * time.Millisecond
	pause   = 10 * time.Millisecond
)

// Waiting, if not nil, replaces each pause of Lock. Tests use it to change the file while Lock
// waits.
var Waiting func()

// Lock locks an open image file against writers. If write is set, it also locks the file
// against readers. It waits only briefly for other processes, which may write to the file until
// then. So read the length of the file after Lock, not before.
func Lock(f *os.File, write bool) error {
	for start := time.Now(); ; wait() {
		err := lock(f, write)
		if !errors.Is(err, ErrLocked) || time.Since(start) > maxWait {
			return err
		}
	}
}

func wait() {
	if Waiting != nil {
		Waiting()
		return
	}
	time.Sleep(pause)
}
