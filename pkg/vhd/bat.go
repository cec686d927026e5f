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

// unused is the BAT entry of an unallocated block.
const unused = 0xffffffff

// bat is the block allocation table ("Block Allocation Table and Data Blocks"). For each block
// of the disk it holds the sector of the file at which the block's sector bitmap starts.
//
// The table of a large disk may have half a billion entries, most of them unused. It is held in
// pieces; a piece without a used entry is nil, and scans skip it. A piece whose entries are all
// equal is held once and shared. So a table of zeros, in a hole of the file, is as cheap as an
// empty one. Entries are read and set atomically.
//
// The struct has four words: the compiler keeps no larger struct in registers, and a look-up
// would be four times slower.
type bat struct {
	n    int64                    // entries
	dirs []atomic.Pointer[batDir] // nil: no pieces
}

// batDir holds consecutive pieces. A nil piece has only unused entries, or is past the end of
// the table. A uniform batDir repeats one piece, may be shared within the table, and is
// replaced instead of changed.
type batDir struct {
	pieces  [batDirLen]atomic.Pointer[batPiece]
	uniform bool
}

const (
	batPieceLen = 64 // entries of a piece
	batDirLen   = 64 // pieces of a batDir
)

// batPiece holds consecutive entries; bit i of used says that entry i is used. A piece with
// batPieceLen entries holds all of them. A shorter one holds only the used entries, and their
// number is fixed.
type batPiece struct {
	used    uint64
	entries []uint32
}

// uniform reports whether all entries of the piece are equal. Such a piece may be shared within
// the table, and is replaced instead of changed. Only uniform pieces have capacity for one more
// entry: a separate field would make all pieces larger.
func (p *batPiece) uniform() bool { return cap(p.entries) > batPieceLen }

// newBATPiece returns a piece that holds all entries: those of p, or if p is nil, unused ones.
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

// entry returns the address of entry i, or nil if the piece does not hold it because it is
// unused.
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

// batPieces returns the number of pieces of a table of n entries, and batDirs that of its
// directories.
func batPieces(n int64) int64 { return (n + batPieceLen - 1) / batPieceLen }

func batDirs(n int64) int64 { return (batPieces(n) + batDirLen - 1) / batDirLen }

// piece returns piece k, or nil if all its entries are unused.
func (t bat) piece(k int64) *batPiece {
	if d := t.dirs[k/batDirLen].Load(); d != nil {
		return d.pieces[k%batDirLen].Load()
	}
	return nil
}

// setPiece replaces piece k. It is not safe for concurrent use with itself.
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

// fill sets the pieces [k, end) to p, which is uniform.
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

// held yields the pieces that are not nil, in order.
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

// store sets an entry. It is not safe for concurrent use with itself.
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

// used yields the allocated blocks and their entries, in the order of the disk.
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

// usedOnce is used, but of a run of equal entries in a shared piece it yields only the first.
// alike returns the length of the run.
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

// heldOnce is held, but of a uniform batDir it yields only the first piece.
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

// repeats reports whether the table has uniform pieces. If not, alike always returns 1.
func (t bat) repeats() bool {
	for _, p := range t.heldOnce() {
		if p.uniform() {
			return true
		}
	}
	return false
}

// alike returns the number of entries that usedOnce represents by block, which it has yielded.
func (t bat) alike(block int64) int64 {
	switch d := t.dirs[block/(batDirLen*batPieceLen)].Load(); {
	case d.uniform:
		return batDirLen * batPieceLen
	case d.pieces[block/batPieceLen%batDirLen].Load().uniform():
		return batPieceLen
	}
	return 1
}

// nextUsed returns a block after block, which is unused. All blocks between the two are unused.
// It may stop early, because it does not look at every entry, and it stops near end.
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

// count returns the number of allocated blocks.
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

// resized returns the table with n entries. New entries are unused; entries that are cut off
// must be.
func (t bat) resized(n int64) bat {
	have, want := int64(len(t.dirs)), batDirs(n)
	if want > have {
		return bat{n, slices.Concat(t.dirs, make([]atomic.Pointer[batDir], want-have))}
	}
	return bat{n, t.dirs[:want]}
}

// batHolesFrom is the least size of a table, in bytes, for which readBAT asks the file for its
// holes. Reading the holes of smaller tables is faster.
const batHolesFrom = 1 << 20

// readBAT reads n entries at off. The caller has checked the length of the file. Holes of the
// file are not read.
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
				// The file may have been truncated since: then this is no hole.
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

// batDecoder decodes pieces. It allocates several at a time.
type batDecoder struct {
	pieces  []batPiece
	entries []uint32
	uniform *batPiece // the last uniform piece
}

// decode decodes the entries of a piece. Entries past the end of b are unused.
func (d *batDecoder) decode(b []byte) *batPiece {
	used := uint64(0)
	for i := 0; i < len(b); {
		if i+32 <= len(b) { // eight entries at a time: most are unused
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
	if n > batPieceLen/2 { // store would replace a shorter piece at the next change
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

// decodeUniform returns the piece whose entries are all e, a used entry.
func (d *batDecoder) decodeUniform(e uint32) *batPiece {
	if d.uniform == nil || d.uniform.entries[0] != e {
		d.uniform = &batPiece{used: math.MaxUint64, entries: slices.Repeat([]uint32{e}, batPieceLen+1)[:batPieceLen]}
	}
	return d.uniform
}

// batBytes returns the size in the file of a BAT of n entries, in whole sectors.
func batBytes(n int64) int64 { return (n*4 + SectorSize - 1) / SectorSize * SectorSize }

// encode calls write with the encoded entries from first on, in pieces. It pads them with ones
// to a whole sector. off counts from the start of the table.
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

// writeTo writes the entries from first on into the table at offset start.
func (t bat) writeTo(w io.WriterAt, start, first int64) error {
	return t.encode(first, func(b []byte, off int64) error {
		_, err := w.WriteAt(b, start+off)
		return err
	})
}
