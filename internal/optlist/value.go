package optlist

import (
	"fmt"
	"maps"
	"slices"

	"github.com/vhdtool/vhdtool/internal/sizearg"
)

// ValueKind is the kind of value that an option expects.
type ValueKind uint8

// The kinds of values.
const (
	Switch ValueKind = iota // on or off
	Number                  // a size in bytes
)

// SyntaxError is a value that is not of the kind that an option expects. The errors of this
// file have qemu's words.
type SyntaxError struct {
	Key, Value string
	Kind       ValueKind

	msg string
}

func (e *SyntaxError) Error() string { return e.msg }

// ValueError is a value that an option does not accept.
type ValueError struct{ Key, Value string }

func (e *ValueError) Error() string {
	return fmt.Sprintf("Parameter '%s' does not accept value '%s'", e.Key, e.Value)
}

// ParseBool parses a switch like qemu. ok is false for other values.
func ParseBool(s string) (on, ok bool) {
	switch s {
	case "on", "yes", "true", "y":
		return true, true
	case "off", "no", "false", "n":
		return false, true
	}
	return false, false
}

// Bool parses the value of a switch. The error is a *SyntaxError.
func Bool(key, value string) (bool, error) {
	on, ok := ParseBool(value)
	if !ok {
		return false, &SyntaxError{key, value, Switch, fmt.Sprintf("Parameter '%s' expects 'on' or 'off'", key)}
	}
	return on, nil
}

// Size parses a size in bytes. The error is a *SyntaxError.
func Size(key, value string) (int64, error) {
	n, err := sizearg.Parse(value)
	if err != nil {
		return 0, &SyntaxError{key, value, Number, fmt.Sprintf("Parameter '%s' expects a non-negative number below 2^64\n"+
			"Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.", key)}
	}
	return n, nil
}

// Errorf returns an error with qemu's wording, which starts with a capital letter.
func Errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// Only returns an error if options has a key that is not known.
func Only(options map[string]string, known ...string) error {
	for _, key := range slices.Sorted(maps.Keys(options)) {
		if !slices.Contains(known, key) {
			return Errorf("Invalid parameter '%s'", key)
		}
	}
	return nil
}
