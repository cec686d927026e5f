package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// command runs a command line in this process. It must exit with the status. command returns stdout
// and stderr.
func command(t *testing.T, status int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	c := &cli{name: "vhdtool", stdin: os.Stdin, stdout: &out, stderr: &errs}
	if got := c.execute(context.Background(), args); got != status {
		t.Fatalf("vhdtool %q: exit status %d, want %d: %s", args, got, status, errs.String())
	}
	return out.String(), errs.String()
}

// length is a file's length.
func length(t *testing.T, name string) int64 {
	t.Helper()
	st, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// measureOptionLists are option lists for a new image. The first ones keep the size.
var measureOptionLists = [][]string{
	{"-O", "raw"},
	{"-O", "vpc", "-o", "force_size"},
	{"-O", "vpc", "-o", "force_size,block_size=4k"},
	{"-O", "vpc", "-o", "force_size,block_size=64k"},
	{"-O", "vpc", "-o", "force_size,block_size=512k"},
	{"-O", "vpc", "-o", "force_size,block_size=16M"},
	{"-O", "vpc", "-o", "force_size,subformat=fixed"},
	{"-O", "vpc", "-o", "subformat=fixed"},
	{"-O", "vpc"},
	{"-O", "vpc", "-o", "block_size=4k"},
	{"-O", "vpc", "-o", "block_size=512k"},
	{"-O", "vpc", "-o", "subformat=fixed", "--align", "1M"},
	{"-O", "raw", "--align", "1M"},
	{"--for", "azure"},
	{"--for", "hyperv"},
	{"--for", "xen"},
	{"--for", "virtualpc"},
	{"--for", "virtualpc", "-o", "subformat=fixed"},
}

// TestMeasureConvert compares the output of measure with the files of convert, as created and with
// the whole disk written.
func TestMeasureConvert(t *testing.T) {
	dir := t.TempDir()
	name := func(s string) string { return filepath.Join(dir, s) }
	sources := map[string]string{
		"scattered": sparseFile(t, name("scattered.raw"), 7<<20, piece{0, 1}, piece{2<<20 - 1, 2}, piece{5 << 20, 300_000}),
		"odd":       sparseFile(t, name("odd.raw"), 3_000_003, piece{2_999_999, 4}),
		"hole":      sparseFile(t, name("hole.raw"), 3<<20),
		"empty":     sparseFile(t, name("empty.raw"), 0),
		"zeros":     sparseFile(t, name("zeros.raw"), 3<<20),
		"dynamic":   name("dynamic.vhd"),
		"fixed":     name("fixed.vhd"),
	}
	// Written zeros next to data in the same page, and alone.
	if err := os.WriteFile(sources["zeros"], append(make([]byte, 1<<20), append([]byte{1}, make([]byte, 1<<20)...)...), 0o666); err != nil {
		t.Fatal(err)
	}
	command(t, 0, "convert", sources["scattered"], sources["dynamic"])
	command(t, 0, "convert", "-o", "subformat=fixed,force_size", sources["scattered"], sources["fixed"])
	for what, source := range sources {
		for _, options := range measureOptionLists {
			t.Run(fmt.Sprintf("%s/%s", what, strings.Join(options, " ")), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				made, full := filepath.Join(dir, "made"), filepath.Join(dir, "full")
				line := func(args ...string) []string {
					if what == "empty" { // refused without a format
						args = append(args, "-f", "raw")
					}
					return append(args, options...)
				}
				command(t, 0, append(line("convert", "-q"), source, made)...)
				from := made // has the final size
				// An image of size 0 is no source. Products have minimum sizes.
				if what == "empty" && !slices.Contains(options, "--for") {
					from = source
				}
				again := append([]string{"convert", "-q", "-S", "0", from, full}, options...)
				if from == source && what == "empty" {
					again = append(again, "-f", "raw")
				}
				command(t, 0, again...)
				want := fmt.Sprintf("required size: %d\nfully allocated size: %d\n", length(t, made), length(t, full))
				if got, _ := command(t, 0, line("measure", source)...); got != want {
					t.Errorf("human: %q, want %q", got, want)
				}
				want = fmt.Sprintf("{\n    \"required\": %d,\n    \"fully-allocated\": %d\n}\n", length(t, made), length(t, full))
				if got, _ := command(t, 0, line("measure", "--output=json", source)...); got != want {
					t.Errorf("JSON: %q, want %q", got, want)
				}
			})
		}
	}
}

// TestMeasureCreate compares the output of measure for a size with the files of create.
func TestMeasureCreate(t *testing.T) {
	for _, size := range []string{"1", "1000", "34816", "3M", "5000000", "1.5G"} {
		for _, options := range measureOptionLists {
			t.Run(fmt.Sprintf("%s/%s", size, strings.Join(options, " ")), func(t *testing.T) {
				t.Parallel()
				file := filepath.Join(t.TempDir(), "made")
				create := []string{"create", "-q", file, size}
				for _, o := range options {
					if o == "-O" {
						o = "-f"
					}
					create = append(create, o)
				}
				command(t, 0, create...)
				got, _ := command(t, 0, append([]string{"measure", "--size", size}, options...)...)
				if want := fmt.Sprintf("required size: %d\n", length(t, file)); !strings.HasPrefix(got, want) {
					t.Errorf("got %q, want %q first", got, want)
				}
			})
		}
	}
}
