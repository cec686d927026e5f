package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable escapes the control characters of a text, as a Go string literal does. Names of
// files and of parents may contain any of them. Ends of lines and tabs stay.
func printable(text string) string { return escape(text, "\n\r\t") }

// printedName returns the name of a file as it is printed, on one line. qemu-img prints names as
// they are.
func (c *cli) printedName(name string) string {
	if c.likeQEMU {
		return name
	}
	return escape(name, "")
}

// escape escapes the characters that a terminal may obey, except those in keep.
func escape(text, keep string) string {
	obeyed := func(r rune) bool { return !unicode.IsPrint(r) && !strings.ContainsRune(keep, r) || r == utf8.RuneError }
	if !strings.ContainsFunc(text, obeyed) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if obeyed(r) {
			q := strconv.Quote(text[:n])
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteString(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}

// printableOn returns p as an output gets it: with control characters escaped if it is a
// terminal.
func printableOn(w io.Writer, p []byte) []byte {
	if !isTerminal(w) {
		return p
	}
	return []byte(printable(string(p)))
}

// printTo prints a line to an output, with control characters escaped if it is a terminal.
func printTo(w io.Writer, format string, args ...any) {
	_, _ = w.Write(printableOn(w, fmt.Appendf(nil, format+"\n", args...)))
}
