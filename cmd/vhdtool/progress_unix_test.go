//go:build unix

package main

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
)

// asked is a line that answers SIGUSR1: the amount of a stream, or the percentage of a disk.
var asked = regexp.MustCompile(`^    \(([0-9.]+ ([KM]i)?B|[0-9]+\.[0-9]{2}/100%)\)\n$`)

// askProgress sends SIGUSR1. One line must answer it.
func askProgress(t *testing.T, cmd *exec.Cmd, stderr *bufio.Reader) string {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	line, err := stderr.ReadString('\n')
	if err != nil || !asked.MatchString(line) {
		t.Fatalf("stderr %q, %v; want a line with the progress", line, err)
	}
	return line
}

// SIGUSR1 prints the progress of a conversion from a pipe, twice. The conversion continues, and is
// complete.
func TestSignalStream(t *testing.T) {
	disk := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(disk)
	target := filepath.Join(t.TempDir(), "target.raw")
	cmd := exec.Command("vhdtool", "convert", "-O", "raw", "-", target)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := bufio.NewReader(pipe)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// After this amount was read, the copy is running and listens to signals.
	if _, err := stdin.Write(disk[:3<<20]); err != nil {
		t.Fatal(err)
	}
	askProgress(t, cmd, stderr)
	askProgress(t, cmd, stderr)
	if _, err := stdin.Write(disk[3<<20:]); err != nil {
		t.Fatal(err)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(stderr); err != nil || len(rest) > 0 {
		t.Errorf("more on stderr: %q, %v", rest, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, disk) {
		t.Errorf("a target of %d bytes (%v) that is not the disk", len(got), err)
	}
}

// SIGUSR1 prints the progress of a conversion that waits for the reader of its output.
func TestSignalDisk(t *testing.T) {
	disk := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(disk)
	source := filepath.Join(t.TempDir(), "source.raw")
	if err := os.WriteFile(source, disk, 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("vhdtool", "convert", "-O", "raw", source, "-")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr := bufio.NewReader(pipe)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3<<20)
	if _, err := io.ReadFull(stdout, got); err != nil {
		t.Fatal(err)
	}
	// Two or three of five chunks are done.
	switch line := askProgress(t, cmd, stderr); line {
	case "    (40.00/100%)\n", "    (60.00/100%)\n":
	default:
		t.Errorf("got %q, want 40 or 60 per cent", line)
	}
	rest, err := io.ReadAll(stdout)
	if err != nil {
		t.Fatal(err)
	}
	if more, err := io.ReadAll(stderr); err != nil || len(more) > 0 {
		t.Errorf("more on stderr: %q, %v", more, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got = append(got, rest...); !bytes.Equal(got, disk) {
		t.Errorf("%d bytes that are not the disk", len(got))
	}
}
