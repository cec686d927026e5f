// Package imagelock keeps processes from using one image file at the same time
// when one of them writes to it. It takes the locks that qemu takes on its image
// files, so that qemu and this program refuse what the other one has open.
//
// A lock belongs to the open file, and is gone when that is closed. On systems,
// and file systems, without such locks nothing is locked.
package imagelock

import (
	"errors"
	"os"
	"time"
)

// ErrLocked: another process uses the file.
var ErrLocked = errors.New("another process uses the image")

// Error is an ErrLocked that says what could not be had, in qemu's words.
type Error struct {
	Shared bool   // what others have is not to be shared
	Right  string // "write", "resize" or "consistent read"
}

func (e *Error) Error() string { return ErrLocked.Error() }

// Is reports whether target is ErrLocked.
func (e *Error) Is(target error) bool { return target == ErrLocked }

// patience is how long Lock tries. A process that was just started by another
// one has its open files, and so its locks, for a moment.
const (
	patience = 200 * time.Millisecond
	pause    = 10 * time.Millisecond
)

// Waiting, if not nil, is called instead of each pause of Lock. Tests set it to change
// the file while Lock waits for it.
var Waiting func()

// Lock locks an open image file: against writers, and if it is to be written,
// against all who rely on its contents. It waits for other processes for a moment only.
// They may write to the file until then: measure it after it is locked, not before.
func Lock(f *os.File, write bool) error {
	for start := time.Now(); ; wait() {
		err := lock(f, write)
		if !errors.Is(err, ErrLocked) || time.Since(start) > patience {
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
