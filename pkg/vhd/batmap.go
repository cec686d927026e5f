package vhd

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
)

const batmapCookie = "tdbatmap"

// batmap is XenServer's map of the blocks whose sectors are all written. A header follows
// the BAT, and the map has a bit for each block, most significant bit first. A set bit
// means that the block is allocated and that all bits of its bitmap are set; a clear bit
// means nothing. This package does not read the map for data, but keeps it correct and
// checks it.
//
//	off size field
//	  0    8 cookie "tdbatmap"
//	  8    8 offset of the map, bytes
//	 16    4 size of the map, sectors
//	 20    4 version
//	 24    4 checksum: complement of the sum of the map's bytes
//	 28    1 marker
//	 29   65 key hash: its first byte is 1 if the disk is encrypted
type batmap struct {
	at        int64 // offset of the header
	offset    uint64
	sectors   uint32
	version   uint32
	checksum  uint32
	marker    byte
	encrypted bool
}

// batmapVersion is the version of new batmaps, whose checksum sums unsigned bytes.
const batmapVersion = 0x00010002

// newBatmap returns the batmap of a new image with the given number of blocks. Its BAT ends at
// offset at. XenServer's tools require a map of at least a sector.
func newBatmap(at, blocks int64) *batmap {
	length := max(SectorSize, roundUp((blocks+7)/8, SectorSize))
	return &batmap{at: at, offset: uint64(at + SectorSize), sectors: uint32(length / SectorSize), version: batmapVersion}
}

// encode returns the header and the map, which follows it, and sets the checksum. bits is the
// map or its start.
func (m *batmap) encode(bits []byte) []byte {
	b := make([]byte, SectorSize+int64(m.sectors)*SectorSize)
	copy(b[SectorSize:], bits)
	m.checksum = m.sum(bits)
	be := binary.BigEndian
	copy(b, batmapCookie)
	be.PutUint64(b[8:], m.offset)
	be.PutUint32(b[16:], m.sectors)
	be.PutUint32(b[20:], m.version)
	be.PutUint32(b[24:], m.checksum)
	b[28] = m.marker
	return b
}

// readBatmap reads the header of the batmap after a BAT that ends at offset at. It returns nil
// if the image has none.
func readBatmap(r io.ReaderAt, f *Footer, at, size int64) (*batmap, error) {
	if f.Creator != CreatorXenServer || at+SectorSize > size {
		return nil, nil
	}
	var b [SectorSize]byte
	if err := readFull(r, b[:], at); err != nil {
		return nil, fmt.Errorf("batmap: %w", err)
	}
	if string(b[:8]) != batmapCookie {
		return nil, nil
	}
	be := binary.BigEndian
	return &batmap{at, be.Uint64(b[8:]), be.Uint32(b[16:]), be.Uint32(b[20:]), be.Uint32(b[24:]), b[28], b[29] == 1}, nil
}

// regions returns the regions of the header and the map. It returns nil if the map's placement
// is invalid.
func (m *batmap) regions(l *layout, t bat) []region {
	if _, over := m.checkPlacement(l, t); over != "" {
		return m.ownRegions()[:1]
	}
	return m.ownRegions()
}

// ownRegions returns the regions of the header and the map.
func (m *batmap) ownRegions() []region {
	return []region{
		{"batmap header", m.at, m.at + SectorSize},
		{"batmap", int64(m.offset), int64(m.offset) + int64(m.sectors)*SectorSize},
	}
}

// checkPlacement checks where the map for the blocks in t is stored. over names what it
// overlaps, or says why it has no valid offset; it is empty if the placement is valid. outside
// says that the map is outside the file, or too small.
func (m *batmap) checkPlacement(l *layout, t bat) (outside bool, over string) {
	length := int64(m.sectors) * SectorSize
	if m.offset > uint64(l.limit) || length > l.limit-int64(m.offset) || length < (t.len()+7)/8 {
		return true, "not in the file"
	}
	start, end := int64(m.offset), int64(m.offset)+length
	if r := regionOver(append(m.ownRegions()[:1], l.regions...), start, end); r != nil {
		return false, "the " + r.name
	}
	if block := t.over(l, start, end); block >= 0 {
		return false, fmt.Sprintf("block %d", block)
	}
	return false, ""
}

// counted returns the number of bytes of the map that the checksum covers, for a disk with that
// many blocks.
func (m *batmap) counted(blocks int64) int64 {
	return min(int64(m.sectors)*SectorSize, roundUp((blocks+7)/8, SectorSize))
}

// sum returns the checksum of a map. Version 1.1 sums signed bytes.
func (m *batmap) sum(bits []byte) uint32 {
	var sum uint32
	for _, c := range bits {
		if m.version == 0x00010001 {
			sum += uint32(int8(c))
		} else {
			sum += uint32(c)
		}
	}
	return ^sum
}

