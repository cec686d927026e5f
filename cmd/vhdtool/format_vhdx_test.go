package main

import (
	"strings"
	"testing"
)

// The parent record of a VHDX is printed unless the parent follows. --verbose always prints it.
func TestVHDXParentLines(t *testing.T) {
	v := &vhdxDetails{
		PendingLogEntries: 1234,
		Parent:            &vhdxParent{DataWriteGUID: "6c7ff5e2", Paths: []string{`.\a"b.vhdx`}},
	}
	const parent = "parent: data write GUID 6c7ff5e2\nparent path: \".\\\\a\\\"b.vhdx\""
	for _, c := range []struct {
		o    infoLines
		want bool
	}{
		{infoLines{}, true},
		{infoLines{parentFollows: true}, false},
		{infoLines{parentFollows: true, verbose: true}, true},
	} {
		lines := strings.Join(v.lines(&c.o), "\n")
		if got := strings.HasSuffix(lines, "\n"+parent); got != c.want {
			t.Errorf("%+v: the parent record is printed: %v, want %v:\n%s", c.o, got, c.want, lines)
		}
		if !strings.Contains(lines, "log entries replayed in memory: 1,234\n") && c.want {
			t.Errorf("%+v: no line about the log:\n%s", c.o, lines)
		}
	}
}
