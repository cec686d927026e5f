package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// isStream reports whether a target is written sequentially: standard output, a FIFO, a character
// device such as /dev/null, or an open file such as /dev/fd/3.
func (c *cli) isStream(name string) bool {
	if c.isPipe(name) {
		return true
	}
	if _, ok := openFileNumber(name); ok {
		return true
	}
	st, err := os.Stat(name)
	return err == nil && st.Mode()&(fs.ModeNamedPipe|fs.ModeCharDevice) != 0
}

// isStdout reports whether a target is standard output.
func (c *cli) isStdout(name string) bool {
	n, ok := openFileNumber(name)
	return c.isPipe(name) || ok && n == 1
}

// openFileNumber returns the number of the open file for a name like /dev/stdout.
func openFileNumber(name string) (n int, ok bool) {
	switch name {
	case "/dev/stdout":
		return 1, true
	case "/dev/stderr":
		return 2, true
	}
	for _, dir := range []string{"/dev/fd/", "/proc/self/fd/"} {
		if digits, found := strings.CutPrefix(name, dir); found {
			n, err := strconv.Atoi(digits)
			return n, err == nil && n >= 0
		}
	}
	return 0, false
}

// streamName returns the name of a stream in messages.
func streamName(name string) string {
	if name == pipeName {
		return stdoutName
	}
	return name
}

// openStream opens a target for which isStream holds. The writer fails when ctx is done.
func (c *cli) openStream(ctx context.Context, name string) (io.WriteCloser, error) {
	if c.isStdout(name) {
		if isTerminal(c.stdout) {
			return nil, terminalError(stdoutName)
		}
		if out, ok := c.stdout.(*standardOutput); ok && mayBeClosed(out.f) {
			return nil, &statusError{exitOutputLost, &hintError{
				fmt.Errorf("%s is closed", stdoutName),
				"a /dev/null that is open for reading and writing counts as closed; open it for writing only",
			}}
		}
		return nopCloser{c.stdout}, nil
	}
	var f *os.File
	var err error
	if n, ok := openFileNumber(name); ok {
		// Opening the name would start at offset 0, even if the file was written before.
		f, err = duplicate(n)
	} else {
		f, err = openFIFO(ctx, name, os.O_WRONLY)
	}
	if err != nil {
		return nil, c.createError(name, err)
	}
	if isTerminal(f) {
		f.Close()
		return nil, terminalError(name)
	}
	return writeCloser{newInterruptibleWriter(ctx, f), f}, nil
}

func terminalError(name string) error {
	return &hintError{
		fmt.Errorf("%s is a terminal; a disk is not written to it", name),
		"redirect the output to a file or into a pipe",
	}
}

// writeCloser writes to one object, and closes another one.
type writeCloser struct {
	io.Writer
	io.Closer
}

// nopCloser is a writer whose Close does nothing.
type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
