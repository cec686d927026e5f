//go:build linux && !portable

package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

// startUnnamed is start for an unnamed file. It skips the test if there are none.
func startUnnamed(t *testing.T, name, contents string) *File {
	t.Helper()
	f := start(t, name, contents)
	if f.temp != "" {
		f.Discard()
		t.Skip("the file system has no files without a name")
	}
	return f
}

// Before Commit the directory is empty. Commit creates or replaces the target.
func TestUnnamed(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "disk")
	f := startUnnamed(t, name, "first")
	only(t, dir)
	if err := f.Commit(true); err != nil {
		t.Fatal(err)
	}
	holds(t, name, "first")
	f = startUnnamed(t, name, "second")
	only(t, dir, "disk")
	if err := f.Commit(false); err != nil {
		t.Fatal(err)
	}
	holds(t, name, "second")
	only(t, dir, "disk")
	startUnnamed(t, name, "third").Discard()
	holds(t, name, "second")
}

// Commit replaces a file that another program has created meanwhile.
func TestUnnamedAndOther(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "disk")
	f := startUnnamed(t, name, "mine")
	put(t, name, "another program's", 0o666)
	if err := f.Commit(false); err != nil {
		t.Fatal(err)
	}
	holds(t, name, "mine")
	only(t, dir, "disk")
}

// Closing a file before Commit loses nothing. Closing it before Discard still removes it.
func TestUnnamedClosed(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "disk")
	f := startUnnamed(t, name, "new")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	only(t, dir, ".disk.vhdtool-0.tmp")
	if err := f.Commit(false); err != nil {
		t.Fatal(err)
	}
	holds(t, name, "new")
	f = startUnnamed(t, name, "newer")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f.Discard()
	holds(t, name, "new")
	only(t, dir, "disk")
}

// TestErrorsNameTarget: errors of an unnamed file name the target.
func TestErrorsNameTarget(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	f := startUnnamed(t, name, "")
	defer f.Discard()
	if got := f.Name(); got != name {
		t.Errorf("the file is called %q, want %q", got, name)
	}
	if _, err := os.Lstat(name); err == nil {
		t.Error("the target is there before Commit")
	}
}
