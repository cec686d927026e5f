package main

import (
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

// writePrintable writes p to an output, with control characters escaped if it is a terminal.
func writePrintable(w io.Writer, p []byte) (int, error) {
	if !isTerminal(w) {
		return w.Write(p)
	}
	if _, err := io.WriteString(w, printable(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
