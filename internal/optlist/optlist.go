// Package optlist is the grammar of option lists on qemu's command lines:
// "key=value,key2=value2,switch".
package optlist

import (
	"fmt"
	"strings"
)

// Option is one setting. A key that was given alone has the value "on", or
// with "no" before it the value "off"; which of the two is known only to who
// knows the keys, so Bare is set and Key is as typed.
type Option struct {
	Key, Value string
	Bare       bool
}

// Parse splits a list. In a value, two commas stand for one.
func Parse(s string) ([]Option, error) {
	var list []Option
	for rest := s; ; {
		var item string
		var more bool
		item, rest, more = cut(rest)
		key, value, given := strings.Cut(item, "=")
		if key == "" {
			return nil, fmt.Errorf("invalid option list: %s", s)
		}
		if !given {
			value = "on"
		}
		list = append(list, Option{Key: key, Value: value, Bare: !given})
		if !more || rest == "" { // qemu lets a last comma pass
			return list, nil
		}
	}
}

// cut takes the item up to the next single comma off a list.
func cut(s string) (item, rest string, more bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != ',' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == ',' {
			b.WriteByte(',')
			i++
			continue
		}
		return b.String(), s[i+1:], true
	}
	return b.String(), "", false
}

// HasHelp reports whether a list asks for help instead of setting something.
func HasHelp(list []Option) bool {
	for _, o := range list {
		if o.Bare && (o.Key == "help" || o.Key == "?") {
			return true
		}
	}
	return false
}
