//go:build linux && !portable

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/internal/imagelock"
)

// A parent that another process writes to is not checked, with a message and without a
// finding. With -U it is checked.
func TestCheckParentLocked(t *testing.T) {
	dir := t.TempDir()
	parent, child := filepath.Join(dir, "parent.vhd"), filepath.Join(dir, "child.vhd")
	vhdtool := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs bytes.Buffer
		cmd := exec.Command("vhdtool", args...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%q ends with status %d, want %d\n%s%s", args, got, want, &out, &errs)
		}
		return out.String(), errs.String()
	}
	vhdtool(0, "create", "-q", parent, "1M")
	vhdtool(0, "create", "-q", "-b", parent, child)
	f, err := os.OpenFile(parent, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := imagelock.Lock(f, true); err != nil {
		t.Skip(err)
	}
	stdout, stderr := vhdtool(1, "check", child)
	if strings.Contains(stdout, "parent-missing") || !strings.Contains(stderr, parent) || !strings.Contains(stderr, imagelock.ErrLocked.Error()) {
		t.Errorf("check of a child whose parent is locked prints %q and %q", stdout, stderr)
	}
	vhdtool(0, "check", "--no-parents", child)
	vhdtool(0, "check", "-U", child)
}
