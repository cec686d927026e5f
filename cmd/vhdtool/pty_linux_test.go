package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// openPTY opens a pseudo-terminal with a width: the side of its user, and that of the
// program.
func openPTY(t *testing.T, columns uint16) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	setColumns(t, user, columns)
	return user, program
}

func setColumns(t *testing.T, user *os.File, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

// readUntil reads up to the first carriage return after a match, and returns the bytes read.
func readUntil(t *testing.T, r *bufio.Reader, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var all []byte
	for {
		b, err := r.ReadByte()
		if err != nil {
			t.Fatalf("terminal: %v after %q, want a match of %s", err, all, pattern)
		}
		if all = append(all, b); b == '\r' && re.Match(all) {
			return string(all)
		}
	}
}

// readTerminal returns the remaining output of a program that has closed the terminal.
func readTerminal(r io.Reader) string {
	b, _ := io.ReadAll(r) // ends with EIO
	return string(b)
}

// columnsUsed returns the largest number of columns of the lines written to a terminal.
func columnsUsed(written string) int {
	most, column := 0, 0
	for _, b := range []byte(written) {
		switch b {
		case '\r', '\n':
			column = 0
		case '\b':
			column--
		default:
			column++
			most = max(most, column)
		}
	}
	return most
}

// TestBarOnTerminal converts a disk into a pipe that is read slowly. The bar has the width of the
// terminal, follows it, and is removed at the end.
func TestBarOnTerminal(t *testing.T) {
	disk := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(disk)
	source := filepath.Join(t.TempDir(), "source.raw")
	if err := os.WriteFile(source, disk, 0o666); err != nil {
		t.Fatal(err)
	}
	const amounts = `[234]\.0 MiB of 5\.0 MiB  [0-9.]+ [KM]iB/s`
	for columns, want := range map[uint16]string{
		40:  `\r[468]0%  ` + amounts + `\r`,
		80:  `\r[468]0%  \[=+>-+\] ` + amounts + `  [0-9]+s left\r`,
		200: `\r[468]0%  \[=+>-+\] ` + amounts + `  [0-9]+s left\r`,
	} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			t.Parallel()
			user, program := openPTY(t, columns)
			cmd := exec.Command("vhdtool", "convert", "-O", "raw", source, "-")
			cmd.Stderr = program
			cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=1")
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			program.Close()
			if _, err := io.CopyN(io.Discard, stdout, 3<<20); err != nil {
				t.Fatal(err)
			}
			terminal := bufio.NewReader(user)
			written := readUntil(t, terminal, strings.TrimSuffix(want, `\r`)+` *\x08*\r`)
			if n := columnsUsed(written); n >= int(columns) {
				t.Errorf("%d columns are written to a terminal of %d: %q", n, columns, written)
			}
			setColumns(t, user, 30)
			readUntil(t, terminal, `\r[468]0%  [234]\.0 MiB of 5\.0 MiB *\x08*\r`)
			if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			rest := readUntil(t, terminal, `\r {20,}\r    \([468]0\.00/100%\)\r`) // erased before the line
			if _, err := io.Copy(io.Discard, stdout); err != nil {
				t.Fatal(err)
			}
			rest += readTerminal(terminal)
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			if n := columnsUsed(rest); n >= 30 {
				t.Errorf("%d columns are written to a terminal of 30: %q", n, rest)
			}
			if got := screenOf(rest); got != "" {
				t.Errorf("at the end the line shows %q", got)
			}
			if strings.Contains(written+rest, "\x1b") {
				t.Errorf("escape sequences in %q", written+rest)
			}
		})
	}
}

// Results and messages on the terminal of the status line begin on a line of their own.
func TestResultsOnTerminal(t *testing.T) {
	user, program := openPTY(t, 80)
	line := newStatusLine(program)
	out := &standardOutput{f: program, line: line}
	messages := &messageOutput{program, line}
	show := func() { line.show(func(int) string { return "50% of something" }) }
	show()
	fmt.Fprintln(out, "Images are identical.")
	show()
	fmt.Fprintln(messages, "vhdtool: a warning")
	show()
	fmt.Fprint(out, "a half ")
	show()
	fmt.Fprintln(out, "line")
	line.erase()
	program.Close()
	got := readTerminal(user)
	var shown []string
	for l := range strings.SplitSeq(strings.ReplaceAll(got, "\r\n", "\n"), "\n") {
		shown = append(shown, screenOf(l))
	}
	if want := []string{"Images are identical.", "vhdtool: a warning", "a half line", ""}; strings.Join(shown, "|") != strings.Join(want, "|") {
		t.Errorf("the terminal shows %q, want %q", shown, want)
	}
}

// TestDumbTerminal: a terminal that cannot rewrite its line gets no bar.
func TestDumbTerminal(t *testing.T) {
	_, program := openPTY(t, 80)
	for value, want := range map[string]bool{"xterm": true, "dumb": false, "": false} {
		t.Setenv("TERM", value)
		if got := newStatusLine(program).isUsable(); got != want {
			t.Errorf("TERM=%q: a bar is shown: %v, want %v", value, got, want)
		}
	}
	t.Setenv("TERM", "xterm")
	if newStatusLine(os.Stdin).isUsable() && !isTerminal(os.Stdin) {
		t.Error("a bar is shown without a terminal")
	}
}

// dd shows the progress of a stream if requested, on its last line or not at all.
func TestDDStatus(t *testing.T) {
	for status, want := range map[string]string{
		"progress": `\A(\r0 B  0 B/s)?(\r[0-9. KM]+i?B  [0-9.]+ ([KM]i)?B/s *\x08*)+\n2\.0 MiB \(2,097,152 bytes\) copied, .*/s\n\z`,
		"noxfer":   `\A\z`, "none": `\A\z`,
	} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("vhdtool", "dd", "status="+status, "of="+filepath.Join(t.TempDir(), "x.raw"))
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := stdin.Write(make([]byte, 2<<20)); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(stderr)
			got := ""
			if status == "progress" {
				got = readUntil(t, lines, `\r[0-9.]+ [KM]iB  [0-9.]+ ([KM]i)?B/s *\x08*\r`)
			}
			if err := stdin.Close(); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(lines)
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			if got += string(rest); !regexp.MustCompile(want).MatchString(got) {
				t.Errorf("stderr %q, want %s", got, want)
			}
		})
	}
	var out bytes.Buffer
	cmd := exec.Command("vhdtool", "dd", "status=loud")
	cmd.Stderr = &out
	if err := cmd.Run(); err == nil || !strings.Contains(out.String(), "invalid status: loud (want none, noxfer or progress)") {
		t.Errorf("status=loud: %v, %s", err, &out)
	}
}
