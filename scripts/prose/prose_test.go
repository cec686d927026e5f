package main

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestCheckText checks the files of testdata/findings.txt, the last of which has the
// findings.
func TestCheckText(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/findings.txt")
	if err != nil {
		t.Fatal(err)
	}
	last := len(archive.Files) - 1
	var got strings.Builder
	for _, file := range archive.Files[:last] {
		source := string(file.Data)
		for _, f := range checkText(source, passagesOf(file.Name, source)) {
			fmt.Fprintf(&got, "%s:%s\n", file.Name, f)
		}
	}
	if diff := cmp.Diff(string(archive.Files[last].Data), got.String()); diff != "" {
		t.Errorf("findings differ (-want +got):\n%s", diff)
	}
}

func TestOutputOfTestscriptIsNotChecked(t *testing.T) {
	passages := passagesOf("a.txtar", "# One.\nexec x\n-- out --\n# Two.\n")
	if len(passages) != 1 || strings.TrimSpace(passages[0].text) != "One." {
		t.Errorf("got %+v, want the comment of the script only", passages)
	}
}

func TestOutputOfExampleIsNotChecked(t *testing.T) {
	passages := passagesOf("a.go", "package a\n\nfunc f() {\n\t// Output:\n\t// One.\n}\n\n// Two.\nvar x int\n")
	var got []string
	for _, p := range passages {
		got = append(got, strings.TrimSpace(p.text))
	}
	if text := strings.TrimSpace(strings.Join(got, "")); text != "Two." {
		t.Errorf("got %q, want the last comment only", text)
	}
}

// Extracted text keeps its line and column, so that other checkers report them right.
func TestPassagesKeepPositions(t *testing.T) {
	for name, source := range map[string]string{
		"a.go": "package a\n\n// One.\n// Two.\nvar x = \"three words here\" // Four.\n",
		"a.md": "# One\n\nTwo `code` [three](four.md).\n\n| five | six |\n|---|---|\n",
		"a.sh": "true # one\n# two\necho \"three four\"\n",
	} {
		for _, p := range passagesOf(name, source) {
			for i := range p.text {
				if c := p.text[i]; c != ' ' && c != '_' && c != source[p.offset+i] {
					t.Errorf("%s: byte %d is %q, want %q", name, p.offset+i, c, source[p.offset+i])
				}
			}
		}
	}
}

func TestTextFiles(t *testing.T) {
	root := fstest.MapFS{}
	for _, name := range []string{"README.md", "pkg/raw/raw.go", "pkg/raw/raw_test.go", "docs/man/x.md", ".git/x.md", "x.png", "Makefile"} {
		root[name] = &fstest.MapFile{}
	}
	got, err := textFiles(root, ".", []string{"docs/man", ".git", "pkg/raw/*_test.go"})
	if want := "Makefile README.md pkg/raw/raw.go"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if got, err := textFiles(root, "docs", nil); err != nil || strings.Join(got, " ") != "docs/man/x.md" {
		t.Errorf("got %q, %v; want the file in docs", got, err)
	}
}
