package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An interrupted check or repair reports it, and leaves the image unchanged.
func TestCheckInterrupted(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk.vhd")
	run := func(ctx context.Context, args ...string) (int, string) {
		var stderr bytes.Buffer
		c := newCLI("vhdtool")
		c.stdout, c.stderr = io.Discard, &stderr
		return c.execute(ctx, args), stderr.String()
	}
	if status, stderr := run(context.Background(), "create", "-q", name, "10M"); status != 0 {
		t.Fatal(stderr)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b = b[:len(b)-512] // the footer
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, args := range [][]string{{"check", "-q", name}, {"check", "-q", "-r", "all", name}} {
		if status, stderr := run(ctx, args...); status != 1 || !strings.Contains(stderr, "interrupted") {
			t.Errorf("%q, interrupted, ends with %d and %q", args, status, stderr)
		}
		if now, err := os.ReadFile(name); err != nil || !bytes.Equal(now, b) {
			t.Errorf("%q, interrupted, has changed the image (%v)", args, err)
		}
	}
	if status, stderr := run(context.Background(), "check", "-q", "-r", "all", name); status != 0 {
		t.Errorf("the repair ends with %d and %q", status, stderr)
	}
}
