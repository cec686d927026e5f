package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// way is a command line that moves data, with %s for flags.
type way struct {
	name string
	line string
	rate bool // it has -r
	pipe bool // the image goes to standard output
}

// ways are all of them.
var ways = []way{
	{"raw file", "convert %s -f bad -O raw source.raw out", true, false},
	{"raw file, allocated", "convert %s -f bad -O raw -S 0 source.raw out", true, false},
	{"dynamic file", "convert %s -f bad -O vpc -o force_size source.raw out", true, false},
	{"fixed file", "convert %s -f bad -O vpc -o force_size,subformat=fixed source.raw out", true, false},
	{"in place", "convert %s -f bad -n source.raw existing.raw", true, false},
	{"child", "convert %s -f bad -B parent.vhd source.raw out", true, false},
	{"raw pipe", "convert %s -f bad -O raw source.raw -", true, true},
	{"dynamic pipe", "convert %s -f bad -O vpc -o force_size source.raw -", true, true},
	{"fixed pipe", "convert %s -f bad -O vpc -o force_size,subformat=fixed source.raw -", true, true},
	{"several sources", "convert %s -f bad -O raw source.raw small.raw out", true, false},
	{"dd to a file", "dd %s -f bad -O vpc if=source.raw of=out", false, false},
	{"dd to a pipe", "dd %s -f bad if=source.raw", false, true},
	{"dd to a VHD pipe", "dd %s -f bad -O vpc if=source.raw", false, true},
	{"dd in place", "dd %s -f bad if=source.raw of=existing.raw conv=notrunc", false, false},
}

// run runs the way in dir with flags, and returns its output. The image is in the file out, or in
// existing.raw.
func (w *way) run(t *testing.T, dir string, c *cli, flags string, status int) string {
	t.Helper()
	t.Chdir(dir)
	var out, errs bytes.Buffer
	c.name, c.stdin, c.stdout, c.stderr = "vhdtool", os.Stdin, &out, &errs
	if got := c.execute(t.Context(), strings.Fields(fmt.Sprintf(w.line, flags))); got != status {
		t.Fatalf("exit status %d, want %d: %s", got, status, errs.String())
	}
	if !w.pipe {
		return out.String() + errs.String()
	}
	if err := os.WriteFile("out", out.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	return errs.String()
}

const (
	waysSize = 3 << 20
	badFrom  = 1<<20 + 4096
	badTo    = badFrom + 1024
)

// prepareWays creates the files for the ways. The sectors of source.raw from badFrom to badTo are
// unreadable; small.raw ends before them.
func prepareWays(t *testing.T) (dir string, want []byte) {
	t.Helper()
	useFailing(t, badFrom, badTo)
	dir = t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	sparseFile(t, in("source.raw"), waysSize, piece{0, waysSize})
	sparseFile(t, in("existing.raw"), waysSize, piece{4096, 8192})
	sparseFile(t, in("small.raw"), 4096)
	sparseFile(t, in("parent.raw"), waysSize, piece{8192, 8192})
	command(t, 0, "convert", "-O", "vpc", "-o", "force_size", in("parent.raw"), in("parent.vhd"))
	content, err := os.ReadFile(in("source.raw"))
	if err != nil {
		t.Fatal(err)
	}
	clear(content[badFrom:badTo])
	return dir, content
}

// On every way, an unreadable sector is an error that names the source and the offset. With
// --salvage it reads as zeros, all else is copied, the map lists it, and the exit status is 5.
func TestSalvageOnEveryWay(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			dir, want := prepareWays(t)
			stderr := w.run(t, dir, &cli{}, "", 1)
			if want := fmt.Sprintf("vhdtool: source.raw: error while reading at byte %d: bad sector\n", badFrom); stderr != want {
				t.Errorf("stderr %q, want %q", stderr, want)
			}
			stderr = w.run(t, dir, &cli{}, "--salvage --salvage-log map", statusLost)
			name := "source.raw"
			if w.name == "several sources" {
				name = "source.raw, small.raw"
			}
			if want := fmt.Sprintf("vhdtool: %s: lost: 1.0 KiB (1,024 bytes) at offset 1,052,672: bad sector\n", name); !strings.Contains(stderr, want) {
				t.Errorf("stderr %q, want %q in it", stderr, want)
			}
			if b, err := os.ReadFile("map"); err != nil || !strings.Contains(string(b), "\n0x00101000  0x00000400  -\n") {
				t.Errorf("map %q, %v", b, err)
			}
			out := "out"
			if strings.Contains(w.line, "existing") {
				out = "existing.raw"
			}
			command(t, 0, "convert", "-O", "raw", out, "back.raw")
			if got, err := os.ReadFile("back.raw"); err != nil || len(got) < len(want) || !bytes.Equal(got[:len(want)], want) {
				t.Errorf("%d bytes, %v; want the source with zeros for what cannot be read", len(got), err)
			}
		})
	}
}

// On every way, a rate limit waits for the time that the data takes. The test counts the waits, and
// does not wait.
func TestRateOnEveryWay(t *testing.T) {
	for _, w := range ways {
		if !w.rate {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			dir, _ := prepareWays(t)
			var mu sync.Mutex
			var longest time.Duration
			c := &cli{pause: func(_ context.Context, d time.Duration) {
				mu.Lock()
				longest = max(longest, d)
				mu.Unlock()
			}}
			w.line = strings.Replace(w.line, "-f bad", "-f raw", 1)
			w.run(t, dir, c, "-r 1k", 0)
			// The data is 3 MiB. For a dynamic VHD in a pipe, it is read twice.
			least, most := 3072*time.Second, 3072*time.Second
			if w.name == "dynamic pipe" {
				most *= 2
			}
			if longest < least-10*time.Minute || longest > most+10*time.Second {
				t.Errorf("the longest wait is %v, want %v to %v", longest, least, most)
			}
		})
	}
}

// On every way, -p prints more than the start and the end.
func TestProgressOnEveryWay(t *testing.T) {
	for _, w := range ways {
		if !w.rate {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			dir, _ := prepareWays(t)
			w.line = strings.Replace(w.line, "-f bad", "-f raw", 1)
			printed := w.run(t, dir, &cli{}, "-p", 0)
			steps := slices.DeleteFunc(strings.Split(printed, "\r"), func(s string) bool {
				return !strings.Contains(s, "/100%)") || strings.Contains(s, "(0.00/") || strings.Contains(s, "(100.00/")
			})
			if len(steps) == 0 {
				t.Errorf("%q has no progress between the start and the end", printed)
			}
		})
	}
}

// The error names the one of several sources that cannot be read.
func TestErrorNamesTheRightSource(t *testing.T) {
	dir, _ := prepareWays(t)
	t.Chdir(dir)
	_, stderr := command(t, 1, "convert", "-f", "bad", "-O", "raw", "small.raw", "source.raw", "out")
	if want := fmt.Sprintf("vhdtool: source.raw: error while reading at byte %d: bad sector\n", badFrom); stderr != want {
		t.Errorf("stderr %q, want %q", stderr, want)
	}
}
