//go:build !linux || portable

package imagelock_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/imagelock"
)

// Without locks, two writers can open a file.
func TestNoLocks(t *testing.T) {
	name := filepath.Join(t.TempDir(), "image")
	for range 2 {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := imagelock.Lock(f, true); err != nil {
			t.Error(err)
		}
	}
}
