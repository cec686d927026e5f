package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// writeRandom writes n random bytes to a new file in dir.
func writeRandom(t *testing.T, dir, name string, n int) string {
	t.Helper()
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	name = filepath.Join(dir, name)
	if err := os.WriteFile(name, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return name
}

// stalledPipe returns a pipe that nobody reads, with space for n more bytes.
func stalledPipe(t *testing.T, n int) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	size, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, size-n)); err != nil {
		t.Fatal(err)
	}
	return r, w
}

// waitFilled returns when a pipe holds at least n bytes.
func waitFilled(t *testing.T, r *os.File, n int) {
	t.Helper()
	for {
		held, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ)
		if err != nil {
			t.Fatal(err)
		}
		if held >= n {
			return
		}
		runtime.Gosched()
	}
}

// endedBy checks that a program was ended by a signal, or if that is 0, by a status.
func endedBy(t *testing.T, cmd *exec.Cmd, want syscall.Signal, status int) {
	t.Helper()
	_ = cmd.Wait()
	got := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if want != 0 && (!got.Signaled() || got.Signal() != want) {
		t.Errorf("%q ended by %v, want %v", cmd.Args, cmd.ProcessState, want)
	}
	if want == 0 && got.ExitStatus() != status {
		t.Errorf("%q ended by %v, want status %d", cmd.Args, cmd.ProcessState, status)
	}
}

// TestSignalEnds interrupts a conversion that waits for its source. It leaves no file and
// ends by the signal, so that the loop of a shell ends, too.
func TestSignalEnds(t *testing.T) {
	for sig, status := range map[syscall.Signal]int{
		syscall.SIGINT: -1, syscall.SIGTERM: -1, syscall.SIGHUP: -1, syscall.SIGQUIT: 128 + int(syscall.SIGQUIT),
	} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := exec.Command("vhdtool", "convert", "-O", "vpc", "-", filepath.Join(dir, "target.vhd"))
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := stdin.Write(make([]byte, 3<<20)); err != nil { // after reading this, it copies
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if status > 0 {
				endedBy(t, cmd, 0, status)
			} else {
				endedBy(t, cmd, sig, 0)
			}
			if got, want := stderr.String(), "vhdtool: interrupted\n"; got != want {
				t.Errorf("stderr %q, want %q", got, want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("files left: %v, %v", left, err)
			}
		})
	}
}

