package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable escapes the control characters of a text, as a Go string literal does. Names of files
// and parents may contain any of them. Line ends and tabs stay. So do bytes that are not UTF-8,
// because the text may end within a character.
func printable(text string) string {
	return escape(text, func(r rune, n int) bool {
		return !unicode.IsPrint(r) && r != '\n' && r != '\r' && r != '\t' && (r != utf8.RuneError || n > 1)
	})
}

// printedName returns the name of a file as one printed line. qemu-img prints names unchanged.
func (c *cli) printedName(name string) string {
	if c.likeQEMU {
		return name
	}
	return oneLine(name)
}

// oneLine escapes the characters that end a line or control a terminal.
func oneLine(text string) string {
	return escape(text, func(r rune, n int) bool { return !unicode.IsPrint(r) || r == utf8.RuneError && n == 1 })
}

// escape escapes the characters, each of n bytes, for which obeyed returns true.
func escape(text string, obeyed func(r rune, n int) bool) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if obeyed(r, n) {
			q := strconv.Quote(text[:n])
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteString(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}

// printableOn returns p for an output. If that is a terminal, control characters are escaped.
func printableOn(w io.Writer, p []byte) []byte {
	if !isTerminal(w) {
		return p
	}
	return []byte(printable(string(p)))
}

// printTo prints a line to an output. If that is a terminal, control characters are escaped.
func printTo(w io.Writer, format string, args ...any) {
	_, _ = w.Write(printableOn(w, fmt.Appendf(nil, format+"\n", args...)))
}
