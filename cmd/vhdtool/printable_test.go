package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestOneLine(t *testing.T) {
	for s, want := range map[string]string{
		"disk.vhd": "disk.vhd", "Grüße 磁盘.vhd": "Grüße 磁盘.vhd", "\ufffd": "\ufffd",
		"a\x1b[31mb\x7f": `a\x1b[31mb\x7f`, "a\u009bb": `a\u009bb`, "a\xffb": `a\xffb`, "a\nb\r": `a\nb\r`, "\\": "\\",
	} {
		if got := oneLine(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}

// No command prints the control characters in the name of a parent to a terminal.
func TestNamesOfParents(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no file has such a name")
	}
	t.Chdir(t.TempDir())
	const parent = "p\x1b[31m\n.vhd"
	run := func(args ...string) string {
		var out bytes.Buffer
		c := &cli{name: "vhdtool", stdin: os.Stdin, stdout: &out, stderr: &out}
		c.execute(t.Context(), args)
		return out.String()
	}
	run("create", "-q", "-f", "vpc", parent, "4M")
	run("create", "-q", "-b", parent, "child.vhd")
	f, err := os.OpenFile(filepath.Join(".", parent), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	old := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	try := func(want string, args ...string) {
		t.Helper()
		got := run(args...)
		if strings.Contains(got, "\x1b") || strings.Contains(got, "p\n") || !strings.Contains(got, want) {
			t.Errorf("%q prints %q, want %q in it and no control characters", args, got, want)
		}
	}
	if err := os.Chtimes(parent, old, old); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"check", "child.vhd"},
		{"info", "--backing-chain", "child.vhd"},
		{"map", "child.vhd"},
		{"map", "--draw", "child.vhd"},
		{"dd", "if=child.vhd", "of=out.raw"},
		{"convert", "child.vhd", "out.raw"},
		{"compare", "child.vhd", "child.vhd"},
	} {
		try("parent-time", args...)
	}
	if _, err := f.WriteAt(make([]byte, 4), 64); err != nil { // the checksum of the copy
		t.Fatal(err)
	}
	try("leading-footer", "check", "child.vhd")
	if _, err := f.WriteAt(make([]byte, 8), 512); err != nil { // the header
		t.Fatal(err)
	}
	try("parent-missing", "check", "child.vhd")
	try("hint", "info", "--backing-chain", "child.vhd")
	try("hint", "commit", "child.vhd")
}
