package main

import (
	"bytes"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

var codeBlock = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")

// codeBlocks returns the code blocks of a language in the document doc, a path in the
// repository.
func codeBlocks(t *testing.T, doc, language string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", doc))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range codeBlock.FindAllStringSubmatch(string(text), -1) {
		if m[1] == language {
			blocks = append(blocks, m[2])
		}
	}
	return blocks
}

// executedDocs are the documents with shell commands that readers can copy and run.
var executedDocs = []string{
	"README.md",
	"docs/coming-from-qemu-img.md",
	"docs/coming-from-vhd-util.md",
	"docs/options.md",
	"docs/pictures.md",
}

// TestREADMECommands runs the shell commands of each document in order, in an empty directory
// of its own. A block of text in the document is output of these commands.
func TestREADMECommands(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("the commands are for a Unix shell")
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
	for _, doc := range executedDocs {
		t.Run(path.Base(doc), func(t *testing.T) {
			blocks := codeBlocks(t, doc, "sh")
			if len(blocks) == 0 {
				t.Errorf("%s has no block of sh", doc)
			}
			dir := t.TempDir()
			var printed strings.Builder
			for _, block := range blocks {
				name, _, _ := strings.Cut(block, "\n")
				cmd := exec.Command("bash", "-euo", "pipefail", "-c", block)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("block %q: %v\n%s", name, err, out)
				}
				printed.Write(out)
			}
			for _, shown := range codeBlocks(t, doc, "text") {
				if !strings.Contains(printed.String(), shown) {
					t.Errorf("no command prints this output:\n%s", shown)
				}
			}
			if doc == "docs/pictures.md" {
				comparePicture(t, filepath.Join(dir, "worn.svg"), "../../docs/img/worn.svg")
			}
		})
	}
}

// TestShellCommandsAreExecuted finds documents whose shell commands TestREADMECommands
// does not run.
func TestShellCommandsAreExecuted(t *testing.T) {
	for _, doc := range documents(t) {
		if len(codeBlocks(t, doc, "sh")) > 0 && !slices.Contains(executedDocs, doc) {
			t.Errorf("%s has blocks of sh, but is not in executedDocs", doc)
		}
	}
}

// comparePicture compares a picture that a document's commands drew with the one that
// the document shows.
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
		t.Errorf("%s is not what the document's commands draw now (%v): run 'make man'", shown, err)
	}
}

// TestREADMELibrary builds and runs the README's Go program.
func TestREADMELibrary(t *testing.T) {
	t.Parallel()
	programs := codeBlocks(t, "README.md", "go")
	if len(programs) == 0 {
		t.Error("the README has no block of go")
	}
	for _, program := range programs {
		// The directory must be in the module for the import to be found.
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
