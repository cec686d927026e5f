package vhd

import (
	"cmp"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// maxLost is how many lost ranges are listed.
const maxLost = 1 << 16

// lostList collects lost ranges in the order of the disk. It merges neighbours.
type lostList []disk.LostRange

// add appends a range that starts at the end of the last one or after it. If the list is
// full, the last range grows to the end of the new one: a list may name too much, but
// not too little.
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

// under returns the ranges of both lists: those of l, and what those of b do not share
// with them.
func (l lostList) under(b lostList) lostList {
	if len(b) == 0 {
		return l
	}
	var out lostList
	put := func(x disk.LostRange, off, end int64) { out.add(off, end-off, x.Doubtful, x.Reason) }
	at := int64(0) // what is before it is listed
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

// doubtfulList is the list of ranges in any order, which may overlap.
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

// with returns the ranges that are doubtful, or those that are not.
func (l lostList) with(doubtful bool) lostList {
	var out lostList
	for _, x := range l {
		if x.Doubtful == doubtful {
			out = append(out, x)
		}
	}
	return out
}
