package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

var codeBlock = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")

// readmeBlocks returns the README's code blocks of a language.
func readmeBlocks(t *testing.T, language string) []string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range codeBlock.FindAllStringSubmatch(string(text), -1) {
		if m[1] == language {
			blocks = append(blocks, m[2])
		}
	}
	if len(blocks) == 0 {
		t.Fatalf("the README has no block of %s", language)
	}
	return blocks
}

// TestREADMECommands runs the shell commands of the README, in their order and
// in one empty folder, as a reader would.
func TestREADMECommands(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("the README's commands are for a Unix shell")
	}
	for _, need := range []string{"bash", "truncate", "gzip", "cmp"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Skipf("%s is not installed", need)
		}
	}
	bin := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, "vhdtool"), ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	dir := t.TempDir()
	for _, block := range readmeBlocks(t, "sh") {
		name, _, _ := strings.Cut(block, "\n")
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", block)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("block %q: %v\n%s", name, err, out)
		}
	}
	comparePicture(t, filepath.Join(dir, "worn.svg"), "../../docs/img/worn.svg")
}

// comparePicture compares a picture that the README's commands have made with the
// one it shows.
func comparePicture(t *testing.T, made, shown string) {
	t.Helper()
	got, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if *updateMan {
		if err := os.WriteFile(shown, got, 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want, err := os.ReadFile(shown); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what the README's commands draw now (%v): run 'make man'", shown, err)
	}
}

// TestREADMELibrary builds and runs the README's Go program.
func TestREADMELibrary(t *testing.T) {
	t.Parallel()
	for _, program := range readmeBlocks(t, "go") {
		// The folder must be in the module for the import to be found.
		dir, err := os.MkdirTemp("../../testdata", "readme-*")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o666); err != nil {
			t.Fatal(err)
		}
		exe := filepath.Join(t.TempDir(), "example.exe")
		if out, err := exec.Command("go", "build", "-o", exe, "./"+filepath.ToSlash(dir)).CombinedOutput(); err != nil {
			t.Fatalf("go build: %v: %s", err, out)
		}
		run := exec.Command(exe)
		run.Dir = t.TempDir()
		out, err := run.CombinedOutput()
		if want := "vpc, 10485760 bytes: hello\n"; err != nil || string(out) != want {
			t.Errorf("got %q, %v; want %q", out, err, want)
		}
	}
}
