package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// failingDisk has the contents of a file, with an unreadable range, or with unknown extents.
type failingDisk struct {
	*os.File
	size    int64
	bad     [2]int64 // the unreadable range
	unknown bool     // Extents fails
}

var errBadSector = errors.New("bad sector")

func (d *failingDisk) Size() int64 { return d.size }

func (d *failingDisk) ReadAt(p []byte, off int64) (int, error) {
	if off < d.bad[1] && off+int64(len(p)) > d.bad[0] {
		n := max(d.bad[0]-off, 0)
		k, err := d.File.ReadAt(p[:n], off)
		if err == nil {
			err = errBadSector
		}
		return k, err
	}
	return d.File.ReadAt(p, off)
}

func (d *failingDisk) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		if d.unknown {
			yield(disk.Extent{}, errBadSector)
			return
		}
		yield(disk.Extent{Off: off, Len: n}, nil)
	}
}

// useFailing adds two formats to the command: bad, with the unreadable bytes [from, to), and
// unknown, whose extents are not known.
func useFailing(t *testing.T, from, to int64) {
	t.Helper()
	formatNamed := func(name string, open func(*failingDisk)) *format {
		return &format{Format: &disk.Format{
			Name:  name,
			Probe: func(io.ReaderAt, int64) error { return disk.ErrNotThisFormat },
			Open: func(r io.ReaderAt, size int64, _ *disk.OpenOptions) (disk.Disk, error) {
				d := &failingDisk{File: r.(*os.File), size: size}
				open(d)
				return d, nil
			},
		}}
	}
	bad := formatNamed("bad", func(d *failingDisk) { d.bad = [2]int64{from, to} })
	unknown := formatNamed("unknown", func(d *failingDisk) { d.unknown = true })
	all, named := allFormats, formats
	t.Cleanup(func() { allFormats, formats = all, named })
	allFormats = append(allFormats[:len(allFormats):len(allFormats)], bad, unknown)
	formats = append(formats[:len(formats):len(formats)], bad.Format, unknown.Format)
}

// Unreadable sectors of a source are an error with their offset, and the old target stays. With
// --salvage they become zeros, each is listed, and the rest is copied.
func TestUnreadableSource(t *testing.T) {
	const size, from, to = 3 << 20, 1<<20 + 4096, 1<<20 + 4096 + 1024
	useFailing(t, from, to)
	dir := t.TempDir()
	source := sparseFile(t, filepath.Join(dir, "source.raw"), size, piece{0, size})
	content, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(content)
	clear(want[from:to])
	target := filepath.Join(dir, "target")
	old := func() {
		t.Helper()
		if err := os.WriteFile(target, []byte("old"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, options := range []string{
		"-O raw", "-O raw -m 1", "-O raw -S 0", "-O vpc -o force_size", "-O vpc -o force_size,subformat=fixed",
	} {
		t.Run(options, func(t *testing.T) {
			line := append([]string{"convert", "-f", "bad"}, strings.Fields(options)...)
			old()
			_, stderr := command(t, 1, append(line, source, target)...)
			if want := fmt.Sprintf("vhdtool: %s: error while reading at byte %d: bad sector\n", source, from); stderr != want {
				t.Errorf("stderr %q, want %q", stderr, want)
			}
			if got, err := os.ReadFile(target); err != nil || string(got) != "old" {
				t.Errorf("the old target holds %.20q (%v)", got, err)
			}
			_, stderr = command(t, statusLost, append(line, "--salvage", source, target)...)
			warnings := fmt.Sprintf("vhdtool: warning: %s: 1.0 KiB (1,024 bytes) of the disk are lost and read as zeros\n"+
				"vhdtool: %s: lost: 1.0 KiB (1,024 bytes) at offset 1,052,672: bad sector\n", source, source)
			if stderr != warnings {
				t.Errorf("stderr %q, want %q", stderr, warnings)
			}
			back := filepath.Join(t.TempDir(), "back.raw")
			command(t, 0, "convert", "-O", "raw", target, back)
			if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes (%v), want the source with zeros for what cannot be read", len(got), err)
			}
		})
	}
	t.Run("to stdout", func(t *testing.T) {
		_, stderr := command(t, 1, "convert", "-f", "bad", "-O", "raw", source, "-")
		if !strings.Contains(stderr, fmt.Sprintf("%s: error while reading at byte %d: bad sector", source, from)) {
			t.Errorf("stderr %q", stderr)
		}
		stdout, _ := command(t, statusLost, "convert", "-f", "bad", "--salvage", "-O", "raw", source, "-")
		if stdout != string(want) {
			t.Errorf("%d bytes, want the source with zeros for what cannot be read", len(stdout))
		}
	})
	t.Run("under qemu-img's name", func(t *testing.T) {
		var errs bytes.Buffer
		c := &cli{name: "qemu-img", likeQEMU: true, stdin: os.Stdin, stdout: io.Discard, stderr: &errs}
		if code := c.execute(t.Context(), []string{"convert", "-f", "bad", "-O", "raw", source, target}); code != 1 {
			t.Errorf("exit status %d, want 1", code)
		}
		if want := fmt.Sprintf("qemu-img: error while reading at byte %d: bad sector\n", from); errs.String() != want {
			t.Errorf("stderr %q, want %q", errs.String(), want)
		}
	})
}

// compare exits 4 if a disk cannot be read, and 3 if its extents are unknown.
func TestUnreadableCompare(t *testing.T) {
	const size = 2 << 20
	useFailing(t, size-512, size)
	dir := t.TempDir()
	a := sparseFile(t, filepath.Join(dir, "a.raw"), size, piece{0, size})
	for i, flag := range []string{"-f", "-F"} {
		stdout, stderr := command(t, compareReadFailed, "compare", flag, "bad", a, a)
		if !strings.HasPrefix(stderr, "vhdtool: error while reading offset ") || !strings.Contains(stderr, "of "+a+": bad sector") {
			t.Errorf("side %d: stderr %q", i, stderr)
		}
		if stdout != "" {
			t.Errorf("side %d: stdout %q", i, stdout)
		}
		command(t, compareReadFailed, "compare", "-q", flag, "bad", a, a)
		command(t, compareMapFailed, "compare", flag, "unknown", a, a)
	}
}
