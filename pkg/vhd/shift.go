package vhd

import (
	"errors"
	"fmt"
	"io"
	"math"
)

// ErrShifted: bytes are missing inside the file, or were added, so that everything after them
// is at a wrong offset. Only another copy of the file helps.
var ErrShifted = errors.New("bytes are missing or were added inside the file, which no repair can undo")

// shifted is the finding that the trailing footer is n bytes before its correct offset, or with
// a negative n after it. n is 0 if the distance is unknown.
func shifted(off, n int64) finding {
	f := finding{Finding: Finding{
		ID: "bytes-missing", Severity: Error, Offset: off, Field: "position of the trailing footer",
		Got:  fmt.Sprintf("byte %d: %d bytes are missing inside the file", off, n),
		Want: fmt.Sprintf("byte %d; copy the file again from its source, in binary mode", off+n), Bytes: max(n, -n),
	}}
	switch {
	case n < 0:
		f.ID = "bytes-added"
		f.Got = fmt.Sprintf("byte %d: %d bytes were added inside the file", off, -n)
	case n == 0:
		f.Got = fmt.Sprintf("byte %d: at least %d bytes are missing inside the file", off, SectorSize-off%SectorSize)
		f.Want = "a multiple of 512; copy the file again from its source, in binary mode"
	}
	return f
}

// unaligned searches for a valid trailing footer whose offset is not a multiple of 512. A
// transfer in text mode, which removes or adds bytes, causes that. It returns the finding, or
// none. A fixed disk of any length has its footer right after it.
func (fs *footers) unaligned(r io.ReaderAt) ([]finding, error) {
	c := &fs.trailing
	if !c.valid() || c.off%SectorSize == 0 {
		return nil, nil
	}
	if c.Type == Fixed {
		if c.CurrentSize == uint64(c.off) || c.CurrentSize > 1<<62 {
			return nil, nil
		}
		return []finding{shifted(c.off, int64(c.CurrentSize)-c.off)}, nil
	}
	h, found, err := readHeader(r, c, c.off)
	if err != nil {
		return nil, err
	}
	if refusal(found, true) != nil || len(h.validateTable(c.DataOffset, c.off)) > 0 {
		return []finding{shifted(c.off, 0)}, nil
	}
	lay := layoutOf(&c.Footer, &h, math.MaxInt64)
	t, err := readBAT(r, lay.batOff, blocksHeld(&c.Footer, &h, 0))
	if err != nil {
		return nil, err
	}
	end := max(lay.batEnd(), t.end(lay.stored()))
	for _, x := range h.locatorRegions(c.off) {
		end = max(end, x.end)
	}
	n := roundUp(end, SectorSize) - c.off
	if n > c.off || n < -c.off/2 {
		n = 0 // the BAT is shifted, too
	}
	return []finding{shifted(c.off, n)}, nil
}

// cutInside detects bytes that are missing inside a file with a trailing footer. Then entries
// point past the footer, at the usual distance from the entries before. The bitmaps of the last
// two blocks are closer to the start of the file, both by the same number of bytes. If only an
// entry were wrong, one of the bitmaps would not be.
//
// A bitmap is recognised if all its bits are set. Whole missing blocks cannot be distinguished
// from wrong entries.
func (t bat) cutInside(r io.ReaderAt, l *layout) ([]finding, error) {
	stored := l.stored()
	last := [2]int64{-1, -1} // offsets of the last two blocks
	beyond := false
	for e := range t.offsets(t.apart(0)) {
		start := int64(e) * SectorSize
		gap := start - last[1]
		if start+stored > l.limit {
			if last[1] < 0 || gap < stored || gap > stored+dataAlign+footerSize {
				return nil, nil
			}
			beyond = true
		}
		last = [2]int64{last[1], start}
	}
	n := last[1] + stored - l.limit
	if !beyond || n%stored == 0 || n%(last[1]-last[0]) == 0 {
		return nil, nil
	}
	for _, start := range last {
		there, err := l.bitmapAt(r, start)
		if err != nil || there {
			return nil, err
		}
		if there, err = l.bitmapAt(r, start-n); err != nil || !there {
			return nil, err
		}
	}
	return []finding{shifted(l.limit, n)}, nil
}

// bitmapAt reports whether a sector bitmap with all bits set is at off, before the limit.
func (l *layout) bitmapAt(r io.ReaderAt, off int64) (bool, error) {
	if off < 0 || off+l.bitmapSize > l.limit {
		return false, nil
	}
	bits := make([]byte, l.bitmapSize)
	err := readFull(r, bits, off)
	return err == nil && allBits(bits, l.blockSize/SectorSize), err
}
