package main

import (
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// statusLine is the last line of the terminal that is stderr. It is rewritten in place, with
// carriage returns and blanks only. Other output to the terminal uses writeOver, which erases the
// line first. All methods may be called concurrently.
type statusLine struct {
	f     *os.File
	width func() int // of the terminal, in columns

	permanent bool // f is no terminal: each line stays, and is ended

	mu      sync.Mutex
	used    bool
	shown   int  // columns on the screen
	partial bool // other output has left a line unfinished
}

// newStatusLine returns the status line of the terminal f.
func newStatusLine(f *os.File) *statusLine {
	return &statusLine{f: f, permanent: !isTerminal(f), width: func() int {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
			return n
		}
		return 80
	}}
}

// isUsable reports whether the line can be rewritten: f must be a terminal that is not dumb. A nil
// line cannot.
func (l *statusLine) isUsable() bool {
	return l != nil && !l.permanent && !isDumb(os.Getenv("TERM"))
}

// show replaces the line by the result of text, which must be shorter than the width that it is
// called with.
func (l *statusLine) show(text func(width int) string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.partial {
		return
	}
	width := l.width()
	line := text(width)
	blanks := max(0, min(l.shown, width-1)-len(line))
	l.write("\r" + line + strings.Repeat(" ", blanks) + strings.Repeat("\b", blanks))
	l.used, l.shown = true, len(line)
}

// erase removes the line, or ends it if it cannot be rewritten.
func (l *statusLine) erase() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.eraseLocked()
}

func (l *statusLine) eraseLocked() {
	switch {
	case l.shown == 0:
	case l.permanent:
		l.write("\n")
		l.shown = 0
	default:
		l.write("\r" + strings.Repeat(" ", min(l.shown, l.width()-1)) + "\r")
		l.shown = 0
	}
}

// write ignores errors: a lost status line fails no command.
func (l *statusLine) write(s string) { _, _ = l.f.WriteString(s) }

// writeOver writes p to f. If f is a terminal, it removes the line before.
func (l *statusLine) writeOver(f *os.File, p []byte) (int, error) {
	l.mu.Lock()
	if !l.used || f != l.f && !isTerminal(f) {
		l.mu.Unlock()
		return f.Write(p)
	}
	defer l.mu.Unlock()
	l.eraseLocked()
	if len(p) > 0 {
		l.partial = p[len(p)-1] != '\n'
	}
	return f.Write(p)
}

// messageOutput is stderr. Its messages never mix with the status line.
type messageOutput struct {
	f    *os.File
	line *statusLine
}

// Write implements [io.Writer].
func (o *messageOutput) Write(p []byte) (int, error) { return o.line.writeOver(o.f, p) }

// Fd returns the file's number.
func (o *messageOutput) Fd() uintptr { return o.f.Fd() }
