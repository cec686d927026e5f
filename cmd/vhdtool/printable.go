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
// files and of parents may contain any of them. Ends of lines and tabs stay, and so do bytes that
// are not UTF-8: the text may end within a character.
func printable(text string) string {
	return escape(text, func(r rune, n int) bool {
		return !unicode.IsPrint(r) && r != '\n' && r != '\r' && r != '\t' && (r != utf8.RuneError || n > 1)
	})
}

// printedName returns the name of a file as it is printed, on one line. qemu-img prints names as
// they are.
func (c *cli) printedName(name string) string {
	if c.likeQEMU {
		return name
	}
	return oneLine(name)
}

// oneLine returns a text in which nothing can end the line or control a terminal.
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
