package vhd

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
)

// unused is the BAT entry of a block that has no place in the file.
const unused = 0xffffffff

// bat is the block allocation table ("Block Allocation Table and Data
// Blocks"): for each block of the disk the sector of the file in which its
// sector bitmap starts. The table of a large disk is mostly empty, and may have
// half a billion entries: it is held in pieces, of which those without a used
// entry are not there, and scans pass over what is unused. Entries are read and
// set atomically.
type bat struct {
	n    int64                    // entries
	dirs []atomic.Pointer[batDir] // nil: no pieces
}

// batDir holds pieces that follow each other; nil: all entries are unused, as are
// those behind the table's last.
type batDir [64]atomic.Pointer[batPiece]

// batPieceLen is the number of entries of a piece.
const batPieceLen = 64

// batPiece has a bit in used for each of its entries that is used. With
// batPieceLen entries it has all of them, else only those that are used, and
// their number stays.
type batPiece struct {
	used    uint64
	entries []uint32
}

// newBATPiece returns a piece with room for all entries, and those of p, if not
// nil.
func newBATPiece(p *batPiece) *batPiece {
	all := &batPiece{entries: make([]uint32, batPieceLen)}
	for i := range all.entries {
		all.entries[i] = unused
		if p != nil {
			all.entries[i] = p.load(i)
		}
	}
	if p != nil {
		all.used = p.used
	}
	return all
}

// entry is where entry i stands, or nil if it is unused and has no place.
func (p *batPiece) entry(i int) *uint32 {
	if len(p.entries) == batPieceLen {
		return &p.entries[i]
	}
	if p.used>>i&1 == 0 {
		return nil
	}
	return &p.entries[bits.OnesCount64(p.used&(1<<i-1))]
}

func (p *batPiece) load(i int) uint32 {
	if e := p.entry(i); e != nil {
		return atomic.LoadUint32(e)
	}
	return unused
}

func newBAT(n int64) bat { return bat{n, make([]atomic.Pointer[batDir], batDirs(n))} }

// batPieces and batDirs are how many a table of n entries has.
func batPieces(n int64) int64 { return (n + batPieceLen - 1) / batPieceLen }

func batDirs(n int64) int64 { return (batPieces(n) + int64(len(batDir{})) - 1) / int64(len(batDir{})) }

// piece is piece k, or nil if its entries are all unused.
func (t bat) piece(k int64) *batPiece {
	if d := t.dirs[k/int64(len(batDir{}))].Load(); d != nil {
		return d[k%int64(len(batDir{}))].Load()
	}
	return nil
}

// setPiece is for one goroutine at a time.
func (t bat) setPiece(k int64, p *batPiece) {
	at := &t.dirs[k/int64(len(batDir{}))]
	d := at.Load()
	if d == nil {
		d = new(batDir)
		at.Store(d)
	}
	d[k%int64(len(batDir{}))].Store(p)
}

// held yields the pieces that are there, in order.
func (t bat) held() iter.Seq2[int64, *batPiece] {
	return func(yield func(int64, *batPiece) bool) {
		for i := range t.dirs {
			d := t.dirs[i].Load()
			if d == nil {
				continue
			}
			for k := range d {
				if p := d[k].Load(); p != nil && !yield(int64(i*len(d)+k), p) {
					return
				}
			}
		}
	}
}

func (t bat) len() int64 { return t.n }

func (t bat) load(block int64) uint32 {
	if p := t.piece(block / batPieceLen); p != nil {
		return p.load(int(block % batPieceLen))
	}
	return unused
}

// store sets an entry. It is for one goroutine at a time.
func (t bat) store(block int64, entry uint32) {
	k, i := block/batPieceLen, int(block%batPieceLen)
	p := t.piece(k)
	if (p == nil || p.entry(i) == nil) && entry == unused {
		return
	}
	all := p
	if p == nil || len(p.entries) < batPieceLen {
		all = newBATPiece(p)
	}
	atomic.StoreUint32(&all.entries[i], entry)
	if entry == unused {
		atomic.AndUint64(&all.used, ^(1 << i))
	} else {
		atomic.OrUint64(&all.used, 1<<i)
	}
	if all != p {
		t.setPiece(k, all)
	}
}

// used yields the blocks that have a place, in order, and their entries.
func (t bat) used() iter.Seq2[int64, uint32] {
	return func(yield func(int64, uint32) bool) {
		for k, p := range t.held() {
			for used := atomic.LoadUint64(&p.used); used != 0; used &= used - 1 {
				i := bits.TrailingZeros64(used)
				if e := p.load(i); e != unused && !yield(k*batPieceLen+int64(i), e) {
					return
				}
			}
		}
	}
}

