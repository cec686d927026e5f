//go:build !linux || portable

package filesystem

import "os"

// AllocatesSlowly reports false.
func AllocatesSlowly(*os.File) bool { return false }

// AllocatedAhead returns 0: nothing is known.
func AllocatedAhead(*os.File, int64) (end, left int64) { return 0, 0 }

// Allocate allocates nothing.
func Allocate(*os.File, int64, int64, bool, int64) int64 { return 0 }

// FreeUnwritten does nothing.
func FreeUnwritten(*os.File, int64, int64, int64) {}
