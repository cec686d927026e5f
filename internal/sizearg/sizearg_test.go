package sizearg

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
)

// parseTests are sizes as qemu parses them. TestParseLikeQEMU compares them with qemu-img.
var parseTests = []struct {
	in   string
	want int64
	err  error
}{
	{"0", 0, nil},
	{"1", 1, nil},
	{"512", 512, nil},
	{"007", 7, nil},
	{"10b", 10, nil},
	{"10B", 10, nil},
	{"1k", 1 << 10, nil},
	{"1K", 1 << 10, nil},
	{"10M", 10 << 20, nil},
	{"3m", 3 << 20, nil},
	{"40G", 40 << 30, nil},
	{"2T", 2 << 40, nil},
	{"2040g", 2040 << 30, nil},
	{"1P", 1 << 50, nil},
	{"1e", 1 << 60, nil},
	{"7E", 7 << 60, nil},
	{"9223372036854775807", math.MaxInt64, nil},
	{" 5k", 5 << 10, nil},
	{"\t+5k", 5 << 10, nil},
	{"+1", 1, nil},
	{"0x10", 16, nil},
	{"0XfF", 255, nil},
	{"0x1b", 27, nil}, // b and e are digits here
	{"0x1e", 30, nil},
	{"1.5k", 1536, nil},
	{"1.k", 1024, nil},
	{"2.0M", 2 << 20, nil},
	{"1.5M", 3 << 19, nil},
	{"0.1k", 102, nil},
	{"1.0008k", 1025, nil},
	{"1.0004k", 1024, nil},
	{"0.5G", 1 << 29, nil},
	{"1.999T", 2197923743924, nil},
	{"7.9E", 9108079886394091136, nil}, // the fraction is a float64

	{"", 0, ErrSyntax},
	{" ", 0, ErrSyntax},
	{"+", 0, ErrSyntax},
	{"k", 0, ErrSyntax},
	{"x", 0, ErrSyntax},
	{"10MB", 0, ErrSyntax},
	{"10MiB", 0, ErrSyntax},
	{"10 M", 0, ErrSyntax},
	{"10M ", 0, ErrSyntax},
	{"1e6", 0, ErrSyntax},
	{"1.5", 0, ErrSyntax},
	{"1.5b", 0, ErrSyntax},
	{".5k", 0, ErrSyntax},
	{"1..5k", 0, ErrSyntax},
	{"1.5.5k", 0, ErrSyntax},
	{"0x1.8k", 0, ErrSyntax},
	{"0x", 0, ErrSyntax},
	{"1,5k", 0, ErrSyntax},
	{"1_000", 0, ErrSyntax},
	{"inf", 0, ErrSyntax},
	{"nan", 0, ErrSyntax},
	{"10Z", 0, ErrSyntax},

	{"8E", 0, ErrRange},
	{"9E", 0, ErrRange},
	{"9223372036854775808", 0, ErrRange},
	{"18446744073709551616", 0, ErrRange},
	{"99999999999999999999999", 0, ErrRange},
	{"8192P", 0, ErrRange},
	{"0xffffffffffffffff", 0, ErrRange},
}

func TestParse(t *testing.T) {
	for _, c := range parseTests {
		t.Run(c.in, func(t *testing.T) {
			if got, err := Parse(c.in); got != c.want || !errors.Is(err, c.err) {
				t.Errorf("Parse(%q) = %d, %v; want %d, %v", c.in, got, err, c.want, c.err)
			}
		})
	}
	for _, s := range []string{"-1", "-1k", "- 1"} { // qemu-img parses these as options
		if n, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", s, n)
		}
	}
}

// TestParseLikeQEMU parses the same sizes with qemu-img.
func TestParseLikeQEMU(t *testing.T) {
	oracle.Need(t, "qemu-img")
	for _, c := range parseTests {
		t.Run(c.in, func(t *testing.T) {
			t.Parallel()
			// The size is printed before the file is created or found too large.
			out, _ := oracle.Try(t, "qemu-img", "create", "-f", "raw", filepath.Join(t.TempDir(), "f"), c.in)
			want := fmt.Sprintf(" size=%d\n", c.want)
			switch {
			case errors.Is(c.err, ErrSyntax):
				want = "You may use k, M, G, T, P or E suffixes"
			case errors.Is(c.err, ErrRange):
				want = "Must be between 0 and 9223372036854775807."
			}
			if !strings.Contains(out, want) {
				t.Errorf("qemu-img says %q to %q, want %q", out, c.in, want)
			}
		})
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		n    int64
		want string
	}{
		{0, "0 B"},
		{1, "1 B"},
		{512, "512 B"},
		{999, "999 B"},
		{1000, "0.977 KiB"},
		{1023, "0.999 KiB"},
		{1024, "1 KiB"},
		{1536, "1.5 KiB"},
		{2560, "2.5 KiB"},
		{4096, "4 KiB"},
		{999 << 10, "999 KiB"},
		{1000 << 10, "0.977 MiB"},
		{1 << 20, "1 MiB"},
		{10485760, "10 MiB"},
		{10514432, "10 MiB"},
		{1079296, "1.03 MiB"},
		{127 << 30, "127 GiB"},
		{136365219840, "127 GiB"},
		{2190433320960, "1.99 TiB"},
		{1 << 50, "1 PiB"},
		{1 << 60, "1 EiB"},
		{math.MaxInt64, "8 EiB"},
		// Halves are rounded to even.
		{1024*9 + 128, "9.12 KiB"},
		{1024*9 + 384, "9.38 KiB"},
	} {
		if got := Format(c.n); got != c.want {
			t.Errorf("Format(%d) = %q, want %q", c.n, got, c.want)
		}
	}
}

// TestFormatLikeQEMU compares with the sizes that qemu-img prints.
func TestFormatLikeQEMU(t *testing.T) {
	oracle.Need(t, "qemu-img")
	for _, n := range []int64{0, 512, 1024, 999936, 1023 << 10, 9<<20 + 128<<10, 9<<20 + 384<<10, 1048064, 1 << 29, 999 << 20, 1000 << 20, 1<<40 - 512} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "f")
			oracle.QemuImg(t, "create", "-q", "-f", "raw", file, fmt.Sprint(n))
			out := oracle.QemuImg(t, "info", "-f", "raw", file)
			if want := fmt.Sprintf("virtual size: %s (%d bytes)\n", Format(n), n); !strings.Contains(out, want) {
				t.Errorf("qemu-img says %q, want %q", out, want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range parseTests {
		f.Add(c.in)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Parse(s)
		if n < 0 || err != nil && n != 0 || err != nil && !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrRange) {
			t.Errorf("Parse(%q) = %d, %v", s, n, err)
		}
		if err != nil {
			return
		}
		if again, err := Parse(fmt.Sprint(n)); again != n || err != nil {
			t.Errorf("Parse(%d) = %d, %v", n, again, err)
		}
	})
}
