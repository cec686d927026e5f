package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra/doc"
)

var updateMan = flag.Bool("update-man", false, "write the man pages instead of comparing them")

// TestManPages makes the man pages from the commands, and compares them with
// those in docs/man. 'make man' writes them.
func TestManPages(t *testing.T) {
	const kept = "../../docs/man"
	c := newCLI("vhdtool")
	root := c.newRootCmd(allCommands())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("convert")
	root.DisableAutoGenTag = true
	for _, cmd := range root.Commands() {
		if cmd.Name() == "check" {
			cmd.Long += "\n\n" + productRules()
		}
	}
	date := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	if *updateMan {
		dir = kept
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	header := &doc.GenManHeader{Title: "VHDTOOL", Section: "1", Source: "vhdtool", Manual: "vhdtool manual", Date: &date}
	if err := doc.GenManTree(root, header, dir); err != nil {
		t.Fatal(err)
	}
	if *updateMan {
		return
	}
	pages := func(dir string) map[string][]byte {
		m := map[string][]byte{}
		names, err := filepath.Glob(filepath.Join(dir, "*.1"))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			b, err := os.ReadFile(n)
			if err != nil {
				t.Fatal(err)
			}
			m[filepath.Base(n)] = b
		}
		return m
	}
	want, got := pages(dir), pages(kept)
	if len(want) < 5 {
		t.Fatalf("only %d pages were made", len(want))
	}
	for name, page := range want {
		if !bytes.Equal(got[name], page) {
			t.Errorf("docs/man/%s is not what the command says now: run 'make man'", name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("docs/man/%s is of a command that is no more: run 'make man'", name)
		}
	}
}
