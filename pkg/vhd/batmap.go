package vhd

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
)

const batmapCookie = "tdbatmap"

// batmap is XenServer's map of the blocks that are written whole: a header right
// behind the BAT, and a bit for each block, most significant bit first. A set bit
// means that the block has its place and that all bits of its bitmap are set; a
// clear one means nothing. It is not used here, but kept right, and checked.
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
	at        int64 // of the header
	offset    uint64
	sectors   uint32
	version   uint32
	checksum  uint32
	marker    byte
	encrypted bool
}

// batmapVersion is that of new batmaps, in which the checksum sums unsigned bytes.
const batmapVersion = 0x00010002

// newBatmap is the batmap of a new image of so many blocks, behind a BAT that ends at
// at. XenServer's tools want a map of at least a sector.
func newBatmap(at, blocks int64) *batmap {
	length := max(SectorSize, roundUp((blocks+7)/8, SectorSize))
	return &batmap{at: at, offset: uint64(at + SectorSize), sectors: uint32(length / SectorSize), version: batmapVersion}
}

// encode returns header and map, which follow each other, and sets the checksum. bits
// is the map, or the start of it.
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

// readBatmap reads the header of the batmap behind a BAT that ends at at. It
// returns nil if the image has none.
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

// regions is what header and map take of the file; a map that is not in place takes
// nothing.
func (m *batmap) regions(l *layout, t bat) []region {
	if _, over := m.checkPlacement(l, t); over != "" {
		return m.ownRegions()[:1]
	}
	return m.ownRegions()
}

// ownRegions are those of header and map.
func (m *batmap) ownRegions() []region {
	return []region{
		{"batmap header", m.at, m.at + SectorSize},
		{"batmap", int64(m.offset), int64(m.offset) + int64(m.sectors)*SectorSize},
	}
}

// checkPlacement reports whether the map for the blocks in t has a checkPlacement of its own in the
// file: over is what it stands over, or why it has none. outside says that it is
// not in the file, or too small.
func (m *batmap) checkPlacement(l *layout, t bat) (outside bool, over string) {
	length := int64(m.sectors) * SectorSize
	if m.offset > uint64(l.limit) || length > l.limit-int64(m.offset) || length < (t.len()+7)/8 {
		return true, "no place in the file"
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

// counted is how many bytes of the map the checksum is of, for so many blocks.
func (m *batmap) counted(blocks int64) int64 {
	return min(int64(m.sectors)*SectorSize, roundUp((blocks+7)/8, SectorSize))
}

// sum is the checksum of a map. Version 1.1 took the bytes for signed ones.
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

// read reads the map for so many blocks, which is in its place.
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

// oddNumber is a warning about a field that is a number.
func (m *batmap) oddNumber(id string, at int64, field string, found, want uint32) finding {
	f := m.odd(id, Warning, at, field, hex32(found), hex32(want))
	return *f.number(uint64(found), oneOf(uint64(want)))
}

// validate lists what is odd about the map of the blocks in t. Bits in a row with the
// same fault are one finding. inPlace is false if the map cannot be read.
func (m *batmap) validate(r io.ReaderAt, l *layout, t bat) (inPlace bool, fs []finding, err error) {
	if m.version>>16 != 1 {
		fs = append(fs, m.oddNumber("batmap-version", 20, "version", m.version, 0x00010002))
	}
	if m.encrypted {
		fs = append(fs, m.odd("batmap-encrypted", Warning, 29, "key hash", "one: the contents are encrypted", "none"))
	}
	blocks := t.len()
	if outside, over := m.checkPlacement(l, t); over != "" {
		sev := Error
		if outside {
			sev = Warning
		}
		return false, append(fs, m.odd("batmap-place", sev, 8, "offset and size of the map", fmt.Sprintf("%d and %d sectors, %s", m.offset, m.sectors, over),
			fmt.Sprintf("a place of its own with room for %d blocks", blocks))), nil
	}
	first, n := int64(0), int64(0) // blocks in a row whose bits must not be set
	flush := func() {
		if n == 0 {
			return
		}
		field := fmt.Sprintf("bit of block %d", first)
		want := "clear: the block has no place in the file"
		if n > 1 {
			field, want = fmt.Sprintf("bits of blocks %d to %d", first, first+n-1), "clear: the blocks have no place in the file"
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

// write writes the map, and its checksum.
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

// clearBatmap clears the bits of the blocks from the first one on: they are about
// to lose their places.
func (img *Image) clearBatmap(first int64) error {
	m := img.batmap
	if !img.batmapInPlace() {
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

// dropBatmap erases the header of the batmap, durably, also if the creator is not
// XenServer: one that is left from before would be believed again.
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
		return nil // something else, which only looks like one
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

// batmapInPlace reports whether there is a map that can be read and written.
func (img *Image) batmapInPlace() bool { return len(img.lay.batmap) == 2 }

// fullBlocksMap has the bit of each block set whose sector bitmap is known to be all
// ones, in the file or written before the map is.
func (img *Image) fullBlocksMap() []byte {
	bits := make([]byte, (img.bat.len()+7)/8)
	for block := range img.bat.used() {
		if bm, ok := img.bitmaps.known(block); ok && bm == nil {
			setBits(bits, block, block+1)
		}
	}
	return bits
}

// clearFrom clears the bits from the first one on.
func clearFrom(bits []byte, first int64) {
	for i := first; i < int64(len(bits))*8; i++ {
		bits[i/8] &^= 0x80 >> (i % 8)
	}
}

// maxSpareMap is how large a map stays when it moves, if its blocks need less.
const maxSpareMap = 1 << 20

// room is what header and map take for so many blocks, one behind the other.
func (m *batmap) room(blocks int64) int64 {
	return SectorSize + max(min(int64(m.sectors)*SectorSize, maxSpareMap), roundUp((blocks+7)/8, SectorSize))
}

// copyBatmap writes a copy of the map for so many blocks, header and all, behind a
// BAT that ends at at.
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

// encodeBatmap returns a copy of the map for so many blocks, for a BAT that ends at at,
// and its bytes, header and all.
func (img *Image) encodeBatmap(at, blocks int64) (*batmap, []byte, error) {
	old := img.batmap
	m := *old
	m.at, m.offset = at, uint64(at+SectorSize)
	length := old.room(blocks) - SectorSize
	m.sectors = uint32(length / SectorSize)
	var header [SectorSize]byte
	if err := readFull(img.r, header[:], old.at); err != nil {
		return nil, nil, fmt.Errorf("batmap: %w", err)
	}
	be := binary.BigEndian
	be.PutUint64(header[8:], m.offset)
	be.PutUint32(header[16:], m.sectors)
	bits := make([]byte, length)
	if n := min(int64(old.sectors)*SectorSize, int64(len(bits))); img.batmapInPlace() {
		if err := readFull(img.r, bits[:n], int64(old.offset)); err != nil {
			return nil, nil, fmt.Errorf("batmap: %w", err)
		}
	}
	clearFrom(bits, min(blocks, img.bat.len())) // what follows may be left from a shrink that a crash cut short
	m.checksum = m.sum(bits[:m.counted(blocks)])
	be.PutUint32(header[24:], m.checksum)
	return &m, append(header[:], bits...), nil
}

// mendedBatmap is the map with the bits cleared that must not be set; changed is
// false if it is right already. It is nil if the map cannot be mended.
func (img *Image) mendedBatmap() (bits []byte, changed bool, err error) {
	m := img.batmap
	if !img.batmapInPlace() {
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
