//go:build !linux || portable

package filesystem

import "os"

// SetNoCOW does nothing: only btrfs has the flag.
func SetNoCOW(*os.File) {}
