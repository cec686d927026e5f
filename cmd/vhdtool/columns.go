package main

import (
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	defaultColumns = 80 // of an output that is not a terminal
	fewestColumns  = 40 // narrower terminals wrap the lines themselves
)

// columnsOf returns the width of an output in columns: the terminal's, or defaultColumns.
func columnsOf(w io.Writer) int {
	f, ok := w.(interface{ Fd() uintptr })
	if !ok {
		return defaultColumns
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil || n <= 0 {
		return defaultColumns
	}
	return max(n, fewestColumns)
}

// wrapText breaks the paragraphs of a text into lines of at most columns runes. Paragraphs are
// separated by empty lines. A paragraph with an indented line stays as it is.
func wrapText(text string, columns int) string {
	paragraphs := strings.Split(strings.Trim(text, "\n"), "\n\n")
	for i, p := range paragraphs {
		if !strings.HasPrefix(p, " ") && !strings.Contains(p, "\n ") {
			paragraphs[i] = strings.Join(wrapWords(strings.Fields(p), columns), "\n")
		}
	}
	return strings.Join(paragraphs, "\n\n")
}

// wrapWords puts words on lines of at most columns runes. A longer word has a line of its own.
func wrapWords(words []string, columns int) []string {
	var lines []string
	line, length := "", 0
	for _, w := range words {
		n := utf8.RuneCountInString(w)
		switch {
		case line == "":
			line, length = w, n
		case length+1+n <= columns:
			line, length = line+" "+w, length+1+n
		default:
			lines = append(lines, line)
			line, length = w, n
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
