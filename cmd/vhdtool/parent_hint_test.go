package main

import "testing"

// Names in hints can be pasted into a shell, and cannot control a terminal.
func TestQuoteArg(t *testing.T) {
	for name, want := range map[string]string{
		"a/b-1.vhd": "a/b-1.vhd",
		"größe.vhd": "größe.vhd",
		"":          "''",
		"a b":       "'a b'",
		"it's":      `'it'\''s'`,
		"a\x1b'b\n": `$'a\x1b\'b\n'`,
	} {
		if got := quoteArg(name); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}
