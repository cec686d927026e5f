//go:build linux && !portable

package vhd_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// A parent is not read while another process writes to it.
func TestParentLocked(t *testing.T) {
	dir := t.TempDir()
	child, parent := filepath.Join(dir, "a.vhd"), filepath.Join(dir, "b.vhd")
	_, right := parentDisk(1)
	tree(t, dir, map[string][]byte{"a.vhd": childOf(parentID, "", path{code: "W2ru", text: wide("b.vhd")}), "b.vhd": right})
	f, err := os.OpenFile(parent, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	if err := imagelock.Lock(f, true); err != nil {
		t.Skip(err)
	}
	if _, err := vhd.Open(child, nil); !errors.Is(err, vhd.ErrLocked) {
		t.Errorf("%v; want ErrLocked", err)
	}
	img, err := vhd.Open(child, &vhd.OpenOptions{NoLock: true})
	must(t, err)
	img.Close()
}
