package optlist

import (
	"strings"
	"testing"
)

// FuzzParse searches for lists that Parse splits differently than they were joined.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "a", "a=b", "a=b,,c,d", ",", "a=,,,b=", "help", "=x", "a,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := Parse(s)
		if err != nil {
			return
		}
		var items []string
		for _, o := range list {
			if o.Key == "" || o.Bare && o.Value != "on" {
				t.Fatalf("Parse(%q) = %+v", s, list)
			}
			item := o.Key
			if !o.Bare {
				item += "=" + o.Value
			}
			items = append(items, strings.ReplaceAll(item, ",", ",,"))
		}
		joined := strings.Join(items, ",")
		if joined != s && joined+"," != s {
			t.Fatalf("Parse(%q) = %+v, which is %q", s, list, joined)
		}
	})
}
