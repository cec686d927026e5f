package vhd

import (
	"bytes"
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
