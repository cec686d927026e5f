package vhd

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync/atomic"
)

// unused is the BAT entry of a block that has no place in the file.
const unused = 0xffffffff

// bat is the block allocation table ("Block Allocation Table and Data
// Blocks"): for each block of the disk the sector of the file in which its
// sector bitmap starts. Sectors of the table without a used entry are not held in
// memory, and are passed over: the table of a large disk is mostly empty, and
// may have half a billion entries. Entries are read and set atomically.
type bat struct {
	n       int64                       // entries
	sectors []atomic.Pointer[batSector] // nil: all unused, as are entries behind the last
}

// batSector is a sector of the table.
type batSector [SectorSize / 4]uint32

func newBAT(n int64) bat { return bat{n, make([]atomic.Pointer[batSector], batBytes(n)/SectorSize)} }

func (t bat) len() int64 { return t.n }

func (t bat) load(block int64) uint32 {
	s := t.sectors[block/int64(len(batSector{}))].Load()
	if s == nil {
		return unused
	}
	return atomic.LoadUint32(&s[block%int64(len(batSector{}))])
}

func (t bat) store(block int64, entry uint32) {
	p := &t.sectors[block/int64(len(batSector{}))]
	s := p.Load()
	if s == nil {
		if entry == unused {
			return
		}
		s = new(batSector)
		for i := range s {
			s[i] = unused
		}
		if !p.CompareAndSwap(nil, s) {
			s = p.Load()
		}
	}
	atomic.StoreUint32(&s[block%int64(len(batSector{}))], entry)
}

// used yields the blocks that have a place, in order, and their entries.
func (t bat) used() iter.Seq2[int64, uint32] {
	return func(yield func(int64, uint32) bool) {
		for i := range t.sectors {
			s := t.sectors[i].Load()
			if s == nil {
				continue
			}
			for k := range s {
				if e := atomic.LoadUint32(&s[k]); e != unused && !yield(int64(i*len(s)+k), e) {
					return
				}
			}
		}
	}
}

// count is how many blocks have a place.
func (t bat) count() int64 {
	n := int64(0)
	for range t.used() {
		n++
	}
	return n
}

// resized is the table with n entries: the new ones are unused, as those that are
// cut off must be.
func (t bat) resized(n int64) bat {
	sectors := int(batBytes(n) / SectorSize)
	if more := sectors - len(t.sectors); more > 0 {
		return bat{n, slices.Concat(t.sectors, make([]atomic.Pointer[batSector], more))}
	}
	return bat{n, t.sectors[:sectors]}
}

// readBAT reads n entries at off. The caller has made sure that the file is
// that long.
func readBAT(r io.ReaderAt, off, n int64) (bat, error) {
	t := newBAT(n)
	ones := bytes.Repeat([]byte{0xff}, SectorSize)
	buf := make([]byte, min(n*4, 64<<10))
	var fresh []batSector // allocated some at a time
	for i := int64(0); i < n; {
		b := buf[:min(int64(len(buf)), (n-i)*4)]
		if err := readFull(r, b, off+i*4); err != nil {
			return bat{}, fmt.Errorf("BAT: %w", err)
		}
		for len(b) > 0 {
			sector := b[:min(len(b), SectorSize)]
			if !bytes.Equal(sector, ones[:len(sector)]) {
				if len(fresh) == 0 {
					fresh = make([]batSector, min(16, (n-i+127)/128))
				}
				fresh[0].decode(sector)
				t.sectors[i/int64(len(batSector{}))].Store(&fresh[0])
				fresh = fresh[1:]
			}
			i += int64(len(sector) / 4)
			b = b[len(sector):]
		}
	}
	return t, nil
}

// decode reads entries, and marks those that b is too short for as unused.
func (s *batSector) decode(b []byte) {
	for k := range s {
		s[k] = unused
		if len(b) >= 4 {
			s[k] = binary.BigEndian.Uint32(b)
			b = b[4:]
		}
	}
}

// batBytes is the size of a BAT of n entries in the file, in whole sectors.
func batBytes(n int64) int64 { return (n*4 + SectorSize - 1) / SectorSize * SectorSize }

