//go:build !linux || portable

package filesystem

import (
	"errors"
	"io"
	"os"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

func nextData(io.ReaderAt, int64) (start, end int64, ok bool, err error) { return 0, 0, false, nil }

func punch(disk.File, int64, int64) bool { return false }

func zeroRange(disk.File, int64, int64) bool { return false }

func reserved(disk.File) bool { return false }

func reserve(*os.File, int64, int64) error { return errors.ErrUnsupported }
