package vhd

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

const (
	headerSize    = 1024
	headerVersion = 0x00010000
)

var headerCookie = [8]byte{'c', 'x', 's', 'p', 'a', 'r', 's', 'e'}

// Header is the dynamic disk header ("Dynamic Disk Header Format"). The footer's data offset
// points to it, and it has no copy.
//
//	off size field                    off size field
//	  0    8 cookie                    56    4 parent time stamp
//	  8    8 data offset, unused       60    4 reserved
//	 16    8 table offset              64  512 parent unicode name
//	 24    4 header version           576  192 parent locators, 8 of 24 bytes
//	 28    4 max table entries        768  256 reserved
//	 32    4 block size
//	 36    4 checksum
//	 40   16 parent unique id
type Header struct {
	Cookie          [8]byte
	DataOffset      uint64 // unused: all ones
	TableOffset     uint64 // offset of the BAT, bytes
	Version         uint32
	MaxTableEntries uint32 // number of BAT entries
	BlockSize       uint32 // bytes of data in a block, without its bitmap
	Checksum        uint32 // as in the file; Encode recomputes it
	ParentID        uuid.UUID
	ParentTimestamp Timestamp
	Reserved1       [4]byte
	ParentName      [512]byte // UTF-16, big-endian
	Locators        [192]byte
	Reserved2       [256]byte
}

// DecodeHeader decodes a header. It accepts any contents, and checks none.
func DecodeHeader(b *[headerSize]byte) Header {
	be := binary.BigEndian
	return Header{
		Cookie:          [8]byte(b[0:8]),
		DataOffset:      be.Uint64(b[8:]),
		TableOffset:     be.Uint64(b[16:]),
		Version:         be.Uint32(b[24:]),
		MaxTableEntries: be.Uint32(b[28:]),
		BlockSize:       be.Uint32(b[32:]),
		Checksum:        be.Uint32(b[36:]),
		ParentID:        uuid.UUID(b[40:56]),
		ParentTimestamp: Timestamp(be.Uint32(b[56:])),
		Reserved1:       [4]byte(b[60:64]),
		ParentName:      [512]byte(b[64:576]),
		Locators:        [192]byte(b[576:768]),
		Reserved2:       [256]byte(b[768:1024]),
	}
}

// Encode returns the bytes of the header with a correct checksum.
func (h *Header) Encode() [headerSize]byte {
	var b [headerSize]byte
	be := binary.BigEndian
	copy(b[0:], h.Cookie[:])
	be.PutUint64(b[8:], h.DataOffset)
	be.PutUint64(b[16:], h.TableOffset)
	be.PutUint32(b[24:], h.Version)
	be.PutUint32(b[28:], h.MaxTableEntries)
	be.PutUint32(b[32:], h.BlockSize)
	copy(b[40:], h.ParentID[:])
	be.PutUint32(b[56:], uint32(h.ParentTimestamp))
	copy(b[60:], h.Reserved1[:])
	copy(b[64:], h.ParentName[:])
	copy(b[576:], h.Locators[:])
	copy(b[768:], h.Reserved2[:])
	be.PutUint32(b[36:], checksum(b[:], 36))
	return b
}

// checksumWanted returns the checksum that matches the contents.
func (h *Header) checksumWanted() uint32 {
	enc := h.Encode()
	return binary.BigEndian.Uint32(enc[36:])
}

// The block sizes that are supported. Below 4 KiB products disagree on whether a block has a
// bitmap; no product makes blocks above 256 MiB.
const (
	MinBlockSize     = 4 << 10
	MaxBlockSize     = 256 << 20
	DefaultBlockSize = 2 << 20
)

func legalBlockSize(n uint32) bool {
	return n >= MinBlockSize && n <= MaxBlockSize && n&(n-1) == 0
}

// bitmapSizeFor returns the size in bytes of the sector bitmap before a block's data: a bit for
// each sector, in whole sectors.
func bitmapSizeFor(blockSize int64) int64 {
	const bitsPerSector = SectorSize * 8
	return (blockSize/SectorSize + bitsPerSector - 1) / bitsPerSector * SectorSize
}

