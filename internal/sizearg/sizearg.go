// Package sizearg parses sizes of qemu's command lines, and formats sizes as qemu does.
package sizearg

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

var (
	// ErrSyntax reports an argument that is not a size.
	ErrSyntax = errors.New("not a size: want a number, with an optional suffix k, M, G, T, P or E for powers of 1024")
	// ErrRange reports a size that does not fit in 63 bits.
	ErrRange = errors.New("size out of range: want 0 to 9223372036854775807")
)

// Parse parses a size in bytes: decimal or 0x hexadecimal digits, then at most one of the
// suffixes b, k, M, G, T, P, E. Case does not matter. Each suffix is 1024 times the one before.
// Blanks and a + before the number are allowed.
//
// A decimal number may have a fraction, and the result is rounded to the nearest byte. Without
// a suffix larger than b, the fraction must be zero. See util/cutils.c of qemu.
func Parse(s string) (int64, error) {
	s = strings.TrimPrefix(strings.TrimLeft(s, " \t\n\v\f\r"), "+")
	base, digits := 10, "0123456789"
	if rest, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		base, digits, s = 16, "0123456789abcdefABCDEF", rest
	}
	whole, rest := span(s, digits)
	if whole == "" {
		return 0, ErrSyntax
	}
	n, ok := new(big.Int).SetString(whole, base)
	if !ok {
		return 0, ErrSyntax
	}
	fraction := ""
	if after, ok := strings.CutPrefix(rest, "."); ok && base == 10 {
		fraction, rest = span(after, digits)
	}
	shift := 0
	if rest != "" {
		i := strings.IndexByte("bkmgtpe", strings.ToLower(rest)[0])
		if i < 0 || len(rest) > 1 {
			return 0, ErrSyntax
		}
		shift = 10 * i
	}
	if shift == 0 && strings.Trim(fraction, "0") != "" {
		return 0, ErrSyntax // but 4096.0 is valid
	}
	n.Lsh(n, uint(shift))
	if fraction != "" {
		f, err := strconv.ParseFloat("0."+fraction, 64)
		if err != nil {
			return 0, ErrSyntax
		}
		// At most 2^60, so it fits. It is rounded as a float64, like in qemu.
		n.Add(n, big.NewInt(int64(f*float64(int64(1)<<shift)+0.5)))
	}
	if !n.IsInt64() {
		return 0, ErrRange
	}
	return n.Int64(), nil
}

// span splits s after its leading characters that are in set.
func span(s, set string) (head, rest string) {
	i := 0
	for i < len(s) && strings.IndexByte(set, s[i]) >= 0 {
		i++
	}
	return s[:i], s[i:]
}

// Format returns the size with three significant digits, such as "1.5 KiB". A unit is used from
// 1000 of the unit before it. See size_to_str of qemu.
func Format(n int64) string {
	units := []string{"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"}
	_, exp := math.Frexp(float64(n) / (1000.0 / 1024.0))
	i := max(exp-1, 0) / 10
	v := float64(n) / float64(int64(1)<<(10*i))
	return fmt.Sprintf("%0.3g %sB", v, units[i])
}
