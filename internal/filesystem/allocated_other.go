//go:build !linux || portable

package filesystem

import "os"

// Allocated returns false: nothing is known.
func Allocated(*os.File) (n int64, ok bool) { return 0, false }