// validate returns findings about the contents of a header at offset off.
func (h *Header) validate(off int64, t DiskType) []finding {
	var fs []finding
	odd := func(id string, sev Severity, at int64, field, got, want string) *finding {
		fs = append(fs, finding{Finding: Finding{ID: id, Severity: sev, Offset: off + at, Field: "dynamic disk header: " + field, Got: got, Want: want}})
		return &fs[len(fs)-1]
	}
	if h.Cookie != headerCookie {
		odd("header-cookie", Error, 0, "cookie", fmt.Sprintf("%q", h.Cookie[:]), fmt.Sprintf("%q", headerCookie[:]))
		return fs
	}
	if want := h.checksumWanted(); h.Checksum != want {
		odd("header-checksum", Error, 36, "checksum", hex32(h.Checksum), hex32(want)).number(uint64(h.Checksum), oneOf(uint64(want))).checksum = true
	}
	if h.Version>>16 != headerVersion>>16 {
		odd("header-version", Error, 24, "header version", hex32(h.Version), hex32(headerVersion)).number(uint64(h.Version), oneOf(headerVersion)).unsupported = true
	}
	if h.DataOffset != noOffset {
		odd("header-data-offset", Warning, 8, "data offset", hex64(h.DataOffset), hex64(noOffset)).number(h.DataOffset, oneOf(noOffset))
	}
	if !legalBlockSize(h.BlockSize) {
		f := odd("block-size", Error, 32, "block size", fmt.Sprint(h.BlockSize), "a power of two from 4096 to 268435456").number(uint64(h.BlockSize), powersOfTwo(MinBlockSize, MaxBlockSize))
		f.unsupported = h.BlockSize >= SectorSize && h.BlockSize&(h.BlockSize-1) == 0
	}
	if h.Reserved1 != [4]byte{} || h.Reserved2 != [256]byte{} {
		odd("header-reserved", Warning, 60, "reserved bytes", "data", "zeros")
	}
	if t == Dynamic && (h.ParentID != uuid.Nil || h.ParentTimestamp != 0 || h.ParentName != [512]byte{} || h.Locators != [192]byte{}) {
		odd("dynamic-parent", Warning, 40, "parent fields of a dynamic disk", "data", "zeros")
	}
	return fs
}

// readHeader reads the dynamic disk header that the footer points to. Metadata in the file must
// end at limit. The findings describe what is wrong with the header; some of them prevent
// reading it.
func readHeader(r io.ReaderAt, c *footerCopy, limit int64) (Header, []finding, error) {
	off := c.DataOffset
	if off < footerSize || off%SectorSize != 0 || limit < headerSize || off > uint64(limit-headerSize) {
		f := finding{Finding: Finding{
			ID: "data-offset", Severity: Error, Offset: c.off + 16, Field: "footer: data offset", Got: fmt.Sprint(off),
			Want: fmt.Sprintf("a multiple of 512 from 512 to %d, so that a header of 1024 bytes fits before the footer", max(0, limit-headerSize)),
		}}
		return Header{}, []finding{*f.number(off, sectorsBetween(footerSize, uint64(max(0, limit-headerSize))))}, nil
	}
	var b [headerSize]byte
	if err := readFull(r, b[:], int64(off)); err != nil {
		return Header{}, nil, fmt.Errorf("dynamic disk header: %w", err)
	}
	h := DecodeHeader(&b)
	return h, h.validate(int64(off), c.Type), nil
}

// validateTable returns findings that prevent reading the BAT. The header is at offset off, and
// metadata in the file must end at limit.
func (h *Header) validateTable(off uint64, limit int64) []finding {
	odd := func(id string, at uint64, field string, found uint64, want string, limits disk.Number) []finding {
		f := finding{Finding: Finding{
			ID: id, Severity: Error, Offset: int64(off + at),
			Field: "dynamic disk header: " + field, Got: fmt.Sprint(found), Want: want,
		}}
		return []finding{*f.number(found, limits)}
	}
	t, n := h.TableOffset, int64(h.MaxTableEntries)*4
	switch {
	case t < footerSize || t%SectorSize != 0 || t > uint64(limit):
		return odd("table-offset", 16, "table offset", t, fmt.Sprintf("a multiple of 512 from 512 to %d, before the footer", limit), sectorsBetween(footerSize, uint64(limit)))
	case t < off+headerSize && t+uint64(n) > off:
		return odd("table-offset", 16, "table offset", t, fmt.Sprintf("an offset outside the header, which is at %d to %d", off, off+headerSize), atLeast(off+headerSize))
	case n > limit-int64(t):
		return odd("max-table-entries", 28, "max table entries", uint64(h.MaxTableEntries),
			fmt.Sprintf("at most %d, the number that fits between the table offset and the footer", (limit-int64(t))/4), atMost(uint64(limit-int64(t))/4))
	}
	return nil
}
