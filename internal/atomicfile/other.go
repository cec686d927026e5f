//go:build !unix || portable

package atomicfile

import (
	"errors"
	"os"
)

// syncDir does nothing: a directory cannot be flushed here.
func syncDir(string) error { return nil }

// isReadOnly returns false: such an error is one of permission here.
func isReadOnly(error) bool { return false }

// takeAttributes sets the permissions of f to those of old, the file to replace. Files have no
// numeric owner here.
func takeAttributes(f, _ *os.File, old os.FileInfo) error {
	if err := f.Chmod(old.Mode().Perm()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// cannotReplace returns nil: no reason is known here.
func cannotReplace(string, os.FileInfo) error { return nil }

// Links returns 1: links are not counted here.
func Links(os.FileInfo) uint64 { return 1 }

// LoopDevice returns "": there are no loop devices here.
func LoopDevice(os.FileInfo) string { return "" }
