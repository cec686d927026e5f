//go:build !unix || portable

package atomicfile

import (
	"os"
	"runtime"
)

// hold does nothing: an open file cannot be removed here, or none is.
func hold(*os.File, string) bool { return true }

// removeLeftover removes a temporary file of that name unless a program has it open, which
// Windows refuses.
func removeLeftover(name string) {
	if runtime.GOOS == "windows" {
		os.Remove(name)
	}
}
