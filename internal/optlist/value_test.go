package optlist

import (
	"errors"
	"testing"
)

func TestValues(t *testing.T) {
	for s, want := range map[string]bool{"on": true, "yes": true, "true": true, "y": true, "off": false, "no": false, "false": false, "n": false} {
		if got, err := Bool("k", s); got != want || err != nil {
			t.Errorf("Bool(%q): %t, %v", s, got, err)
		}
	}
	var syntax *SyntaxError
	for _, s := range []string{"", "ON", "1", "onn"} {
		if _, err := Bool("k", s); !errors.As(err, &syntax) || err.Error() != "Parameter 'k' expects 'on' or 'off'" {
			t.Errorf("Bool(%q): %v", s, err)
		}
	}
	if n, err := Size("k", "3k"); n != 3072 || err != nil {
		t.Errorf("Size: %d, %v", n, err)
	}
	if _, err := Size("k", "x"); !errors.As(err, &syntax) {
		t.Errorf("Size: %v", err)
	}
	if err := Only(map[string]string{"a": "", "b": ""}, "b", "a", "c"); err != nil {
		t.Error(err)
	}
	if err := Only(map[string]string{"z": "", "b": "", "a": ""}, "a"); err == nil || err.Error() != "Invalid parameter 'b'" {
		t.Errorf("Only: %v", err)
	}
}
