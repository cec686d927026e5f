package vhd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// These images are laid out byte by byte from the specification. They do not use the package's
// own encoding, so a fault there is found.

const (
	sector  = 512
	kib     = 1 << 10
	mib     = 1 << 20
	gib     = 1 << 30
	allOnes = 1<<64 - 1
	unused  = 0xffffffff

	fixed        = 2
	dynamic      = 3
	differencing = 4
)

// tb has the methods of *testing.T, *testing.F and *rapid.T that the helpers need.
type tb interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

var be = binary.BigEndian

// An edit changes the bytes of a structure before its checksum is computed.
type edit func(b []byte)

func u8(off int, v byte) edit      { return func(b []byte) { b[off] = v } }
func u32(off int, v uint32) edit   { return func(b []byte) { be.PutUint32(b[off:], v) } }
func u64(off int, v uint64) edit   { return func(b []byte) { be.PutUint64(b[off:], v) } }
func text(off int, s string) edit  { return func(b []byte) { copy(b[off:], s) } }
func creator(s string) edit        { return text(28, s) }
func currentSize(v uint64) edit    { return u64(48, v) }
func geometry(c, h, s uint16) edit { return u32(56, uint32(c)<<16|uint32(h)<<8|uint32(s)) }

func apply(b []byte, es []edit) {
	for _, e := range es {
		e(b)
	}
}

// sum writes the checksum at off: the complement of the sum of all bytes. The bytes of the
// checksum itself count as zero.
func sum(b []byte, off int) {
	be.PutUint32(b[off:], 0)
	var s uint32
	for _, c := range b {
		s += uint32(c)
	}
	be.PutUint32(b[off:], ^s)
}

// footerBytes is a footer as Windows writes it, but with the largest geometry, so that every
// size rule uses the current size.
func footerBytes(typ uint32, size int64, es ...edit) []byte {
	b := make([]byte, 512)
	copy(b, "conectix")
	be.PutUint32(b[8:], 2)
	be.PutUint32(b[12:], 0x00010000)
	be.PutUint64(b[16:], 512)
	if typ == fixed {
		be.PutUint64(b[16:], allOnes)
	}
	be.PutUint32(b[24:], 0x1e598ef7)
	copy(b[28:], "win ")
	be.PutUint32(b[32:], 0x00060003)
	copy(b[36:], "Wi2k")
	be.PutUint64(b[40:], uint64(size))
	be.PutUint64(b[48:], uint64(size))
	geometry(65535, 16, 255)(b)
	be.PutUint32(b[60:], typ)
	copy(b[68:], "0123456789abcdef")
	apply(b, es)
	sum(b, 64)
	return b
}

// fixedImage is data followed by a footer.
func fixedImage(data []byte, es ...edit) []byte {
	return append(slices.Clone(data), footerBytes(fixed, int64(len(data)), es...)...)
}

// A block of a crafted image.
type block struct {
	entry  int
	sector int64  // of the file, where the bitmap starts
	bitmap []byte // nil: all ones
	data   []byte // the rest is zeros
}

// A craft describes a dynamic image. Zero values mean the usual ones.
type craft struct {
	size      int64
	blockSize int64          // 4096
	headerAt  int64          // 512
	tableAt   int64          // 1536
	entries   int            // 0: the number of blocks of the disk
	blocks    []block        // the allocated blocks
	bat       map[int]uint32 // entries with other values
	end       int64          // offset of the trailing footer; 0: after everything else
	footer    []edit
	header    []edit
}

