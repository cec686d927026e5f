package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// The help of the program and of a command fits a narrow terminal. On a wide one it has at
// most 80 columns.
func TestHelpWidth(t *testing.T) {
	widest := func(text string) int {
		n := 0
		for line := range strings.Lines(text) {
			n = max(n, utf8.RuneCountInString(line)-1)
		}
		return n
	}
	for _, c := range []struct {
		columns uint16
		args    []string
		most    int
	}{
		{60, []string{"help", "check"}, 60},
		{60, []string{"help"}, 60},
		{60, []string{"help", "sizes"}, 60},
		{80, []string{"help", "convert"}, 80},
		{200, []string{"help", "convert"}, 80},
	} {
		text, err := onTerminalOf(t, c.columns, append([]string{"vhdtool"}, c.args...)...)
		if n := widest(text); err != nil || n > c.most || n < c.most-8 {
			t.Errorf("%q on %d columns: %v, the widest line has %d, want up to %d:\n%s", c.args, c.columns, err, n, c.most, text)
		}
	}
}
