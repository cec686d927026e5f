//go:build !unix || portable

package atomicfile

import (
	"os"
	"runtime"
)

// hold does nothing: here, an open file cannot be removed, or no leftovers are.
func hold(*os.File, string) bool { return true }

// removeLeftover removes the temporary file of that name, if it is not open. Windows removes no
// open file.
func removeLeftover(name string) {
	if runtime.GOOS == "windows" {
		os.Remove(name)
	}
}
