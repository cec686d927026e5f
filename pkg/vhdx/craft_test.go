package vhdx_test

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"
)

const mib = 1 << 20

// Offsets in crafted images.
const (
	header1At  = 64 << 10
	header2At  = 128 << 10
	regions1At = 192 << 10
	regions2At = 256 << 10
	logAt      = 1 * mib
	metadataAt = 2 * mib
	itemsAt    = metadataAt + 64<<10
	batAt      = 3 * mib
	dataAt     = 4 * mib
)

// sparse is a file in memory that stores only pages with data.
type sparse struct {
	pages map[int64]*[4096]byte
	size  int64
}

func (s *sparse) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) && off < s.size {
		k := int(min(int64(len(p)-n), 4096-off%4096, s.size-off))
		if page := s.pages[off/4096]; page != nil {
			copy(p[n:n+k], page[off%4096:])
		} else {
			clear(p[n : n+k])
		}
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *sparse) WriteAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); {
		page := s.pages[off/4096]
		if page == nil {
			page = new([4096]byte)
			s.pages[off/4096] = page
		}
		k := copy(page[off%4096:], p[i:])
		i, off = i+k, off+int64(k)
	}
	s.size = max(s.size, off)
	return len(p), nil
}

func (s *sparse) Truncate(n int64) error {
	for i := range s.pages {
		if i*4096 >= n {
			delete(s.pages, i)
		}
	}
	if page := s.pages[n/4096]; page != nil {
		clear(page[n%4096:])
	}
	s.size = n
	return nil
}

func (s *sparse) Sync() error { return nil }

func (s *sparse) Size() int64 { return s.size }

func (s *sparse) clone() *sparse {
	c := &sparse{pages: map[int64]*[4096]byte{}, size: s.size}
	for i, p := range s.pages {
		page := *p
		c.pages[i] = &page
	}
	return c
}

func (s *sparse) put(off int64, b ...byte) { _, _ = s.WriteAt(b, off) }

func (s *sparse) put16(off int64, v uint16) { s.put(off, binary.LittleEndian.AppendUint16(nil, v)...) }

func (s *sparse) put32(off int64, v uint32) { s.put(off, binary.LittleEndian.AppendUint32(nil, v)...) }

func (s *sparse) put64(off int64, v uint64) { s.put(off, binary.LittleEndian.AppendUint64(nil, v)...) }

// fill writes n times b.
func (s *sparse) fill(off, n int64, b byte) {
	p := make([]byte, n)
	for i := range p {
		p[i] = b
	}
	s.put(off, p...)
}

