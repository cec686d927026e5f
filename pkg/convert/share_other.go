//go:build !linux || portable

package convert

import (
	"errors"
	"os"
)

func cloneRange(*os.File, int64, *os.File, int64, int64) error { return errors.ErrUnsupported }

func copyRange(*os.File, int64, *os.File, int64, int64) int64 { return 0 }

func copiesRemotely(*os.File) bool { return false }