func (c craft) bytes() []byte {
	c.defaults()
	put := func(img []byte, at int64, b []byte) []byte {
		if n := int(at) + len(b); len(img) < n {
			img = append(img, make([]byte, n-len(img))...)
		}
		copy(img[at:], b)
		return img
	}
	f := footerBytes(dynamic, c.size, append([]edit{u64(16, uint64(c.headerAt))}, c.footer...)...)
	h := make([]byte, 1024)
	copy(h, "cxsparse")
	be.PutUint64(h[8:], allOnes)
	be.PutUint64(h[16:], uint64(c.tableAt))
	be.PutUint32(h[24:], 0x00010000)
	be.PutUint32(h[28:], uint32(c.entries))
	be.PutUint32(h[32:], uint32(c.blockSize))
	apply(h, c.header)
	sum(h, 36)
	table := bytes.Repeat([]byte{0xff}, (c.entries*4+511)/512*512)
	for _, b := range c.blocks {
		be.PutUint32(table[b.entry*4:], uint32(b.sector))
	}
	for i, v := range c.bat {
		be.PutUint32(table[i*4:], v)
	}
	img := put(nil, 0, f)
	img = put(img, c.headerAt, h)
	img = put(img, c.tableAt, table)
	bitmapSize := bitmapBytes(c.blockSize)
	for _, b := range c.blocks {
		bitmap := b.bitmap
		if bitmap == nil {
			bitmap = bytes.Repeat([]byte{0xff}, int(bitmapSize))
		}
		img = put(img, b.sector*sector, bitmap)
		data := make([]byte, c.blockSize)
		copy(data, b.data)
		img = put(img, b.sector*sector+bitmapSize, data)
	}
	if c.end == 0 {
		c.end = int64(len(img))
	}
	return put(img, c.end, f)
}

func (c *craft) defaults() {
	if c.blockSize == 0 {
		c.blockSize = 4 * kib
	}
	if c.headerAt == 0 {
		c.headerAt = 512
	}
	if c.tableAt == 0 {
		c.tableAt = 1536
	}
	if c.entries == 0 {
		c.entries = int((c.size + c.blockSize - 1) / c.blockSize)
	}
}

// bitmapBytes is the size of a sector bitmap, in whole sectors.
func bitmapBytes(blockSize int64) int64 {
	n := int64(sector)
	for n*8*sector < blockSize {
		n += sector
	}
	return n
}

// pattern returns n bytes, none of them zero, different for every seed and sector.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for s := 0; s*sector < n; s++ {
		copy(b[s*sector:], cycle[(int(seed)*37+s*11)%255:][:sector])
	}
	return b
}

// cycle repeats 1 to 255.
var cycle = func() []byte {
	b := make([]byte, 255+sector)
	for i := range b {
		b[i] = byte(1 + i%255)
	}
	return b
}()

func openBytes(t tb, b []byte, o *vhd.OpenOptions) *vhd.Image {
	t.Helper()
	img, err := vhd.NewImage(bytes.NewReader(b), int64(len(b)), o)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// openMem opens the file for writing.
func openMem(t tb, m *memFile) *vhd.Image {
	t.Helper()
	img, err := vhd.NewImage(m, m.size(), &vhd.OpenOptions{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// hasFailed reports whether an image has failed: then each call returns that error.
func hasFailed(t tb, img *vhd.Image) bool {
	t.Helper()
	_, err := img.ReadAt(make([]byte, 1), 0)
	if !errors.Is(err, vhd.ErrFailed) {
		return false
	}
	for what, err := range map[string]error{
		"WriteAt":     second(img.WriteAt([]byte{1}, 0)),
		"WriteZeroes": img.WriteZeroes(0, 1),
		"Reserve":     img.Reserve(0, 1),
		"Sync":        img.Sync(),
		"Resize":      img.Resize(context.Background(), 512, nil),
		"Empty":       img.Empty(context.Background(), nil),
		"Detach":      img.Detach(context.Background(), nil),
		"SetParent":   img.SetParent(nil, vhd.ParentRecord{}),
		"SetFooter":   img.SetFooter(img.Footer()),
		"SetMarker":   img.SetMarker(0),
	} {
		if !errors.Is(err, vhd.ErrFailed) {
			t.Errorf("the image has failed, and %s returns %v", what, err)
		}
	}
	for _, err := range img.Extents(0, img.Size()) {
		if !errors.Is(err, vhd.ErrFailed) {
			t.Errorf("the image has failed, and Extents yields %v", err)
		}
	}
	return true
}

func second[T any](_ T, err error) error { return err }

func readAll(t tb, d disk.Disk) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	if n, err := d.ReadAt(b, 0); n != len(b) || err != nil && err != io.EOF {
		t.Fatalf("ReadAt of the whole disk of %d bytes: %d, %v", len(b), n, err)
	}
	return b
}

// write writes p, and fails the test on an error. It is safe for any goroutine.
func write(t tb, d io.WriterAt, p []byte, off int64) {
	t.Helper()
	if n, err := d.WriteAt(p, off); n != len(p) || err != nil {
		t.Errorf("WriteAt of %d bytes at %d: %d, %v", len(p), off, n, err)
	}
}

func syncImage(t tb, img *vhd.Image) {
	t.Helper()
	if err := img.Sync(); err != nil {
		t.Fatalf("Sync: %v", err)
	}
}

// sameBytes compares contents, and reports the offset instead of the bytes.
func sameBytes(t tb, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d bytes, want %d", what, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: byte %d (sector %d) is %#02x, want %#02x", what, i, i/sector, got[i], want[i])
		}
	}
}