// nextUsed is a block behind the unused one given, and about as far as end, up to
// which all are unused, as far as can be said without looking at every entry.
func (t bat) nextUsed(block, end int64) int64 {
	k := block / batPieceLen
	if p := t.piece(k); p != nil {
		rest := atomic.LoadUint64(&p.used) >> (block % batPieceLen) >> 1
		return min(block+1+int64(bits.TrailingZeros64(rest)), (k+1)*batPieceLen)
	}
	dirLen := int64(len(batDir{}))
	for k++; k < batPieces(min(end, t.n)) && t.piece(k) == nil; k++ {
		if k%dirLen == 0 && t.dirs[k/dirLen].Load() == nil {
			k += dirLen - 1
		}
	}
	return k * batPieceLen
}

// count is how many blocks have a place.
func (t bat) count() int64 {
	n := 0
	for _, p := range t.held() {
		n += bits.OnesCount64(atomic.LoadUint64(&p.used))
	}
	return int64(n)
}

// resized is the table with n entries: the new ones are unused, as those that are
// cut off must be.
func (t bat) resized(n int64) bat {
	have, want := int64(len(t.dirs)), batDirs(n)
	if want > have {
		return bat{n, slices.Concat(t.dirs, make([]atomic.Pointer[batDir], want-have))}
	}
	return bat{n, t.dirs[:want]}
}

// readBAT reads n entries at off. The caller has made sure that the file is
// that long.
func readBAT(r io.ReaderAt, off, n int64) (bat, error) {
	t := newBAT(n)
	ones := bytes.Repeat([]byte{0xff}, batPieceLen*4)
	buf := make([]byte, min(n*4, 64<<10))
	var d batDecoder
	for k := int64(0); k < batPieces(n); {
		b := buf[:min(int64(len(buf)), (n-k*batPieceLen)*4)]
		if err := readFull(r, b, off+k*batPieceLen*4); err != nil {
			return bat{}, fmt.Errorf("BAT: %w", err)
		}
		for ; len(b) > 0; k++ {
			piece := b[:min(len(b), len(ones))]
			if b = b[len(piece):]; !bytes.Equal(piece, ones[:len(piece)]) {
				t.setPiece(k, d.decode(piece))
			}
		}
	}
	return t, nil
}

// batDecoder decodes pieces. It makes room for several at a time.
type batDecoder struct {
	pieces  []batPiece
	entries []uint32
}

// decode reads the entries of a piece; those that b is too short for are unused.
func (d *batDecoder) decode(b []byte) *batPiece {
	used := uint64(0)
	for i := 0; i < len(b); {
		if i+32 <= len(b) { // eight at a time: most are unused
			if g := b[i : i+32]; binary.NativeEndian.Uint64(g)&binary.NativeEndian.Uint64(g[8:])&
				binary.NativeEndian.Uint64(g[16:])&binary.NativeEndian.Uint64(g[24:]) == math.MaxUint64 {
				i += 32
				continue
			}
		}
		for end := min(i+32, len(b)); i < end; i += 4 {
			if binary.BigEndian.Uint32(b[i:]) != unused {
				used |= 1 << (i / 4)
			}
		}
	}
	n := bits.OnesCount64(used)
	if n > batPieceLen/2 { // the next one that is set would want room
		p := newBATPiece(nil)
		p.used = used
		for i := 0; i < len(b); i += 4 {
			p.entries[i/4] = binary.BigEndian.Uint32(b[i:])
		}
		return p
	}
	if len(d.entries) < n {
		d.entries = make([]uint32, 1024)
	}
	if len(d.pieces) == 0 {
		d.pieces = make([]batPiece, 128)
	}
	p := &d.pieces[0]
	p.used, p.entries = used, d.entries[:0:n]
	d.pieces, d.entries = d.pieces[1:], d.entries[n:]
	for ; used != 0; used &= used - 1 {
		p.entries = append(p.entries, binary.BigEndian.Uint32(b[bits.TrailingZeros64(used)*4:]))
	}
	return p
}

// batBytes is the size of a BAT of n entries in the file, in whole sectors.
func batBytes(n int64) int64 { return (n*4 + SectorSize - 1) / SectorSize * SectorSize }

