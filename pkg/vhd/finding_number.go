package vhd

import "github.com/vhdtool/vhdtool/pkg/disk"

// number adds the value of the field, and the limits in want.
func (f *finding) number(found uint64, want disk.Number) *finding {
	want.Found = found
	f.Number = &want
	return f
}

// oneOf wants one of the values.
func oneOf(values ...uint64) disk.Number { return disk.Number{OneOf: values} }

// atMost wants a value up to n.
func atMost(n uint64) disk.Number { return disk.Number{Max: &n} }

// atLeast wants a value from n on.
func atLeast(n uint64) disk.Number { return disk.Number{Min: &n} }

// between wants a value from least to most.
func between(least, most uint64) disk.Number { return disk.Number{Min: &least, Max: &most} }

// multipleOf wants a multiple of n.
func multipleOf(n uint64) disk.Number { return disk.Number{MultipleOf: n} }

// sectorsBetween wants a multiple of the sector size from least to most, in bytes.
func sectorsBetween(least, most uint64) disk.Number {
	return disk.Number{Min: &least, Max: &most, MultipleOf: SectorSize}
}

// powersOfTwo wants a power of two from least to most, which are powers of two.
func powersOfTwo(least, most uint64) disk.Number {
	var n disk.Number
	for v := least; v <= most; v *= 2 {
		n.OneOf = append(n.OneOf, v)
	}
	return n
}

// numbered returns the finding of the run, with the sector that is farthest from a valid one.
func (f *faultRun) numbered(l *layout, p *placement) finding {
	x := f.finding(l, p)
	if f.region != nil {
		return *x.number(uint64(f.least), atLeast(uint64(roundUp(f.region.end, SectorSize)/SectorSize)))
	}
	return *x.number(uint64(f.most), atMost(uint64(max(0, p.limit-p.stored)/SectorSize)))
}
