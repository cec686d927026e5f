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

	"github.com/vhdtool/vhdtool/internal/filesystem"
)

// unused is the BAT entry of a block that has no place in the file.
const unused = 0xffffffff

// bat is the block allocation table ("Block Allocation Table and Data
// Blocks"): for each block of the disk the sector of the file in which its
// sector bitmap starts. The table of a large disk is mostly empty, and may have
// half a billion entries: it is held in pieces, of which those without a used
// entry are not there, and scans pass over what is unused. A piece whose entries
// are all equal is held once, however often it comes: a table of zeros, in a hole
// of the file, is as cheap as one without entries. Entries are read and set
// atomically.
//
// It is of four words: the compiler keeps no larger struct in registers, and a look-up
// would take four times as long.
type bat struct {
	n    int64                    // entries
	dirs []atomic.Pointer[batDir] // nil: no pieces
}

// batDir holds pieces that follow each other; nil: all entries are unused, as are
// those behind the table's last. One that is uniform has the same piece
// everywhere, may be in several places of the table, and is replaced, not changed.
type batDir struct {
	pieces  [batDirLen]atomic.Pointer[batPiece]
	uniform bool
}

const (
	batPieceLen = 64 // entries of a piece
	batDirLen   = 64 // pieces of a batDir
)

// batPiece has a bit in used for each of its entries that is used. With
// batPieceLen entries it has all of them, else only those that are used, and
// their number stays.
type batPiece struct {
	used    uint64
	entries []uint32
}

// uniform reports whether the piece has equal entries only. It may be in several places
// of the table then, and is replaced, not changed. Such pieces, and no others, have room
// for another entry: a field of its own would make all pieces larger.
func (p *batPiece) uniform() bool { return cap(p.entries) > batPieceLen }

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

func newBAT(n int64) bat { return bat{n: n, dirs: make([]atomic.Pointer[batDir], batDirs(n))} }

// batPieces and batDirs are how many a table of n entries has.
func batPieces(n int64) int64 { return (n + batPieceLen - 1) / batPieceLen }

func batDirs(n int64) int64 { return (batPieces(n) + batDirLen - 1) / batDirLen }

// piece is piece k, or nil if its entries are all unused.
func (t bat) piece(k int64) *batPiece {
	if d := t.dirs[k/batDirLen].Load(); d != nil {
		return d.pieces[k%batDirLen].Load()
	}
	return nil
}

// setPiece is for one goroutine at a time.
func (t bat) setPiece(k int64, p *batPiece) {
	at := &t.dirs[k/batDirLen]
	d := at.Load()
	if d == nil || d.uniform {
		own := new(batDir)
		if d != nil {
			for i := range own.pieces {
				own.pieces[i].Store(d.pieces[i].Load())
			}
		}
		own.pieces[k%batDirLen].Store(p)
		at.Store(own)
		return
	}
	d.pieces[k%batDirLen].Store(p)
}

// fill sets the pieces [k, end) to one that is uniform.
func (t bat) fill(k, end int64, p *batPiece) {
	var all *batDir
	for k < end {
		if k%batDirLen != 0 || end-k < batDirLen {
			t.setPiece(k, p)
			k++
			continue
		}
		if all == nil {
			all = &batDir{uniform: true}
			for i := range all.pieces {
				all.pieces[i].Store(p)
			}
		}
		t.dirs[k/batDirLen].Store(all)
		k += batDirLen
	}
}