// encode calls write with the table's entries from first on, as they stand in a
// file, padded with ones to a whole sector, in pieces. off counts from the start
// of the table.
func (t bat) encode(first int64, write func(b []byte, off int64) error) error {
	off, end := first*4, batBytes(t.n)
	ones := bytes.Repeat([]byte{0xff}, SectorSize)
	buf := make([]byte, 0, min(end-off, 256<<10))
	for off < end {
		buf = buf[:0]
		for at := off; at < end && len(buf) < cap(buf); at = off + int64(len(buf)) {
			n := min(int(SectorSize-at%SectorSize), cap(buf)-len(buf))
			if t.sectors[at/SectorSize].Load() == nil {
				buf = append(buf, ones[:n]...)
				continue
			}
			for i := at / 4; i < (at+int64(n))/4; i++ {
				buf = binary.BigEndian.AppendUint32(buf, t.load(i))
			}
		}
		if err := write(buf, off); err != nil {
			return fmt.Errorf("BAT: %w", err)
		}
		off += int64(len(buf))
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
	regions    []region // metadata
	batmap     bool     // XenServer's is among them
	limit      int64    // blocks end here: the trailing footer, or the end of the file
}

// stored is what a block takes in the file.
func (l *layout) stored() int64 { return l.bitmapSize + l.blockSize }

// validate lists the entries that are impossible: blocks over metadata, behind
// the limit, or over each other. found returns false to end the search.
// It takes time and memory in proportion to the table.
func (t bat) validate(l *layout, found func(Finding) bool) {
	stored := l.stored()
	bad := func(id string, block int64, got, want string) bool {
		return found(Finding{
			ID: id, Severity: Error, Offset: l.batOff + block*4,
			Field: fmt.Sprintf("BAT entry %d", block), Got: got, Want: want,
		})
	}
	used := int64(0)
	for i, e := range t.used() {
		used++
		start := int64(e) * SectorSize
		end := start + stored
		for _, r := range l.regions {
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
	t.overlaps(l, used, func(a, b int64) bool {
		return bad("bat-overlap", b, fmt.Sprintf("sector %d, a block over that of entry %d at sector %d", t.load(b), a, t.load(a)),
			"a place of its own")
	})
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
	for _, r := range l.regions {
		spans = append(spans, [2]int64{r.start, r.end})
	}
	for _, e := range t.used() {
		start := int64(e) * SectorSize
		spans = append(spans, [2]int64{start, start + l.stored()})
	}
	slices.SortFunc(spans, func(a, b [2]int64) int { return cmp.Compare(a[0], b[0]) })
	return spans
}

// overlaps reports pairs of entries (in the order of their places) whose blocks
// share bytes. No two blocks that fit beside each other start in the same
// slot of the stored size, so one pass over a table of slots finds the
// neighbours; where that table would be larger than sorting needs, it sorts.
func (t bat) overlaps(l *layout, used int64, pair func(a, b int64) bool) {
	storedSectors := l.stored() / SectorSize
	slots := l.limit/l.stored() + 1
	if used < 2 {
		return
	}
	if slots > 4*used+1024 || slots > 1<<31 {
		t.overlapsSorted(storedSectors, used, pair)
		return
	}
	at := make([]uint32, slots) // entry + 1 of the block that starts in the slot
	for i, e := range t.used() {
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
	last := int64(-1)
	for _, v := range at {
		if v == 0 {
			continue
		}
		i := int64(v) - 1
		if last >= 0 && int64(t.load(i))-int64(t.load(last)) < storedSectors && !pair(last, i) {
			return
		}
		last = i
	}
}

func (t bat) overlapsSorted(storedSectors, used int64, pair func(a, b int64) bool) {
	byPlace := make([]uint64, 0, used) // sector, entry
	for i, e := range t.used() {
		byPlace = append(byPlace, uint64(e)<<32|uint64(i))
	}
	slices.Sort(byPlace)
	for k := 1; k < len(byPlace); k++ {
		a, b := byPlace[k-1], byPlace[k]
		if int64(b>>32)-int64(a>>32) < storedSectors && !pair(int64(uint32(a)), int64(uint32(b))) {
			return
		}
	}
}

// end is the first byte behind all blocks, given what a block takes.
func (t bat) end(stored int64) int64 {
	last := int64(-1)
	for _, e := range t.used() {
		last = max(last, int64(e))
	}
	if last < 0 {
		return 0
	}
	return last*SectorSize + stored
}
