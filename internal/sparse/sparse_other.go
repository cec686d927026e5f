//go:build !linux || portable

package sparse

import (
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

func nextData(io.ReaderAt, int64) (start, end int64, ok bool, err error) { return 0, 0, false, nil }

func punch(disk.File, int64, int64) bool { return false }
