//go:build unix && !portable

package atomicfile

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Create removes only the file that a killed program left, not one that is in use, and no other
// file.
func TestLeftover(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "disk")
	left := func() *File {
		t.Helper()
		f, err := createNamed(target, 0o666)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	killed, running, alsoKilled := left(), left(), left()
	only(t, dir, ".disk.vhdtool-0.tmp", ".disk.vhdtool-1.tmp", ".disk.vhdtool-2.tmp")
	killed.File.Close()
	alsoKilled.File.Close()
	if err := os.Symlink("elsewhere", slotName(target, 3)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(slotName(target, 4), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(slotName(target, 5), 0o666); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, ".other.vhdtool-0.tmp"), "of another target", 0o666)
	if err := start(t, target, "new").Commit(false); err != nil {
		t.Fatal(err)
	}
	only(t, dir, ".disk.vhdtool-1.tmp", ".disk.vhdtool-3.tmp", ".disk.vhdtool-4.tmp", ".disk.vhdtool-5.tmp", ".other.vhdtool-0.tmp", "disk")
	if err := running.Commit(false); err != nil {
		t.Fatal(err)
	}
	only(t, dir, ".disk.vhdtool-3.tmp", ".disk.vhdtool-4.tmp", ".disk.vhdtool-5.tmp", ".other.vhdtool-0.tmp", "disk")
}

// A file that was removed as a leftover, before its program locked it, is not used.
func TestHeld(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !hold(f, name) {
		t.Error("a new file is not held")
	}
	other, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if hold(other, name) {
		t.Error("a file is held twice")
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if hold(f, name) {
		t.Error("a removed file is held")
	}
	put(t, name, "another file", 0o666)
	if hold(f, name) {
		t.Error("a file is held whose name another one has")
	}
}

// There may be more writers of one target than temporary names.
func TestManyWriters(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "disk")
	var all []*File
	for range slots + 3 {
		f, err := createNamed(target, 0o666)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	for _, f := range all {
		if err := f.Commit(false); err != nil {
			t.Fatal(err)
		}
	}
	only(t, dir, "disk")
}

// TestKilled runs this test binary as a program that is killed before it commits.
func TestKilled(t *testing.T) {
	if target := os.Getenv("ATOMICFILE_TEST_KILLED"); target != "" {
		start(t, target, "new")
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	dir := t.TempDir()
	target := filepath.Join(dir, "disk")
	put(t, target, "old", 0o666)
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "ATOMICFILE_TEST_KILLED="+target)
	if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() >= 0 {
		t.Fatalf("the program was not killed: %v", cmd.ProcessState)
	}
	holds(t, target, "old")
	if err := start(t, target, "new").Commit(false); err != nil {
		t.Fatal(err)
	}
	only(t, dir, "disk")
}
