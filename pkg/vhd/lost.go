package vhd

import (
	"cmp"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// maxLost is the most lost ranges that are listed.
const maxLost = 1 << 16

// lostList is a list of lost ranges in the order of the disk. Adjacent ranges are merged.
type lostList []disk.LostRange

// add appends a range that starts at or after the end of the last one. If the list is full, the
// last range grows to the end of the new one: a list may name too much, but not too little.
func (l *lostList) add(off, n int64, doubtful bool, reason string) {
	if n <= 0 {
		return
	}
	if k := len(*l) - 1; k >= 0 {
		last := &(*l)[k]
		same := last.Doubtful == doubtful && last.Reason == reason
		if same && last.Off+last.N == off {
			last.N += n
			return
		}
		if k+1 == maxLost {
			last.N = off + n - last.Off
			last.Doubtful, last.Reason = true, lostTooMany
			return
		}
	}
	*l = append(*l, disk.LostRange{Range: disk.Range{Off: off, N: n}, Doubtful: doubtful, Reason: reason})
}

// under returns the ranges of l, and the parts of those of b that l does not cover.
func (l lostList) under(b lostList) lostList {
	if len(b) == 0 {
		return l
	}
	var out lostList
	put := func(x disk.LostRange, off, end int64) { out.add(off, end-off, x.Doubtful, x.Reason) }
	at := int64(0) // ranges before it are done
	for _, x := range b {
		off, end := max(x.Off, at), x.Off+x.N
		for len(l) > 0 && l[0].Off < end {
			put(x, off, l[0].Off)
			put(l[0], l[0].Off, l[0].Off+l[0].N)
			at = l[0].Off + l[0].N
			off = max(off, at)
			l = l[1:]
		}
		put(x, off, end)
	}
	for _, x := range l {
		put(x, x.Off, x.Off+x.N)
	}
	return out
}

// doubtfulList returns a list of the ranges, which may overlap, in any order.
func doubtfulList(ranges []disk.Range, reason string) lostList {
	slices.SortFunc(ranges, func(a, b disk.Range) int { return cmp.Compare(a.Off, b.Off) })
	var out lostList
	end := int64(0)
	for _, r := range ranges {
		if off := max(r.Off, end); off < r.Off+r.N {
			out.add(off, r.Off+r.N-off, true, reason)
			end = r.Off + r.N
		}
	}
	return out
}

// with returns the ranges that are doubtful, or the others.
func (l lostList) with(doubtful bool) lostList {
	var out lostList
	for _, x := range l {
		if x.Doubtful == doubtful {
			out = append(out, x)
		}
	}
	return out
}
