//go:build !linux || portable

package filesystem

import (
	"errors"
	"os"
)

// CloneRange fails: no storage is shared here.
func CloneRange(*os.File, int64, *os.File, int64, int64) error { return errors.ErrUnsupported }

// CopyRange copies nothing.
func CopyRange(*os.File, int64, *os.File, int64, int64) int64 { return 0 }

// CopiesRemotely reports false.
func CopiesRemotely(*os.File) bool { return false }
