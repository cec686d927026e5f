package vhd

import (
	"encoding/binary"
	"fmt"
	"io"
)

// batmap is XenServer's map of the blocks that are written whole: a header right
// behind the BAT, and a bit for each block, most significant bit first. It is not
// used here, but kept, and checked.
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
	encrypted bool
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
	if string(b[:8]) != "tdbatmap" {
		return nil, nil
	}
	be := binary.BigEndian
	return &batmap{at, be.Uint64(b[8:]), be.Uint32(b[16:]), be.Uint32(b[20:]), be.Uint32(b[24:]), b[29] == 1}, nil
}

// regions is what header and map take of a file of size bytes.
func (m *batmap) regions(size int64) []region {
	rs := []region{{"batmap header", m.at, m.at + SectorSize}}
	if m.offset < uint64(size) {
		rs = append(rs, region{"batmap", int64(m.offset), min(size, int64(m.offset)+int64(m.sectors)*SectorSize)})
	}
	return rs
}

// validate lists what is odd about the map of the blocks in t.
func (m *batmap) validate(r io.ReaderAt, t bat, size int64) ([]Finding, error) {
	var fs []Finding
	odd := func(id string, sev Severity, at int64, field, got, want string) {
		fs = append(fs, Finding{ID: id, Severity: sev, Offset: m.at + at, Field: "batmap: " + field, Got: got, Want: want})
	}
	if m.version>>16 != 1 {
		odd("batmap-version", Warning, 20, "version", hex32(m.version), "0x00010002")
	}
	if m.encrypted {
		odd("batmap-encrypted", Warning, 29, "key hash", "one: the contents are encrypted", "none")
	}
	need := (t.len() + 7) / 8
	length := int64(m.sectors) * SectorSize
	if m.offset > uint64(size) || length > size-int64(m.offset) || length < need {
		odd("batmap-place", Warning, 8, "offset and size of the map", fmt.Sprintf("%d and %d sectors", m.offset, m.sectors),
			fmt.Sprintf("a place in the file with room for %d blocks", t.len()))
		return fs, nil
	}
	var sum uint32
	buf := make([]byte, min(length, 1<<16))
	for off := int64(0); off < length; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), length-off)]
		if err := readFull(r, buf, int64(m.offset)+off); err != nil {
			return fs, fmt.Errorf("batmap: %w", err)
		}
		for i, c := range buf {
			sum += uint32(c)
			for bit := range 8 {
				block := (off+int64(i))*8 + int64(bit)
				if c&(0x80>>bit) != 0 && block < t.len() && t.load(block) == unused {
					odd("batmap-bit", Error, int64(m.offset)-m.at+off+int64(i), fmt.Sprintf("bit of block %d", block), "set", "clear: the block has no place in the file")
				}
			}
		}
	}
	if ^sum != m.checksum {
		odd("batmap-checksum", Warning, 24, "checksum", hex32(m.checksum), hex32(^sum))
	}
	return fs, nil
}