// findings returns the findings of a check of the image, at a time after all time stamps used
// here.
func findings(t tb, b []byte) ([]vhd.Finding, vhd.Counts) {
	t.Helper()
	var fs []vhd.Finding
	n, err := checkImage(bytes.NewReader(b), int64(len(b)), nil, func(f vhd.Finding) { fs = append(fs, f) })
	if err != nil {
		t.Fatalf("Check: %v", err)
	}
	return fs, n
}

// checkImage calls found with each finding of a check.
func checkImage(r io.ReaderAt, size int64, o *vhd.CheckOptions, found func(vhd.Finding)) (vhd.Counts, error) {
	c := vhd.NewChecker(r, size, o)
	for f, err := range c.Findings(context.Background()) {
		if err != nil {
			return c.Counts(), err
		}
		found(f)
	}
	return c.Counts(), nil
}

// errOrphans says that a repair leaves unreferenced space because it holds data.
var errOrphans = errors.New("unreferenced space holds data")

// repaired repairs the image in f, and returns the steps. The error is errOrphans if the repair
// succeeds and leaves orphans.
func repaired(ctx context.Context, f disk.File, size int64, o *vhd.RepairOptions) ([]vhd.Repaired, error) {
	report, err := vhd.Repair(ctx, f, size, o)
	for _, x := range report.Left {
		if err == nil && x.ID == "leak" && strings.Contains(x.Reason, "the space holds data") {
			err = errOrphans
		}
	}
	return report.Done, err
}

// repairFile repairs the image in a file.
func repairFile(m *memFile, o *vhd.RepairOptions) error {
	_, err := repaired(context.Background(), m, m.size(), o)
	return err
}

// noErrors checks an image. Only the allowed errors may be found.
func noErrors(t tb, b []byte, allowed ...string) {
	t.Helper()
	fs, _ := findings(t, b)
	for _, f := range fs {
		if f.Severity == vhd.Error && !slices.Contains(allowed, f.ID) {
			t.Errorf("check: %s: %v", f.ID, f)
		}
	}
}

// A memFile is a disk.File in memory that can fail on request.
type memFile struct {
	mu   sync.RWMutex
	b    []byte
	mode fs.FileMode

	// before is called before each change, without a lock. It returns the number of bytes of a
	// write that are written, and the error to return afterwards.
	before func(c change) (int, error)
	// reading is called before each read.
	reading func(off int64, n int)
}

// A change is a "write" of data at off, a "truncate" to off, or a "sync".
type change struct {
	op   string
	off  int64
	data []byte
}

func newMemFile(b []byte) *memFile { return &memFile{b: slices.Clone(b)} }

func (m *memFile) ask(c change) (int, error) {
	if m.before == nil {
		return len(c.data), nil
	}
	return m.before(c)
}

func (m *memFile) ReadAt(p []byte, off int64) (int, error) {
	if m.reading != nil {
		m.reading(off, len(p))
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if off >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := m.ask(change{"write", off, p})
	m.mu.Lock()
	defer m.mu.Unlock()
	if end := int(off) + n; n > 0 && end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	if n > 0 {
		copy(m.b[off:], p[:n])
	}
	return n, err
}

func (m *memFile) Truncate(n int64) error {
	if _, err := m.ask(change{op: "truncate", off: n}); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if have := int64(len(m.b)); n > have {
		m.b = append(m.b, make([]byte, n-have)...)
	}
	clear(m.b[n:])
	m.b = m.b[:n]
	return nil
}

func (m *memFile) Sync() error {
	_, err := m.ask(change{op: "sync"})
	return err
}

func (m *memFile) Close() error { return nil }

func (m *memFile) Size() (int64, error) { return m.size(), nil }

func (m *memFile) FixedLength() bool { return m.mode != 0 }

func (m *memFile) size() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return int64(len(m.b))
}

// bytes returns the current contents of the file.
func (m *memFile) bytes() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.b)
}

var _ disk.File = (*memFile)(nil)

func writeFile(t tb, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
