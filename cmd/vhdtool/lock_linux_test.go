//go:build linux && !portable

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// writerEnv names the image that TestWriterProcess appends to.
const writerEnv = "VHDTOOL_TEST_WRITER"

const (
	lockedSize   = 8 << 20 // of the disks; blocks have 2 MiB
	appendedSize = 4 << 20
)

// appended returns the bytes that the second process appends. It is not a variable, because the
// test binary is also the program, and starts often.
func appended() []byte { return bytes.Repeat([]byte("appended"), appendedSize/8) }

// TestWriterProcess is the second process of the test below. It opens the image for writing, which
// locks it, and reports that. At the end of its input, it writes the last blocks of a VHD, or
// appends to any other file, and exits.
func TestWriterProcess(t *testing.T) {
	name := os.Getenv(writerEnv)
	if name == "" {
		t.Skip("it is run by other tests")
	}
	d, format, err := disk.Open(name, disk.Formats{&vhd.Format, &raw.Format}, &disk.OpenOptions{
		Write: true, Lock: vhd.Lock, Parents: disk.ParentSearch{None: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("locked")
	_, err = io.Copy(io.Discard, os.Stdin)
	at := d.Size() - appendedSize
	if format == &raw.Format {
		at = d.Size()
		err = d.(disk.Resizer).Resize(t.Context(), at+appendedSize, nil)
	}
	if err == nil {
		_, err = d.(io.WriterAt).WriteAt(appended(), at)
	}
	if err == nil {
		err = d.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// appendWhileWaiting makes a second process lock the image. When this process waits for the lock,
// the second one appends to the image and exits. The test fails if this process never waits. left
// gets a copy of the file as the second process left it.
func appendWhileWaiting(t *testing.T, image string, left *[]byte) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestWriterProcess$")
	cmd.Env = append(os.Environ(), writerEnv+"="+image)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "locked\n" {
		t.Fatalf("the second process says %q, %v\n%s", line, err, &stderr)
	}
	done := false
	finish := func() {
		if done {
			return
		}
		done = true
		in.Close()
		_, _ = io.Copy(io.Discard, lines)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the second process: %v\n%s", err, &stderr)
		}
		if *left, err = os.ReadFile(image); err != nil {
			t.Error(err)
		}
	}
	imagelock.Waiting = finish
	t.Cleanup(func() {
		imagelock.Waiting = nil
		if !done {
			t.Error("nothing waited for the lock")
			finish()
		}
	})
}

// run runs a command line in this process, and returns what it prints.
func run(t *testing.T, want int, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	c := &cli{name: "vhdtool", stdin: os.Stdin, stdout: &out, stderr: &out}
	if got := c.execute(t.Context(), args); got != want {
		t.Errorf("%q ends with status %d, want %d\n%s", args, got, want, &out)
	}
	return out.String()
}

// Every command reads the file as it is once it is locked. Bytes that another process appended
// during the wait are used, and kept.
func TestCommandsSeeWhatWasAppended(t *testing.T) {
	for name, c := range map[string]struct {
		written string // by the second process, in the directory
		args    []string
		size    int64  // of the disk afterwards, if the command changes it
		output  string // with the resulting disk; "" if written has it
		prints  string
	}{
		"check":            {written: "p.vhd", args: []string{"check", "p.vhd"}, prints: "No errors"},
		"check -r all":     {written: "p.vhd", args: []string{"check", "-r", "all", "p.vhd"}, prints: "No errors"},
		"check of a child": {written: "p.vhd", args: []string{"check", "child.vhd"}, prints: "No errors"},
		"info":             {written: "p.vhd", args: []string{"info", "p.vhd"}, prints: "blocks in use: 3 of 4"},
		"convert":          {written: "p.vhd", args: []string{"convert", "-O", "raw", "p.vhd", "out"}, output: "out"},
		"convert raw":      {written: "p.raw", args: []string{"convert", "-f", "raw", "-O", "vpc", "-o", "force_size", "p.raw", "out"}, output: "out"},
		"convert a child":  {written: "p.vhd", args: []string{"convert", "-O", "raw", "child.vhd", "out"}, output: "out"},
		"convert -n":       {written: "p.vhd", args: []string{"convert", "-n", "-f", "raw", "-O", "vpc", "small.raw", "p.vhd"}},
		"compare":          {written: "p.vhd", args: []string{"compare", "p.vhd", "full.vhd"}, prints: "identical"},
		"measure":          {written: "p.raw", args: []string{"measure", "-f", "raw", "-O", "raw", "p.raw"}, prints: fmt.Sprint(lockedSize)},
		"map":              {written: "p.vhd", args: []string{"map", "p.vhd"}, prints: "0x400000"},
		"dd":               {written: "p.raw", args: []string{"dd", "-f", "raw", "-O", "raw", "if=p.raw", "of=out"}, output: "out"},
		"dd in place":      {written: "p.vhd", args: []string{"dd", "-f", "raw", "-O", "vpc", "conv=notrunc", "if=small.raw", "of=p.vhd"}},
		"resize":           {written: "p.vhd", args: []string{"resize", "p.vhd", "+1M"}, size: lockedSize + 1<<20},
		"resize raw":       {written: "p.raw", args: []string{"resize", "-f", "raw", "p.raw", "+1M"}, size: lockedSize + 1<<20},
		"set":              {written: "p.vhd", args: []string{"set", "--timestamp", "2026-01-31T12:00:00Z", "p.vhd"}},
		"commit":           {written: "p.vhd", args: []string{"commit", "child.vhd"}},
		"rebase":           {written: "child.vhd", args: []string{"rebase", "-b", "", "child.vhd"}},
		"create a child":   {written: "p.vhd", args: []string{"create", "-b", "p.vhd", "out"}, output: "out"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			small := bytes.Repeat([]byte("small"), 1000)
			if err := os.WriteFile("small.raw", small[:4096], 0o666); err != nil {
				t.Fatal(err)
			}
			run(t, 0, "create", "-q", "-o", "force_size", "p.vhd", "8M")
			run(t, 0, "convert", "-n", "-f", "raw", "-O", "vpc", "small.raw", "p.vhd")
			run(t, 0, "create", "-q", "-b", "p.vhd", "child.vhd")
			full := append(make([]byte, lockedSize-appendedSize), appended()...)
			copy(full, small[:4096])
			if err := os.WriteFile("full.raw", full, 0o666); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile("p.raw", full[:lockedSize-appendedSize], 0o666); err != nil {
				t.Fatal(err)
			}
			run(t, 0, "convert", "-f", "raw", "-o", "force_size", "full.raw", "full.vhd")

			var left []byte
			appendWhileWaiting(t, c.written, &left)
			if out := run(t, 0, c.args...); !strings.Contains(out, c.prints) {
				t.Errorf("%q prints %q, want %q", c.args, out, c.prints)
			}
			result := c.written
			if c.output != "" {
				result = c.output
			}
			d, _, err := disk.Open(result, formats, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			want := full
			if c.size != 0 {
				want = append(bytes.Clone(full), make([]byte, c.size-lockedSize)...)
			}
			got := make([]byte, d.Size())
			if _, err := d.ReadAt(got, 0); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s has another disk than expected: %d bytes, want %d", result, len(got), len(want))
			}
			if filepath.Ext(result) == ".vhd" {
				run(t, 0, "check", result)
			}
			if c.args[0] == "check" {
				if now, err := os.ReadFile(c.written); err != nil || !bytes.Equal(now, left) {
					t.Errorf("check changed a sound image (%v)", err)
				}
			}
		})
	}
}

// check --restore refuses a file to which another process appended during the wait, because it
// reads the length after locking.
func TestRestoreOfWhatWasAppended(t *testing.T) {
	t.Chdir(t.TempDir())
	run(t, 0, "create", "-q", "-o", "force_size", "p.vhd", "8M")
	before, err := os.ReadFile("p.vhd")
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(before)
	clear(damaged[:512]) // the copy of the footer
	if err := os.WriteFile("p.vhd", damaged, 0o666); err != nil {
		t.Fatal(err)
	}
	run(t, 0, "check", "-r", "all", "--backup", "undo", "p.vhd")
	repaired, err := os.ReadFile("p.vhd")
	if err != nil {
		t.Fatal(err)
	}
	var left []byte
	appendWhileWaiting(t, "p.vhd", &left)
	run(t, 1, "check", "--restore", "undo", "p.vhd")
	after, err := os.ReadFile("p.vhd")
	if err != nil {
		t.Fatal(err)
	}
	if len(after) <= len(repaired) || !bytes.Equal(after[:512], repaired[:512]) {
		t.Errorf("the file has %d bytes, want more than %d, and its first sector as after the repair", len(after), len(repaired))
	}
}
