//go:build !unix || portable

package atomicfile

import (
	"errors"
	"os"
)

// syncDir does nothing: there is no flushing a directory here.
func syncDir(string) error { return nil }

// isReadOnly reports nothing: the error is one of permission.
func isReadOnly(error) bool { return false }

// takeAttributes gives f the permissions of the file old that it replaces. Files have no
// numbered owners here.
func takeAttributes(f, _ *os.File, old os.FileInfo) error {
	if err := f.Chmod(old.Mode().Perm()); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// cannotReplace knows no reason.
func cannotReplace(string, os.FileInfo) error { return nil }

// Links returns 1: links are not counted here.
func Links(os.FileInfo) uint64 { return 1 }

// LoopDevice returns "": there are no loop devices here.
func LoopDevice(os.FileInfo) string { return "" }
