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
func printable(text string) string {
	if !strings.ContainsFunc(text, isObeyed) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if isObeyed(r) {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteString(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}

// isObeyed reports whether a terminal may obey a character instead of showing it. Such are
// control characters, and those that change the direction of the text.
func isObeyed(r rune) bool {
	return !unicode.IsPrint(r) && r != '\n' && r != '\r' && r != '\t'
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
