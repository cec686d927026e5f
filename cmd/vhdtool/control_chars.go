package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// escapeControls escapes what a terminal may obey: control characters and bytes that are no
// UTF-8. Names come from images and directories. Newlines stay if they are in keep.
func escapeControls(s, keep string) string {
	bad := func(r rune) bool {
		return (unicode.IsControl(r) || r == utf8.RuneError) && !strings.ContainsRune(keep, r)
	}
	if !strings.ContainsFunc(s, bad) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case !bad(r), r == utf8.RuneError && n > 1:
			b.WriteString(s[:n])
		case r == utf8.RuneError || r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		s = s[n:]
	}
	return b.String()
}

// printedName is a file's name as it is printed: qemu-img prints it as it is.
func (c *cli) printedName(name string) string {
	if c.likeQEMU {
		return name
	}
	return escapeControls(name, "")
}
