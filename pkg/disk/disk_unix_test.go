//go:build unix

package disk_test

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// TestOpenFIFO: opening a FIFO would wait forever for its other end.
func TestOpenFIFO(t *testing.T) {
	name := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(name, 0o666); err != nil {
		t.Skip(err)
	}
	for _, write := range []bool{false, true} {
		if _, _, err := disk.OpenFile(name, write, nil); err == nil {
			t.Errorf("write=%v: a pipe was opened", write)
		}
	}
}
