package vhd

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
)

// unused is the BAT entry of a block that has no place in the file.
const unused = 0xffffffff

// bat is the block allocation table ("Block Allocation Table and Data
// Blocks"): for each block of the disk the sector of the file in which its
// sector bitmap starts. Entries are read and set atomically.
type bat []uint32

func (t bat) load(block int64) uint32         { return atomic.LoadUint32(&t[block]) }
func (t bat) store(block int64, entry uint32) { atomic.StoreUint32(&t[block], entry) }

// readBAT reads n entries at off. The caller has made sure that the file is
// that long.
func readBAT(r io.ReaderAt, off, n int64) (bat, error) {
	t := make(bat, n)
	buf := make([]byte, min(n*4, 1<<20))
	for i := int64(0); i < n; {
		b := buf[:min(int64(len(buf)), (n-i)*4)]
		if err := readFull(r, b, off+i*4); err != nil {
			return nil, fmt.Errorf("BAT: %w", err)
		}
		for ; len(b) > 0; b = b[4:] {
			t[i] = binary.BigEndian.Uint32(b)
			i++
		}
	}
	return t, nil
}

// batBytes is the size of a BAT of n entries in the file, in whole sectors.
func batBytes(n int64) int64 { return (n*4 + SectorSize - 1) / SectorSize * SectorSize }

// encode calls write with the table's entries from first on, as they stand in a
// file, padded with ones to a whole sector, in pieces. off counts from the start
// of the table.
func (t bat) encode(first int64, write func(b []byte, off int64) error) error {
	end := batBytes(int64(len(t)))
	buf := make([]byte, 0, min(end-first*4, 1<<20))
	for off := first * 4; off < end; off += int64(len(buf)) {
		buf = buf[:0]
		for i := off / 4; len(buf) < cap(buf) && i*4 < end; i++ {
			e := uint32(unused)
			if i < int64(len(t)) {
				e = t.load(i)
			}
			buf = binary.BigEndian.AppendUint32(buf, e)
		}
		if err := write(buf, off); err != nil {
			return fmt.Errorf("BAT: %w", err)
		}
	}
	return nil
}

// writeTo writes the entries from first on to the table that starts at start.
func (t bat) writeTo(w io.WriterAt, start, first int64) error {
	return t.encode(first, func(b []byte, off int64) error {
		_, err := w.WriteAt(b, start+off)
		return err
	})
}

// region is a part of the file that holds something other than blocks.
type region struct {
	name       string
	start, end int64
}

// layout is where things stand in the file of a dynamic image.
type layout struct {
	batOff     int64
	blockSize  int64
	bitmapSize int64
	regions    []region // metadata: the copy of the footer, header and BAT
	batmap     []region // XenServer's
	locators   []region // texts of parent locators
	limit      int64    // blocks end here: the trailing footer, or the end of the file
}

// metadata is all that is not a block.
func (l *layout) metadata() []region { return slices.Concat(l.regions, l.batmap, l.locators) }

// stored is what a block takes in the file.
func (l *layout) stored() int64 { return l.bitmapSize + l.blockSize }

// validate lists the entries that are impossible: blocks over metadata, behind
// the limit, or over each other. found returns false to end the search.
// It takes time and memory in proportion to the table.
func (t bat) validate(l *layout, found func(Finding) bool) {
	stored := l.stored()
	bad := func(id string, block int, got, want string) bool {
		return found(Finding{
			ID: id, Severity: Error, Offset: l.batOff + int64(block)*4,
			Field: fmt.Sprintf("BAT entry %d", block), Got: got, Want: want,
		})
	}
	used := 0
	regions := slices.Concat(l.regions, l.batmap)
	for i, e := range t {
		if e == unused {
			continue
		}
		used++
		start := int64(e) * SectorSize
		end := start + stored
		for _, r := range regions {
			if start < r.end && end > r.start {
				if !bad("bat-over-metadata", i, fmt.Sprintf("sector %d, a block over the %s", e, r.name),
					fmt.Sprintf("a block that ends before byte %d or starts at byte %d or later", r.start, r.end)) {
					return
				}
				break
			}
		}
		if end > l.limit {
			if !bad("bat-beyond-end", i, fmt.Sprintf("sector %d, a block that ends at byte %d", e, end),
				fmt.Sprintf("a block that ends at byte %d or before", l.limit)) {
				return
			}
		}
	}
	t.overlaps(l, used, func(a, b int) bool {
		return bad("bat-overlap", b, fmt.Sprintf("sector %d, a block over that of entry %d at sector %d", t[b], a, t[a]),
			"a place of its own")
	})
}

