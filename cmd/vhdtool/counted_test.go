package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
)

// TestEachCommandCounts runs each long command, and asks for its progress at the end. It must have
// counted to the total.
func TestEachCommandCounts(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	run := func(args ...string) string {
		t.Helper()
		var stderr bytes.Buffer
		c := &cli{name: "vhdtool", stdin: os.Stdin, stdout: io.Discard, stderr: &stderr}
		if status := c.execute(context.Background(), args); status != 0 {
			t.Fatalf("%q: status %d\n%s", args, status, &stderr)
		}
		stderr.Reset()
		if c.signals.answer == nil {
			return "no answer"
		}
		c.signals.answer()
		return strings.TrimSpace(stderr.String())
	}
	content := bytes.Repeat([]byte("sector contents "), 5<<20/16)
	if err := os.WriteFile("a.raw", content, 0o666); err != nil {
		t.Fatal(err)
	}
	prepare := func(script ...string) {
		t.Helper()
		for _, line := range script {
			run(strings.Fields(line)...)
		}
	}
	prepare("convert -q -o force_size a.raw a.vhd", "convert -q -o force_size a.raw base.vhd", "convert -q -o force_size,block_size=64k a.raw small.vhd",
		"create -q -b base.vhd child.vhd", "dd status=none if=a.raw of=child.vhd conv=notrunc bs=1M count=1", "create -q -b base.vhd other.vhd")
	for _, c := range []struct{ line, want string }{
		{"convert a.raw x.vhd", "(100.00/100%)"},
		{"convert -O vpc a.raw /dev/null", "(100.00/100%)"},
		{"convert -O raw a.vhd /dev/null", "(100.00/100%)"},
		{"dd if=a.raw of=x.raw", "(100.00/100%)"},
		{"compare a.raw a.vhd", "(100.00/100%)"},
		{"measure -O vpc a.raw", "(100.00/100%)"},
		{"map a.vhd", "(100.00/100%)"},
		{"map --output=json a.vhd", "(100.00/100%)"},
		{"check --deep a.vhd", "(100.00/100%)"},
		{"resize -q small.vhd 2000M", "(100.00/100%)"},
		{"create -q -f raw -o preallocation=full full.raw 9M", "(100.00/100%)"},
		{"resize -q -f raw --preallocation=full full.raw 20M", "(100.00/100%)"},
		{"rebase -q -b a.vhd child.vhd", "(100.00/100%)"},
		{"commit -q child.vhd", "(100.00/100%)"},
		{"bench -q -c 10 a.raw", "(100.00/100%)"},
	} {
		if got := run(strings.Fields(c.line)...); got != c.want {
			t.Errorf("%s: progress %q, want %s", c.line, got, c.want)
		}
	}
	// The first block is lost, so the others are moved to its offset.
	image, err := os.ReadFile("base.vhd")
	if err != nil {
		t.Fatal(err)
	}
	copy(image[1536:], "\xff\xff\xff\xff")
	if err := os.WriteFile("leak.vhd", image, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := run("check", "-r", "all", "--discard-orphans", "leak.vhd"); got != "(100.00/100%)" {
		t.Errorf("check -r all: progress %q, want all of it", got)
	}
}