// read reads the map for a disk with that many blocks. Its placement must be valid.
func (m *batmap) read(r io.ReaderAt, blocks int64) ([]byte, error) {
	bits := make([]byte, m.counted(blocks))
	if err := readFull(r, bits, int64(m.offset)); err != nil {
		return nil, fmt.Errorf("batmap: %w", err)
	}
	return bits, nil
}

func (m *batmap) odd(id string, sev Severity, at int64, field, got, want string) finding {
	return finding{Finding: Finding{ID: id, Severity: sev, Offset: m.at + at, Field: "batmap: " + field, Got: got, Want: want}}
}

// oddNumber is a warning about a numeric field.
func (m *batmap) oddNumber(id string, at int64, field string, found, want uint32) finding {
	f := m.odd(id, Warning, at, field, hex32(found), hex32(want))
	return *f.number(uint64(found), oneOf(uint64(want)))
}

// validate reports what is wrong with the map of the blocks in t. A run of bits with the same
// fault is one finding. readable is false if the map cannot be read.
func (m *batmap) validate(r io.ReaderAt, l *layout, t bat) (readable bool, fs []finding, err error) {
	if m.version>>16 != 1 {
		fs = append(fs, m.oddNumber("batmap-version", 20, "version", m.version, 0x00010002))
	}
	if m.encrypted {
		fs = append(fs, m.odd("batmap-encrypted", Warning, 29, "key hash", "a key hash: the contents are encrypted", "no key hash"))
	}
	blocks := t.len()
	if outside, over := m.checkPlacement(l, t); over != "" {
		sev := Error
		if outside {
			sev = Warning
		}
		return false, append(fs, m.odd("batmap-place", sev, 8, "offset and size of the map", fmt.Sprintf("%d and %d sectors, %s", m.offset, m.sectors, over),
			fmt.Sprintf("an unused range with space for %d blocks", blocks))), nil
	}
	first, n := int64(0), int64(0) // a run of blocks whose bits must be clear
	flush := func() {
		if n == 0 {
			return
		}
		field := fmt.Sprintf("bit of block %d", first)
		want := "clear: the block is unallocated"
		if n > 1 {
			field, want = fmt.Sprintf("bits of blocks %d to %d", first, first+n-1), "clear: the blocks are unallocated"
		}
		f := m.odd("batmap-bit", Error, int64(m.offset)-m.at+first/8, field, "set", want)
		f.Count = n
		fs = append(fs, f)
		n = 0
	}
	sum := uint32(0)
	counted := m.counted(blocks)
	buf := make([]byte, min(counted, 64<<10))
	for at := int64(0); at < counted; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), counted-at)]
		if err := readFull(r, buf, int64(m.offset)+at); err != nil {
			return false, fs, fmt.Errorf("batmap: %w", err)
		}
		sum += ^m.sum(buf)
		for k, c := range buf {
			for c != 0 {
				bit := int64(bits.LeadingZeros8(c))
				c &^= 0x80 >> bit
				block := (at+int64(k))*8 + bit
				if block >= blocks || t.load(block) != unused {
					continue
				}
				if block != first+n {
					flush()
					first = block
				}
				n++
			}
		}
	}
	flush()
	if want := ^sum; want != m.checksum {
		fs = append(fs, m.oddNumber("batmap-checksum", 24, "checksum", m.checksum, want))
	}
	return true, fs, nil
}

// write writes the map and its checksum.
func (m *batmap) write(w io.WriterAt, bits []byte) error {
	sum := binary.BigEndian.AppendUint32(nil, m.sum(bits))
	_, err := w.WriteAt(bits, int64(m.offset))
	if err == nil {
		_, err = w.WriteAt(sum, m.at+24)
	}
	if err != nil {
		return fmt.Errorf("batmap: %w", err)
	}
	m.checksum = binary.BigEndian.Uint32(sum)
	return nil
}

// clearBatmap clears the bits of the blocks from first on, before these blocks are deallocated.
func (img *Image) clearBatmap(first int64) error {
	m := img.batmap
	if !img.batmapReadable() {
		return nil
	}
	bits, err := m.read(img.r, img.bat.len())
	if err != nil {
		return err
	}
	clearFrom(bits, first)
	if err := m.write(img.f, bits); err != nil {
		return err
	}
	return img.flush()
}