// held yields the pieces that are there, in order.
func (t bat) held() iter.Seq2[int64, *batPiece] {
	return func(yield func(int64, *batPiece) bool) {
		for i := range t.dirs {
			d := t.dirs[i].Load()
			if d == nil {
				continue
			}
			for k := range d.pieces {
				if p := d.pieces[k].Load(); p != nil && !yield(int64(i)*batDirLen+int64(k), p) {
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
	if p == nil || p.uniform() || len(p.entries) < batPieceLen {
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

// usedOnce yields what used does, but of equal entries that are held once only the
// first: alike says how many they are.
func (t bat) usedOnce() iter.Seq2[int64, uint32] {
	return func(yield func(int64, uint32) bool) {
		for k, p := range t.heldOnce() {
			used := atomic.LoadUint64(&p.used)
			if p.uniform() {
				used = 1
			}
			for ; used != 0; used &= used - 1 {
				i := bits.TrailingZeros64(used)
				if e := p.load(i); e != unused && !yield(k*batPieceLen+int64(i), e) {
					return
				}
			}
		}
	}
}

// heldOnce yields the pieces that are there, but of a uniform batDir only the first.
func (t bat) heldOnce() iter.Seq2[int64, *batPiece] {
	return func(yield func(int64, *batPiece) bool) {
		for i := range t.dirs {
			d := t.dirs[i].Load()
			if d == nil {
				continue
			}
			for k := range d.pieces {
				if p := d.pieces[k].Load(); p != nil && !yield(int64(i)*batDirLen+int64(k), p) {
					return
				}
				if d.uniform {
					break
				}
			}
		}
	}
}

// repeats reports whether there are uniform pieces: if not, alike is always 1.
func (t bat) repeats() bool {
	for _, p := range t.heldOnce() {
		if p.uniform() {
			return true
		}
	}
	return false
}

// alike is how many entries usedOnce yields with that of the block, which it has
// yielded.
func (t bat) alike(block int64) int64 {
	switch d := t.dirs[block/(batDirLen*batPieceLen)].Load(); {
	case d.uniform:
		return batDirLen * batPieceLen
	case d.pieces[block/batPieceLen%batDirLen].Load().uniform():
		return batPieceLen
	}
	return 1
}

// nextUsed is a block behind the unused one given, and about as far as end, up to
// which all are unused, as far as can be said without looking at every entry.
func (t bat) nextUsed(block, end int64) int64 {
	k := block / batPieceLen
	if p := t.piece(k); p != nil {
		rest := atomic.LoadUint64(&p.used) >> (block % batPieceLen) >> 1
		return min(block+1+int64(bits.TrailingZeros64(rest)), (k+1)*batPieceLen)
	}
	for k++; k < batPieces(min(end, t.n)) && t.piece(k) == nil; k++ {
		if k%batDirLen == 0 && t.dirs[k/batDirLen].Load() == nil {
			k += batDirLen - 1
		}
	}
	return k * batPieceLen
}

// count is how many blocks have a place.
func (t bat) count() int64 {
	n := 0
	for i := range t.dirs {
		d := t.dirs[i].Load()
		if d == nil {
			continue
		}
		if d.uniform {
			n += batDirLen * batPieceLen
			continue
		}
		for k := range d.pieces {
			if p := d.pieces[k].Load(); p != nil {
				n += bits.OnesCount64(atomic.LoadUint64(&p.used))
			}
		}
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

// batHolesFrom is the size of a table, in bytes, from which on the file is asked for
// its holes: in small ones reading them is faster.
const batHolesFrom = 1 << 20

// readBAT reads n entries at off. The caller has made sure that the file is
// that long. Holes of the file are not read.
func readBAT(r io.ReaderAt, off, n int64) (bat, error) {
	t := newBAT(n)
	ones := bytes.Repeat([]byte{0xff}, batPieceBytes)
	buf := make([]byte, min(n*4, 64<<10))
	var holes *filesystem.HoleMap
	if n*4 >= batHolesFrom {
		holes = filesystem.NewHoleMap(r)
	}
	var d batDecoder
	for k := int64(0); k < batPieces(n); {
		at, end := off+k*batPieceBytes, off+n*4
		if holes != nil {
			stop, data, err := holes.At(at, end)
			if err != nil {
				return bat{}, fmt.Errorf("BAT: %w", err)
			}
			if pieces := (stop - at) / batPieceBytes; !data && pieces > 0 {
				// The file may have become shorter: then this is no hole.
				if err := readFull(r, buf[:batPieceBytes], at+(pieces-1)*batPieceBytes); err != nil {
					return bat{}, fmt.Errorf("BAT: %w", err)
				}
				t.fill(k, k+pieces, d.decode(make([]byte, batPieceBytes)))
				k += pieces
				continue
			}
			if data {
				end = min(end, at+roundUp(stop-at, batPieceBytes))
			}
		}
		b := buf[:min(int64(len(buf)), end-at)]
		if err := readFull(r, b, at); err != nil {
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

// batPieceBytes is the size of a piece in the file.
const batPieceBytes = batPieceLen * 4

// batDecoder decodes pieces. It makes room for several at a time.
type batDecoder struct {
	pieces  []batPiece
	entries []uint32
	uniform *batPiece // the last one
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
	if n == batPieceLen && bytes.Equal(b[:batPieceBytes-4], b[4:]) {
		return d.decodeUniform(binary.BigEndian.Uint32(b))
	}
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

// decodeUniform is the piece of which all entries are e, which is a used one.
func (d *batDecoder) decodeUniform(e uint32) *batPiece {
	if d.uniform == nil || d.uniform.entries[0] != e {
		d.uniform = &batPiece{used: math.MaxUint64, entries: slices.Repeat([]uint32{e}, batPieceLen+1)[:batPieceLen]}
	}
	return d.uniform
}

// batBytes is the size of a BAT of n entries in the file, in whole sectors.
func batBytes(n int64) int64 { return (n*4 + SectorSize - 1) / SectorSize * SectorSize }

// encode calls write with the table's entries from first on, as they stand in a
// file, padded with ones to a whole sector, in pieces. off counts from the start
// of the table.
func (t bat) encode(first int64, write func(b []byte, off int64) error) error {
	end := batBytes(t.n)
	ones := bytes.Repeat([]byte{0xff}, batPieceBytes)
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
