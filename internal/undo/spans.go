package undo

import (
	"cmp"
	"slices"
)

func roundDown(n int64) int64 { return n / sectorSize * sectorSize }
func roundUp(n int64) int64   { return roundDown(n + sectorSize - 1) }

// spans is a set of bytes: sorted spans that do not touch.
type spans []Span

// touching returns the indices [i, j) of the spans that overlap or adjoin s.
func (x spans) touching(s Span) (i, j int) {
	i, _ = slices.BinarySearchFunc(x, s.Start, func(a Span, at int64) int { return cmp.Compare(a.End, at) })
	for j = i; j < len(x) && x[j].Start <= s.End; j++ {
	}
	return i, j
}

// add adds s to the set.
func (x *spans) add(s Span) {
	if s.Start >= s.End {
		return
	}
	i, j := x.touching(s)
	if i < j {
		s = Span{min(s.Start, (*x)[i].Start), max(s.End, (*x)[j-1].End)}
	}
	*x = slices.Replace(*x, i, j, s)
}

// missing returns the parts of s that are not in the set.
func (x spans) missing(s Span) []Span {
	var gaps []Span
	i, j := x.touching(s)
	for _, have := range x[i:j] {
		if have.Start > s.Start {
			gaps = append(gaps, Span{s.Start, have.Start})
		}
		s.Start = max(s.Start, have.End)
	}
	if s.Start < s.End {
		gaps = append(gaps, s)
	}
	return gaps
}