// dropBatmap erases the header of the batmap, durably. It does so for every creator, because
// XenServer's tools would trust a stale batmap.
func (img *Image) dropBatmap() error {
	f := img.footer
	f.Creator = CreatorXenServer
	at := img.lay.batEnd()
	m, err := readBatmap(img.r, &f, at, img.alloc.length)
	if err != nil || m == nil {
		return err
	}
	start, end := m.at, m.at+SectorSize
	if img.bat.over(&img.lay, start, end) >= 0 || regionOver(img.lay.locators, start, end) != nil {
		return nil // not a batmap
	}
	if _, err := img.f.WriteAt(make([]byte, SectorSize), m.at); err != nil {
		return fmt.Errorf("batmap: %w", err)
	}
	if err := img.flush(); err != nil {
		return err
	}
	img.batmap, img.lay.batmap = nil, nil
	return nil
}

// batmapReadable reports whether the image has a batmap that can be read and written.
func (img *Image) batmapReadable() bool { return len(img.lay.batmap) == 2 }

// fullBlocksMap returns the map for the image. It sets the bit of each block whose sector
// bitmap is known to be all ones, in the file or before the map is written.
func (img *Image) fullBlocksMap() []byte {
	bits := make([]byte, (img.bat.len()+7)/8)
	for block := range img.bat.used() {
		if bm, ok := img.bitmaps.known(block); ok && bm == nil {
			setBits(bits, block, block+1)
		}
	}
	return bits
}

// clearFrom clears the bits from first on.
func clearFrom(bits []byte, first int64) {
	for i := first; i < int64(len(bits))*8; i++ {
		bits[i/8] &^= 0x80 >> (i % 8)
	}
}

// maxSpareMap is the largest map, in bytes, that keeps its size when it moves although its
// blocks need less.
const maxSpareMap = 1 << 20

// space returns the size of the header and the map for a disk with that many blocks.
func (m *batmap) space(blocks int64) int64 {
	return SectorSize + max(min(int64(m.sectors)*SectorSize, maxSpareMap), roundUp((blocks+7)/8, SectorSize))
}

// copyBatmap writes a copy of the header and the map, for that many blocks, after a BAT that
// ends at offset at.
func (img *Image) copyBatmap(at, blocks int64) (*batmap, error) {
	m, b, err := img.encodeBatmap(at, blocks)
	if err != nil {
		return nil, err
	}
	if _, err := img.f.WriteAt(b, at); err != nil {
		return nil, fmt.Errorf("batmap: %w", err)
	}
	return m, nil
}

// encodeBatmap returns a copy of the map for that many blocks, and the bytes of its header and
// map. The BAT before it ends at offset at.
func (img *Image) encodeBatmap(at, blocks int64) (*batmap, []byte, error) {
	old := img.batmap
	m := *old
	m.at, m.offset = at, uint64(at+SectorSize)
	length := old.space(blocks) - SectorSize
	m.sectors = uint32(length / SectorSize)
	var header [SectorSize]byte
	if err := readFull(img.r, header[:], old.at); err != nil {
		return nil, nil, fmt.Errorf("batmap: %w", err)
	}
	be := binary.BigEndian
	be.PutUint64(header[8:], m.offset)
	be.PutUint32(header[16:], m.sectors)
	bits := make([]byte, length)
	if n := min(int64(old.sectors)*SectorSize, int64(len(bits))); img.batmapReadable() {
		if err := readFull(img.r, bits[:n], int64(old.offset)); err != nil {
			return nil, nil, fmt.Errorf("batmap: %w", err)
		}
	}
	// Later bits may remain from a shrink that a crash interrupted.
	clearFrom(bits, min(blocks, img.bat.len()))
	m.checksum = m.sum(bits[:m.counted(blocks)])
	be.PutUint32(header[24:], m.checksum)
	return &m, append(header[:], bits...), nil
}

// correctedBatmap returns the map with the wrongly set bits cleared. changed is false if it is
// correct already. bits is nil if the map cannot be corrected.
func (img *Image) correctedBatmap() (bits []byte, changed bool, err error) {
	m := img.batmap
	if !img.batmapReadable() {
		return nil, false, nil
	}
	if bits, err = m.read(img.r, img.bat.len()); err != nil {
		return nil, false, err
	}
	p := img.lay.placement()
	for i := range img.bat.len() {
		if !hasBit(bits, i) {
			continue
		}
		whole := false
		if e := img.bat.load(i); e != unused && p.fits(e) {
			bm, err := img.bitmap(i, e)
			if err != nil {
				return nil, false, err
			}
			whole = bm == nil
		}
		if !whole {
			bits[i/8] &^= 0x80 >> (i % 8)
			changed = true
		}
	}
	return bits, changed || m.sum(bits) != m.checksum, nil
}

// encrypted reports whether XenServer has encrypted the contents.
func (img *Image) encrypted() bool { return img.batmap != nil && img.batmap.encrypted }
