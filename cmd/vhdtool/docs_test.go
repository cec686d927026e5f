package main

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

var (
	docLink    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	docHeading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	docPath    = regexp.MustCompile("`((?:cmd|pkg|internal|docs|scripts|tools|api|examples|testdata)/[\\w./*-]+)`")
)

// documents returns the paths of all Markdown files in the repository.
func documents(t *testing.T) []string {
	t.Helper()
	var docs []string
	err := fs.WalkDir(os.DirFS("../.."), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (name == ".git" || name == "bin" || name == "dist" || strings.HasPrefix(path.Base(name), "readme-")) {
			return fs.SkipDir
		}
		if path.Ext(name) == ".md" {
			docs = append(docs, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

// TestDocs: files and headings that documents link to exist.
func TestDocs(t *testing.T) {
	root := os.DirFS("../..")
	docs := documents(t)
	for _, doc := range docs {
		text := withoutCode(t, root, doc)
		for _, m := range docLink.FindAllStringSubmatch(text, -1) {
			if fault := brokenLink(t, root, doc, m[1]); fault != "" {
				t.Errorf("%s links to %s: %s", doc, m[1], fault)
			}
		}
		for _, m := range docPath.FindAllStringSubmatch(text, -1) {
			if found, err := fs.Glob(root, strings.TrimSuffix(m[1], "/")); err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which does not exist (%v)", doc, m[1], err)
			}
		}
	}
	index := withoutCode(t, root, "docs/decisions/README.md")
	for _, doc := range docs {
		if name := path.Base(doc); strings.HasPrefix(doc, "docs/decisions/") && name != "README.md" && !strings.Contains(index, "("+name+")") {
			t.Errorf("docs/decisions/README.md does not list %s", name)
		}
	}
}

// withoutCode returns the text of a document without its code blocks.
func withoutCode(t *testing.T, root fs.FS, doc string) string {
	t.Helper()
	b, err := fs.ReadFile(root, doc)
	if err != nil {
		t.Fatal(err)
	}
	return codeBlock.ReplaceAllString(string(b), "")
}

// brokenLink returns the fault of a link in doc to target, or "" if the link is right or
// leads to the web.
func brokenLink(t *testing.T, root fs.FS, doc, target string) string {
	if strings.Contains(target, "://") {
		return ""
	}
	name, anchor, hasAnchor := strings.Cut(target, "#")
	linked := doc
	if name != "" {
		linked = path.Join(path.Dir(doc), name)
	}
	if _, err := fs.Stat(root, linked); err != nil {
		return err.Error()
	}
	if !hasAnchor {
		return ""
	}
	for _, m := range docHeading.FindAllStringSubmatch(withoutCode(t, root, linked), -1) {
		if headingAnchor(m[1]) == anchor {
			return ""
		}
	}
	return linked + " has no such heading"
}

// headingAnchor returns the anchor that GitHub gives a heading: lower case, without
// punctuation, and with a hyphen for each space.
func headingAnchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

func TestBrokenLink(t *testing.T) {
	root := os.DirFS("../..")
	for target, broken := range map[string]bool{
		"reliability.md":                  false,
		"reliability.md#check-and-repair": false,
		"#pkgvhd":                         false,
		"https://example.com/x.md#y":      false,
		"nosuch.md":                       true,
		"reliability.md#nosuch":           true,
		"../docs/decisions":               false,
	} {
		if fault := brokenLink(t, root, "docs/architecture.md", target); (fault != "") != broken {
			t.Errorf("link to %s: got %q, want broken: %v", target, fault, broken)
		}
	}
}
