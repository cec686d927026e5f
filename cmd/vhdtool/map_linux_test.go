package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// onTerminal runs a command on a terminal of 80 columns, and returns its output.
func onTerminal(t *testing.T, args ...string) string {
	t.Helper()
	out, err := onTerminalOf(t, 80, args...)
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return out
}

// onTerminalOf runs a command on a terminal of this width, and returns its output and error.
func onTerminalOf(t *testing.T, columns uint16, args ...string) (string, error) {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminal can be had: %v", err)
	}
	defer ptmx.Close()
	fd := int(ptmx.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Skipf("no terminal can be had: %v", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminal can be had: %v", err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = tty, tty
	err = cmd.Start()
	tty.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(ptmx) // ends with an error when the terminal has no user any more
	err = cmd.Wait()
	return strings.ReplaceAll(string(out), "\r\n", "\n"), err
}

// TestMapWidth: the picture is as wide as the terminal, and never wider.
func TestMapWidth(t *testing.T) {
	t.Chdir(t.TempDir())
	sparseFile(t, "d.raw", 10<<20)
	for _, columns := range []uint16{40, 80, 200} {
		out, err := onTerminalOf(t, columns, "vhdtool", "map", "d.raw")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		widest := 0
		for line := range strings.Lines(out) {
			widest = max(widest, len(line)-1)
		}
		if widest > int(columns) || widest < int(columns)-8 {
			t.Errorf("%d columns: the widest line has %d\n%s", columns, widest, out)
		}
	}
}

// On a terminal map draws a picture, unless the list is requested. Called as qemu-img, it prints
// the list.
func TestMapOnTerminal(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "d.vhd")
	img, err := vhd.Create(image, &vhd.CreateOptions{Size: 10 << 20, Exact: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("data"), 5<<20); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		out, err := exec.Command(args[0], args[1:]...).Output()
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		return string(out)
	}
	drawing, list := run("vhdtool", "map", "--draw", image), run("vhdtool", "map", image)
	if drawing == list {
		t.Fatal("the drawing is the list")
	}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"map", []string{"vhdtool", "map", image}, drawing},
		{"map --output=human", []string{"vhdtool", "map", "--output=human", image}, list},
		{"map -l", []string{"vhdtool", "map", "-l", "10M", image}, list},
		{"qemu-img map", []string{"qemu-img-like", "map", image}, list},
	} {
		if got := onTerminal(t, c.args...); got != c.want {
			t.Errorf("%s prints on a terminal\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}