// A killed conversion leaves the target unchanged. After the next conversion the directory has no
// other file.
func TestKilledLeavesNothing(t *testing.T) {
	if isPortable() {
		t.Skip("leftovers are not removed")
	}
	dir := t.TempDir()
	target := filepath.Join(dir, "target.vhd")
	if err := os.WriteFile(target, []byte("an older file"), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("vhdtool", "convert", "-", target)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write(make([]byte, 3<<20)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	endedBy(t, cmd, syscall.SIGKILL, 0)
	if got, err := os.ReadFile(target); err != nil || string(got) != "an older file" {
		t.Errorf("the target holds %q, %v", got, err)
	}
	cmd = exec.Command("vhdtool", "convert", "-", target)
	cmd.Stdin = bytes.NewReader(make([]byte, 1<<20))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("files: %v, %v; want the target only", left, err)
	}
}

// TestSignalWaiting interrupts commands once while they wait for the other end of a pipe.
func TestSignalWaiting(t *testing.T) {
	dir := t.TempDir()
	source := writeRandom(t, dir, "source.raw", 1<<20)
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"writing raw":     {"convert", "-O", "raw", source, "-"},
		"writing vpc":     {"convert", "-O", "vpc", source, "-"},
		"writing a fixed": {"convert", "-O", "vpc", "-o", "subformat=fixed", source, "-"},
		"copying":         {"dd", "-f", "raw", "-O", "raw", "if=" + source},
		"comparing":       {"compare", "-p", source, source},
		"to a named pipe": {"convert", "-O", "raw", source, "/dev/fd/3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			room := 4096 // the disk fills it
			if name == "comparing" {
				room = 20 // for one percentage
			}
			r, w := stalledPipe(t, room)
			cmd := exec.Command("vhdtool", args...)
			var stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = w, &stderr, []*os.File{w}
			if name == "to a named pipe" {
				cmd.Stdout = nil
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFilled(t, r, 4096-5)
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			endedBy(t, cmd, syscall.SIGINT, 0)
			// A comparison may be complete except for its output.
			if got, want := stderr.String(), "vhdtool: interrupted\n"; got != want && (name != "comparing" || got != "") {
				t.Errorf("stderr %q, want %q", got, want)
			}
		})
	}
	// A FIFO without a reader: the signal may come before the command listens.
	for _, args := range [][]string{{"convert", "-O", "raw", source, fifo}, {"convert", "-O", "raw", fifo, filepath.Join(dir, "x.raw")}} {
		cmd := exec.Command("vhdtool", args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		endedBy(t, cmd, syscall.SIGTERM, 0)
	}
	if _, err := os.Lstat(filepath.Join(dir, "x.raw")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a target is left: %v", err)
	}
}

// A command that cannot end at the first signal ends at the second one.
func TestSecondSignal(t *testing.T) {
	dir := t.TempDir()
	source := writeRandom(t, dir, "source.raw", 8<<20)
	// It waits for the reader of its percentages.
	r, w := stalledPipe(t, 20)
	cmd := exec.Command("vhdtool", "convert", "-p", "-O", "raw", source, "-")
	cmd.Stderr = w
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFilled(t, r, 4096-5)
	// The second percentage comes with some of the disk, and has no space in the pipe.
	if _, err := io.CopyN(io.Discard, stdout, 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// Running a program between two signals gives the command time to handle the first one.
	ended := make(chan struct{})
	go func() {
		for {
			_ = exec.Command("vhdtool", "--version").Run()
			select {
			case <-ended:
				return
			default:
				_ = cmd.Process.Signal(syscall.SIGINT)
			}
		}
	}()
	endedBy(t, cmd, syscall.SIGINT, 0)
	close(ended)
}

// A command whose reader goes away ends quietly, by SIGPIPE.
func TestClosedPipe(t *testing.T) {
	dir := t.TempDir()
	source := writeRandom(t, dir, "source.raw", 1<<20)
	image := filepath.Join(dir, "disk.vhd")
	if out, err := exec.Command("vhdtool", "convert", source, image).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, args := range [][]string{
		{"info", image},
		{"map", image},
		{"check", image},
		{"check", "-r", "all", image},
		{"compare", source, image},
		{"compare", "-p", source, image},
		{"convert", "-O", "raw", image, "-"},
		{"convert", "-O", "vpc", source, "-"},
		{"convert", "-O", "raw", image, "/dev/fd/3"},
		{"convert", "-p", image, filepath.Join(dir, "copy.raw")},
		{"dd", "if=" + image},
		{"measure", "-O", "vpc", source},
		{"--version"},
		{"help"},
	} {
		t.Run(strings.Join(args[:len(args)-1], " "), func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			defer w.Close()
			var stderr bytes.Buffer
			cmd := exec.Command("vhdtool", args...)
			cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = w, &stderr, []*os.File{w}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			endedBy(t, cmd, syscall.SIGPIPE, 0)
			if stderr.Len() > 0 {
				t.Errorf("stderr %q", &stderr)
			}
		})
	}
}

// The default action of a signal does not end the first process of a container. So the command
// exits with the status that shells report.
func TestFirstProcess(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start one")
	}
	cmd := exec.Command("vhdtool", "convert", "-O", "raw", "-", filepath.Join(t.TempDir(), "target.raw"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("no process namespace: %v", err)
	}
	if _, err := stdin.Write(make([]byte, 3<<20)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	endedBy(t, cmd, 0, 128+int(syscall.SIGTERM))
}