// over returns the first block that has bytes in [start, end) of the file, or -1.
func (t bat) over(l *layout, start, end int64) int64 {
	for i, e := range t {
		if at := int64(e) * SectorSize; e != unused && at < end && at+l.stored() > start {
			return int64(i)
		}
	}
	return -1
}

// sane reports whether all entries are possible.
func (t bat) sane(l *layout) bool {
	sane := true
	t.validate(l, func(Finding) bool {
		sane = false
		return false
	})
	return sane
}

// spans returns what metadata and blocks take of the file, [start, end), in the
// order of their starts. They may overlap.
func (t bat) spans(l *layout) [][2]int64 {
	var spans [][2]int64
	for _, r := range l.metadata() {
		spans = append(spans, [2]int64{r.start, r.end})
	}
	for _, e := range t {
		if e != unused {
			start := int64(e) * SectorSize
			spans = append(spans, [2]int64{start, start + l.stored()})
		}
	}
	slices.SortFunc(spans, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	return spans
}

// overlaps reports pairs of entries (in the order of their places) whose blocks
// share bytes. No two blocks that fit beside each other start in the same
// slot of the stored size, so one pass over a table of slots finds the
// neighbours; where that table would be larger than sorting needs, it sorts.
func (t bat) overlaps(l *layout, used int, pair func(a, b int) bool) {
	storedSectors := l.stored() / SectorSize
	slots := l.limit/l.stored() + 1
	if used < 2 {
		return
	}
	if slots > 4*int64(used)+1024 || slots > 1<<31 {
		t.overlapsSorted(storedSectors, used, pair)
		return
	}
	at := make([]uint32, slots) // entry + 1 of the block that starts in the slot
	for i, e := range t {
		if e == unused {
			continue
		}
		slot := int64(e) / storedSectors
		if slot >= slots {
			continue // behind the limit, and said so
		}
		if at[slot] != 0 {
			// Two in one slot: overlaps exist, and sorting tells them all.
			t.overlapsSorted(storedSectors, used, pair)
			return
		}
		at[slot] = uint32(i) + 1
	}
	last := -1
	for _, v := range at {
		if v == 0 {
			continue
		}
		i := int(v) - 1
		if last >= 0 && int64(t[i])-int64(t[last]) < storedSectors && !pair(last, i) {
			return
		}
		last = i
	}
}

func (t bat) overlapsSorted(storedSectors int64, used int, pair func(a, b int) bool) {
	byPlace := make([]uint64, 0, used) // sector, entry
	for i, e := range t {
		if e != unused {
			byPlace = append(byPlace, uint64(e)<<32|uint64(i))
		}
	}
	slices.Sort(byPlace)
	for k := 1; k < len(byPlace); k++ {
		a, b := byPlace[k-1], byPlace[k]
		if int64(b>>32)-int64(a>>32) < storedSectors && !pair(int(uint32(a)), int(uint32(b))) {
			return
		}
	}
}

// end is the first byte behind all blocks, given what a block takes.
func (t bat) end(stored int64) int64 {
	last := int64(-1)
	for _, e := range t {
		if e != unused && int64(e) > last {
			last = int64(e)
		}
	}
	if last < 0 {
		return 0
	}
	return last*SectorSize + stored
}
