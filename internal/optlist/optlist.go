// Package optlist parses option lists of qemu's command lines, such as
// "key=value,key2=value2,switch".
package optlist

import (
	"fmt"
	"strings"
)

// Option is one option. A key without a value has the value "on" and Bare set. "nokey" means
// key=off only if the caller knows no option of that name, so Key is as typed.
type Option struct {
	Key, Value string
	Bare       bool
}

// Parse splits a list. In a value, a doubled comma is a literal comma.
func Parse(s string) ([]Option, error) {
	var list []Option
	for rest := s; ; {
		var item string
		var more bool
		item, rest, more = nextItem(rest)
		key, value, given := strings.Cut(item, "=")
		if key == "" {
			return nil, fmt.Errorf("invalid option list: %s", s)
		}
		if !given {
			value = "on"
		}
		list = append(list, Option{Key: key, Value: value, Bare: !given})
		if !more || rest == "" { // qemu accepts a trailing comma
			return list, nil
		}
	}
}

// nextItem splits a list at the next single comma. more is false at the end of the list.
func nextItem(s string) (item, rest string, more bool) {
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

// HasHelp reports whether a list requests help.
func HasHelp(list []Option) bool {
	for _, o := range list {
		if o.Bare && (o.Key == "help" || o.Key == "?") {
			return true
		}
	}
	return false
}
