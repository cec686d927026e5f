package product

import (
	"fmt"
	"strings"
)

// Rule is a product's requirement for one field of an image.
type Rule struct {
	Name   string // stable, such as "azure-size-multiple"
	Field  string // such as "current size"
	Wants  string // the requirement for the field, for people
	Reason string // the consequence of breaking the rule
	Source string // the source of this knowledge

	// check returns the value that was found in the field, and the wanted one. broken reports
	// whether the rule is broken; if not, the other results are ignored.
	check func(s *subject) (found any, wanted Want, broken bool)
}

// BrokenRule is a rule that an image breaks.
type BrokenRule struct {
	Name  string `json:"name"` // name of the rule
	Field string `json:"field"`
	// Found is a number, a text, a list of these, or a [vhd.Geometry]. Sizes are in bytes,
	// times are in RFC 3339, versions are "MAJOR.MINOR".
	Found  any  `json:"found"`
	Wanted Want `json:"wanted"`
}

// String returns the broken rule as one line for people.
func (b BrokenRule) String() string {
	return fmt.Sprintf("%s: %s: found %s, wanted %v", b.Name, b.Field, text(b.Found), b.Wanted)
}

// Want is the requirement of a rule: one of some values, a value in a range, or a multiple of a
// number. Exactly one of these is set.
type Want struct {
	OneOf      []any `json:"one-of,omitempty"`
	Min        any   `json:"min,omitempty"` // nil: no minimum
	Max        any   `json:"max,omitempty"` // nil: no maximum
	MultipleOf int64 `json:"multiple-of,omitempty"`
}

// String returns the requirement in words for people.
func (w Want) String() string {
	switch {
	case w.MultipleOf != 0:
		return "a multiple of " + text(w.MultipleOf)
	case w.Min != nil && w.Max != nil:
		return fmt.Sprintf("from %s to %s", text(w.Min), text(w.Max))
	case w.Min != nil:
		return "at least " + text(w.Min)
	case w.Max != nil:
		return "at most " + text(w.Max)
	}
	var all []string
	for _, v := range w.OneOf {
		all = append(all, text(v))
	}
	return strings.Join(all, " or ")
}

// text formats a value for people. Large round numbers are formatted as sizes.
func text(v any) string {
	switch v := v.(type) {
	case []string:
		return strings.Join(v, ", ")
	case int64:
		switch {
		case v >= gib && v%gib == 0:
			return fmt.Sprintf("%d (%d GiB)", v, v/gib)
		case v >= mib && v%mib == 0:
			return fmt.Sprintf("%d (%d MiB)", v, v/mib)
		}
	}
	return fmt.Sprint(v)
}

// oneOf wants one of the values.
func oneOf[T any](values ...T) Want {
	var w Want
	for _, v := range values {
		w.OneOf = append(w.OneOf, v)
	}
	return w
}
