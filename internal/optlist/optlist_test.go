package optlist

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []Option
	}{
		{"a=b", []Option{{Key: "a", Value: "b"}}},
		{"subformat=fixed,force_size", []Option{{Key: "subformat", Value: "fixed"}, {Key: "force_size", Value: "on", Bare: true}}},
		{"a=1,a=2", []Option{{Key: "a", Value: "1"}, {Key: "a", Value: "2"}}},
		{"noforce_size", []Option{{Key: "noforce_size", Value: "on", Bare: true}}},
		{"a=", []Option{{Key: "a"}}},
		{"a=b=c", []Option{{Key: "a", Value: "b=c"}}},
		{"a=x,,y", []Option{{Key: "a", Value: "x,y"}}},
		{"a=,,,b", []Option{{Key: "a", Value: ","}, {Key: "b", Value: "on", Bare: true}}},
		{"a=,,,,", []Option{{Key: "a", Value: ",,"}}},
		{"a,", []Option{{Key: "a", Value: "on", Bare: true}}}, // qemu accepts a trailing comma
		{"driver=vpc,file.filename=a,,b.vhd", []Option{{Key: "driver", Value: "vpc"}, {Key: "file.filename", Value: "a,b.vhd"}}},
		{" a = b ", []Option{{Key: " a ", Value: " b "}}},
	} {
		got, err := Parse(c.in)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{"", ",", ",a", "=b", "a,=b", "a=b,,=,=c"} {
		if got, err := Parse(in); err == nil || !strings.Contains(err.Error(), in) {
			t.Errorf("Parse(%q) = %+v, %v; want an error that names it", in, got, err)
		}
	}
}

func TestHasHelp(t *testing.T) {
	for in, want := range map[string]bool{
		"help": true, "?": true, "a=b,help": true, "help,a=b": true,
		"help=on": false, "a=help": false, "nohelp": false, "a": false,
	} {
		list, err := Parse(in)
		if got := HasHelp(list); got != want || err != nil {
			t.Errorf("HasHelp(%q) = %v (%v), want %v", in, got, err, want)
		}
	}
}

// TestRoundTrip parses lists that it has quoted for qemu.
func TestRoundTrip(t *testing.T) {
	option := rapid.Custom(func(t *rapid.T) Option {
		return Option{
			Key:   rapid.StringMatching(`[a-z_.]{1,8}`).Draw(t, "key"),
			Value: rapid.StringOf(rapid.RuneFrom([]rune("ab=,. é"))).Draw(t, "value"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(option, 1, 5).Draw(t, "list")
		var items []string
		for _, o := range list {
			items = append(items, o.Key+"="+strings.ReplaceAll(o.Value, ",", ",,"))
		}
		got, err := Parse(strings.Join(items, ","))
		if err != nil || !slices.Equal(got, list) {
			t.Fatalf("Parse(%q) = %+v, %v; want %+v", strings.Join(items, ","), got, err, list)
		}
	})
}