// seal writes the checksum of n bytes into their bytes 4 to 8.
func (s *sparse) seal(off, n int64) {
	s.put32(off+4, 0)
	b := make([]byte, n)
	_, _ = s.ReadAt(b, off)
	s.put32(off+4, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// resealAll corrects the checksums of headers and region tables.
func (s *sparse) resealAll() {
	s.seal(header1At, 4096)
	s.seal(header2At, 4096)
	s.seal(regions1At, 64<<10)
	s.seal(regions2At, 64<<10)
}

// file writes the image to a file.
func (s *sparse) file(t testing.TB, name string) string {
	t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join(t.TempDir(), name)
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i, p := range s.pages {
		if _, err := f.WriteAt(p[:], i*4096); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(s.size); err != nil {
		t.Fatal(err)
	}
	return name
}

// GUIDs as the bytes of a file.
var (
	guidBAT      = []byte{0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08}
	guidMetadata = []byte{0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e}
	guidParams   = []byte{0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b}
	guidSize     = []byte{0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8}
	guidDiskID   = []byte{0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46}
	guidLogical  = []byte{0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f}
	guidPhysical = []byte{0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56}
	guidLocator  = []byte{0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c}
	guidVHDX     = []byte{0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13}
	guidLog      = []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
)

// craft is an image that is laid out byte by byte, without the code under test.
type craft struct {
	size      uint64
	block     uint32
	sector    uint32
	flags     uint32 // of the file parameters
	entries   map[int64]uint64
	dataWrite byte              // all bytes of the data write GUID
	locator   map[string]string // of the parent
	pending   bool              // the header names the log
	length    int64             // of the file; 0: up to the last block
}

func (c craft) image() *sparse {
	s := &sparse{pages: map[int64]*[4096]byte{}}
	if c.block == 0 {
		c.block = mib
	}
	if c.sector == 0 {
		c.sector = 512
	}
	if c.dataWrite == 0 {
		c.dataWrite = 0xd0
	}
	s.put(0, []byte("vhdxfileT\x00e\x00s\x00t\x00")...)
	for i, at := range []int64{header1At, header2At} {
		s.put(at, []byte("head")...)
		s.put64(at+8, uint64(7+i))
		s.fill(at+16, 16, 0xf0)
		s.fill(at+32, 16, c.dataWrite)
		if c.pending {
			s.put(at+48, guidLog...)
		}
		s.put16(at+66, 1)
		s.put32(at+68, mib)
		s.put64(at+72, logAt)
	}
	for _, at := range []int64{regions1At, regions2At} {
		s.put(at, []byte("regi")...)
		s.put32(at+8, 2)
		s.putRegion(at+16, guidBAT, batAt, mib, 1)
		s.putRegion(at+48, guidMetadata, metadataAt, mib, 1)
	}
	s.put(metadataAt, []byte("metadata")...)
	n, off := int64(0), int64(64<<10)
	item := func(id []byte, flags uint32, value []byte) {
		s.putItem(metadataAt+32+32*n, id, uint32(off), uint32(len(value)), flags)
		s.put(metadataAt+off, value...)
		off += int64(len(value))
		n++
	}
	le := binary.LittleEndian
	item(guidParams, 4, le.AppendUint32(le.AppendUint32(nil, c.block), c.flags))
	item(guidSize, 6, le.AppendUint64(nil, c.size))
	item(guidDiskID, 6, make([]byte, 16))
	item(guidLogical, 6, le.AppendUint32(nil, c.sector))
	item(guidPhysical, 6, le.AppendUint32(nil, 4096))
	if c.locator != nil {
		item(guidLocator, 4, encodeLocator(c.locator))
	}
	s.put16(metadataAt+10, uint16(n))
	end := int64(dataAt)
	for i, e := range c.entries {
		s.put64(batAt+8*i, e)
		if e&7 >= 6 {
			end = max(end, int64(e&^(mib-1))+int64(c.block))
		}
	}
	if c.length != 0 {
		end = c.length
	}
	_ = s.Truncate(max(end, dataAt))
	s.resealAll()
	return s
}

func (s *sparse) putRegion(at int64, id []byte, off uint64, n, required uint32) {
	s.put(at, id...)
	s.put64(at+16, off)
	s.put32(at+24, n)
	s.put32(at+28, required)
}

func (s *sparse) putItem(at int64, id []byte, off, n, flags uint32) {
	s.put(at, id...)
	s.put32(at+16, off)
	s.put32(at+20, n)
	s.put32(at+24, flags)
}

func utf16Bytes(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func encodeLocator(values map[string]string) []byte {
	le := binary.LittleEndian
	b := make([]byte, 20+12*len(values))
	copy(b, guidVHDX)
	le.PutUint16(b[18:], uint16(len(values)))
	i := 0
	for k, v := range values {
		key, value := utf16Bytes(k), utf16Bytes(v)
		x := 20 + 12*i
		le.PutUint32(b[x:], uint32(len(b)))
		le.PutUint16(b[x+8:], uint16(len(key)))
		b = append(b, key...)
		le.PutUint32(b[x+4:], uint32(len(b)))
		le.PutUint16(b[x+10:], uint16(len(value)))
		b = append(b, value...)
		i++
	}
	return b
}

// change is a change in a log entry: a page of data, or n zero bytes.
type change struct {
	off  int64
	page []byte // 4096 bytes; nil: zeros
	n    int64
}

// logEntry writes an entry at an offset of the log, which has 1 MiB, and returns the offset of
// the next one.
func (s *sparse) logEntry(at, tail int64, sequence uint64, last int64, changes ...change) int64 {
	le := binary.LittleEndian
	head := (64 + 32*len(changes) + 4095) / 4096 * 4096
	b := make([]byte, head)
	copy(b, "loge")
	le.PutUint32(b[12:], uint32(tail))
	le.PutUint64(b[16:], sequence)
	le.PutUint32(b[24:], uint32(len(changes)))
	copy(b[32:], guidLog)
	le.PutUint64(b[56:], uint64(last))
	for i, c := range changes {
		d := b[64+32*i:]
		le.PutUint64(d[16:], uint64(c.off))
		le.PutUint64(d[24:], sequence)
		if c.page == nil {
			copy(d, "zero")
			le.PutUint64(d[8:], uint64(c.n))
			continue
		}
		copy(d, "desc")
		copy(d[4:8], c.page[4092:])
		copy(d[8:16], c.page[:8])
		sector := make([]byte, 4096)
		copy(sector[8:4092], c.page[8:4092])
		copy(sector, "data")
		le.PutUint32(sector[4:], uint32(sequence>>32))
		le.PutUint32(sector[4092:], uint32(sequence))
		b = append(b, sector...)
	}
	le.PutUint32(b[8:], uint32(len(b)))
	le.PutUint32(b[4:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	for i := 0; i < len(b); i += 4096 {
		s.put(logAt+(at+int64(i))%mib, b[i:i+4096]...)
	}
	return (at + int64(len(b))) % mib
}
