package vhd_test

import (
	"slices"
	"strconv"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// checkNumber checks that a finding about a numeric field has the number and its limits, and
// that the number breaks them.
func checkNumber(t *testing.T, f vhd.Finding) {
	t.Helper()
	n := f.Number
	// It has two units.
	if v, err := strconv.ParseUint(f.Got, 0, 64); err == nil && f.ID != "locator-space" {
		if n == nil || n.Found != v {
			t.Errorf("%s: number %+v for the text %q", f.ID, n, f.Got)
		}
	}
	if n != nil && correct(n) {
		t.Errorf("%s: number %+v is correct by its own limits", f.ID, n)
	}
}

// correct reports whether a number is within all of its limits.
func correct(n *disk.Number) bool {
	return (n.OneOf == nil || slices.Contains(n.OneOf, n.Found)) &&
		(n.Min == nil || n.Found >= *n.Min) && (n.Max == nil || n.Found <= *n.Max) &&
		(n.MultipleOf == 0 || n.Found%n.MultipleOf == 0)
}