// encode calls write with the table's entries from first on, as they stand in a
// file, padded with ones to a whole sector, in pieces. off counts from the start
// of the table.
func (t bat) encode(first int64, write func(b []byte, off int64) error) error {
	end := batBytes(t.n)
	ones := bytes.Repeat([]byte{0xff}, batPieceLen*4)
	buf := make([]byte, 0, min(end-first*4, 256<<10))
	for off := first * 4; off < end; off += int64(len(buf)) {
		buf = buf[:0]
		for at := off; at < end && len(buf) < cap(buf); at = off + int64(len(buf)) {
			i := at / 4
			n := min(batPieceLen-int(i%batPieceLen), (cap(buf)-len(buf))/4)
			if k := i / batPieceLen; k >= batPieces(t.n) || t.piece(k) == nil {
				buf = append(buf, ones[:n*4]...)
				continue
			}
			for ; n > 0; n-- {
				buf = binary.BigEndian.AppendUint32(buf, t.load(i))
				i++
			}
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

// regionOver returns the first of the regions that has bytes in [start, end), or nil.
func regionOver(regions []region, start, end int64) *region {
	for i := range regions {
		if r := &regions[i]; start < r.end && end > r.start {
			return r
		}
	}
	return nil
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
	used, regionsEnd := int64(0), int64(0)
	regions := slices.Concat(l.regions, l.batmap)
	for _, r := range regions {
		regionsEnd = max(regionsEnd, r.end)
	}
	for i, e := range t.used() {
		used++
		start := int64(e) * SectorSize
		end := start + stored
		if start < regionsEnd {
			r := regionOver(regions, start, end)
			if r != nil && !bad("bat-over-metadata", i, fmt.Sprintf("sector %d, a block over the %s", e, r.name),
				fmt.Sprintf("a block that ends before byte %d or starts at byte %d or later", r.start, r.end)) {
				return
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

// over returns the first block that has bytes in [start, end) of the file, or -1.
func (t bat) over(l *layout, start, end int64) int64 {
	for i, e := range t.used() {
		if at := int64(e) * SectorSize; at < end && at+l.stored() > start {
			return i
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

// places yields the entries that are used in the order of the file. It takes memory
// only where the blocks have another order.
func (t bat) places() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		if t.apart(0) {
			for _, e := range t.used() {
				if !yield(e) {
					return
				}
			}
			return
		}
		sorted := make([]uint32, 0, t.count())
		for _, e := range t.used() {
			sorted = append(sorted, e)
		}
		slices.Sort(sorted)
		for _, e := range sorted {
			if !yield(e) {
				return
			}
		}
	}
}

// spans yields what metadata and blocks take of the file, [start, end), in the
// order of their starts. They may overlap.
func (t bat) spans(l *layout) iter.Seq2[int64, int64] {
	return func(yield func(start, end int64) bool) {
		regions := l.metadata()
		slices.SortFunc(regions, func(a, b region) int { return cmp.Compare(a.start, b.start) })
		for e := range t.places() {
			start := int64(e) * SectorSize
			for len(regions) > 0 && regions[0].start <= start {
				if !yield(regions[0].start, regions[0].end) {
					return
				}
				regions = regions[1:]
			}
			if !yield(start, start+l.stored()) {
				return
			}
		}
		for _, r := range regions {
			if !yield(r.start, r.end) {
				return
			}
		}
	}
}

// overlaps reports pairs of entries (in the order of their places) whose blocks
// share bytes. No two blocks that fit beside each other start in the same
// slot of the stored size, and those in neighbouring slots are as far apart as
// where they start in them: one pass over a table of slots tells whether any
// overlap. Which ones, and where that table would be larger than sorting needs,
// is found by sorting.
func (t bat) overlaps(l *layout, used int64, pair func(a, b int64) bool) {
	storedSectors := l.stored() / SectorSize
	slots := l.limit/l.stored() + 1
	if used < 2 || t.apart(storedSectors) {
		return
	}
	if slots > 4*used+1024 || slots > 1<<31 {
		t.overlapsSorted(storedSectors, used, pair)
		return
	}
	at := make([]uint32, slots) // where in the slot a block starts, + 1
	for _, e := range t.used() {
		slot, in := int64(e)/storedSectors, int64(e)%storedSectors
		if slot >= slots {
			continue // behind the limit, and said so
		}
		if at[slot] != 0 { // two in one slot
			t.overlapsSorted(storedSectors, used, pair)
			return
		}
		at[slot] = uint32(in) + 1
	}
	last := uint32(0) // in the slot before
	for _, v := range at {
		if v != 0 && v < last {
			t.overlapsSorted(storedSectors, used, pair)
			return
		}
		last = v
	}
}

// apart reports whether the blocks stand in the file in the order of the disk, as in
// most images, and each so many sectors behind the one before it or more.
func (t bat) apart(sectors int64) bool {
	free := int64(0)
	for _, e := range t.used() {
		if int64(e) < free {
			return false
		}
		free = int64(e) + sectors
	}
	return true
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
