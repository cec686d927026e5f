package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestMakeInstall installs into a temporary directory, uses the installed files, and removes them.
func TestMakeInstall(t *testing.T) {
	if testing.Short() || runtime.GOOS == "windows" {
		t.Skip("it builds the program with make")
	}
	for _, need := range []string{"make", "bash", "install"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Skipf("%s is not installed", need)
		}
	}
	dest := t.TempDir()
	run := func(target string) {
		t.Helper()
		// A strict umask must not affect the modes.
		cmd := exec.Command("bash", "-c", `umask 077; exec make -C ../.. "$@"`, "make", target, "DESTDIR="+dest, "PREFIX=/opt/vhd", "VERSION=v1.2.3")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
	}
	run("install")
	want := []string{
		"bin/vhdtool",
		"share/bash-completion/completions/vhdtool",
		"share/fish/vendor_completions.d/vhdtool.fish",
		"share/zsh/site-functions/_vhdtool",
	}
	for name := range readManPages(t) {
		want = append(want, "share/man/man"+filepath.Ext(name)[1:]+"/"+name)
	}
	slices.Sort(want)
	if got := installedFiles(t, filepath.Join(dest, "opt/vhd")); !slices.Equal(got, want) {
		t.Errorf("make install installs %q, want %q", got, want)
	}
	out, err := exec.Command(filepath.Join(dest, "opt/vhd/bin/vhdtool"), "--version").Output()
	if err != nil || !strings.HasPrefix(string(out), "vhdtool version v1.2.3 ") {
		t.Errorf("--version prints %q, %v", out, err)
	}
	complete := exec.Command("bash", "-c", "source "+filepath.Join(dest, "opt/vhd/share/bash-completion/completions/vhdtool")+" && declare -F __start_vhdtool")
	if out, err := complete.CombinedOutput(); err != nil {
		t.Errorf("the completion of bash: %v\n%s", err, out)
	}
	run("uninstall")
	if left := installedFiles(t, dest); len(left) > 0 {
		t.Errorf("make uninstall leaves %q", left)
	}
}

// installedFiles lists the files below a directory. All files must be readable for everybody, and
// all directories accessible.
func installedFiles(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		want := os.FileMode(0o644)
		if d.IsDir() || strings.HasPrefix(rel, "bin/") {
			want = 0o755
		}
		if st.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", rel, st.Mode().Perm(), want)
		}
		if !d.IsDir() {
			names = append(names, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
