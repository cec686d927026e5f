package undo

import (
	"cmp"
	"iter"
	"slices"
)

// sectorSet is a subset of the sectors of some spans, with one bit per sector.
type sectorSet struct {
	of    spans
	first []int64 // index of the first sector of each span
	has   []uint64
}

// newSectorSet returns an empty set for spans of whole sectors.
func newSectorSet(of spans) *sectorSet {
	x := &sectorSet{of: of}
	n := int64(0)
	for _, s := range of {
		x.first = append(x.first, n)
		n += (s.End - s.Start) / sectorSize
	}
	x.has = make([]uint64, (n+63)/64)
	return x
}

// index returns the index of the sector at offset off, which must be in one of the spans.
func (x *sectorSet) index(off int64) int64 {
	i, found := slices.BinarySearchFunc(x.of, off, func(s Span, at int64) int { return cmp.Compare(s.Start, at) })
	if !found {
		i--
	}
	return x.first[i] + (off-x.of[i].Start)/sectorSize
}

func (x *sectorSet) add(off int64) {
	i := x.index(off)
	x.has[i/64] |= 1 << (i % 64)
}

// unknown yields the offsets of the sectors in s that are in the spans but not in the set.
func (x *sectorSet) unknown(s Span) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		for k, span := range x.of {
			for off := max(span.Start, s.Start); off < min(span.End, s.End); off += sectorSize {
				i := x.first[k] + (off-span.Start)/sectorSize
				if x.has[i/64]>>(i%64)&1 == 0 && !yield(off) {
					return
				}
			}
		}
	}
}
