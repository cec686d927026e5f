package main

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	docLink = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`) // not to the web
	docPath = regexp.MustCompile("`((?:cmd|pkg|internal|docs|scripts|tools|api|examples|testdata)/[\\w./*-]+)`")
)

// TestDocs: what the documents link to, and the files that they name, exist.
func TestDocs(t *testing.T) {
	root := os.DirFS("../..")
	var docs []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md", "testdata/*.md"} {
		found, err := fs.Glob(root, pattern)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, found...)
	}
	for _, doc := range docs {
		b, err := fs.ReadFile(root, doc)
		if err != nil {
			t.Fatal(err)
		}
		text := codeBlock.ReplaceAllString(string(b), "")
		for _, m := range docLink.FindAllStringSubmatch(text, -1) {
			if _, err := fs.Stat(root, path.Join(path.Dir(doc), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", doc, m[1], err)
			}
		}
		for _, m := range docPath.FindAllStringSubmatch(text, -1) {
			if found, err := fs.Glob(root, strings.TrimSuffix(m[1], "/")); err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which is not there (%v)", doc, m[1], err)
			}
		}
	}
	index, err := fs.ReadFile(root, "docs/decisions/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range docs {
		if name := filepath.Base(doc); strings.HasPrefix(doc, "docs/decisions/") && name != "README.md" && !strings.Contains(string(index), "("+name+")") {
			t.Errorf("docs/decisions/README.md does not list %s", name)
		}
	}
}
