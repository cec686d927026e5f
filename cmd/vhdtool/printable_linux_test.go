package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestControlCharacters: control characters in names are escaped on a terminal. Programs that
// read the output get them unchanged.
func TestControlCharacters(t *testing.T) {
	const evil = "\x1b[2J\u202e\u009b1mé\U0001f4be.raw"
	const shown = `\x1b[2J\u202e\u009b1mé💾.raw`
	dir := t.TempDir()
	name := filepath.Join(dir, evil)
	sparseFile(t, name, 1<<20)
	for _, c := range []struct {
		args []string
		want string // a line
	}{
		{[]string{"info", name}, "image: " + dir + "/" + shown},
		{[]string{"info", name + "x"}, "vhdtool: " + dir + "/" + shown + "x: no such file or directory"},
		{[]string{"map", "--output=human", name}, ""},
		{[]string{"create", "-f", "raw", name, "1M"}, "Formatting '" + dir + "/" + shown + "', fmt=raw size=1048576"},
	} {
		out, _ := onTerminalOf(t, 80, append([]string{"vhdtool"}, c.args...)...)
		if strings.Contains(out, "\x1b") || c.want != "" && !strings.Contains(out, c.want+"\n") {
			t.Errorf("%s on a terminal prints\n%q\nwant a line\n%q", c.args[0], out, c.want)
		}
		out2, _ := exec.Command("vhdtool", c.args...).CombinedOutput()
		want := c.want
		if c.args[0] != "info" || c.args[1] != name { // info prints names on one line everywhere
			want = strings.Replace(want, shown, evil, 1)
		}
		if !strings.Contains(string(out2), want) {
			t.Errorf("%s into a pipe prints\n%q\nwant a line\n%q", c.args[0], out2, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":              "",
		"a b\n\tc\r":    "a b\n\tc\r",
		"a\x00b\x7f":    `a\x00b\x7f`,
		"\a\b":          `\a\b`,
		"é\xff":         "é\xff", // may be half a character
		"\u2066a\u200b": `\u2066a\u200b`,
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %q, want %q", in, got, want)
		}
	}
}
