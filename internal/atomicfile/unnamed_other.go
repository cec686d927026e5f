//go:build !linux || portable

package atomicfile

import (
	"errors"
	"io/fs"
	"os"
)

// createUnnamed returns nil: every file has a name here.
func createUnnamed(string, fs.FileMode) *os.File { return nil }

func linkUnnamed(*os.File, string) error { return errors.ErrUnsupported }
