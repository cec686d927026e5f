package vhdx_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhdx"
)

func mustOpen(t testing.TB, s *sparse) *vhdx.Image {
	t.Helper()
	img, err := vhdx.NewImage(s, s.size, &vhdx.OpenOptions{Parents: disk.ParentSearch{None: true}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// contents reads a whole disk, in pieces that do not follow blocks. It also compares the extents
// with the contents.
func contents(t testing.TB, d disk.Disk) []byte {
	t.Helper()
	b := bytes.Repeat([]byte{0xaa}, int(d.Size())) // a read replaces all of it
	for off := 0; off < len(b); {
		n := min(700_000, len(b)-off)
		if k, err := d.ReadAt(b[off:off+n], int64(off)); k != n || err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("read of %d bytes at %d: %d, %v", n, off, k, err)
		}
		off += n
	}
	next := int64(0)
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Off != next || e.Len <= 0 {
			t.Fatalf("extent %d+%d, want one at %d", e.Off, e.Len, next)
		}
		next = e.End()
		want := make([]byte, e.Len)
		if e.State == disk.Data {
			if err := readAll(e.File, want, e.FileOff); err != nil {
				t.Fatalf("extent %d+%d: %v", e.Off, e.Len, err)
			}
		}
		if !bytes.Equal(want, b[e.Off:e.End()]) {
			t.Fatalf("extent %d+%d (%v, file offset %d) differs from the contents of the disk", e.Off, e.Len, e.State, e.FileOff)
		}
	}
	if next != d.Size() {
		t.Fatalf("the extents end at %d, want %d", next, d.Size())
	}
	return b
}

func readAll(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		return err
	}
	return nil
}

// TestStates: each state of a block of a dynamic disk, with blocks in any order.
func TestStates(t *testing.T) {
	for _, sector := range []uint32{512, 4096} {
		s := craft{
			size: 9*mib - 4096, sector: sector,
			entries: map[int64]uint64{0: 5*mib | 6, 1: 0, 2: 1, 3: 2, 4: 3, 5: 5, 6: 4*mib | 6, 7: 9*mib | 2, 8: 6*mib | 6},
			length:  7 * mib,
		}.image()
		s.fill(5*mib, mib, 'a')
		s.fill(4*mib, mib, 'b')
		s.fill(6*mib, mib, 'c')
		img := mustOpen(t, s)
		if img.Size() != 9*mib-4096 || img.BlockSize() != mib || img.LogicalSectorSize() != int64(sector) || img.Subformat() != "dynamic" || img.Creator() != "Test" {
			t.Errorf("size %d, block size %d, sector size %d, %s, creator %q", img.Size(), img.BlockSize(), img.LogicalSectorSize(), img.Subformat(), img.Creator())
		}
		want := make([]byte, 9*mib-4096)
		for block, b := range map[int]byte{0: 'a', 6: 'b', 8: 'c'} {
			for i := block * mib; i < min(len(want), (block+1)*mib); i++ {
				want[i] = b
			}
		}
		if !bytes.Equal(contents(t, img), want) {
			t.Errorf("sectors of %d bytes: the contents are wrong", sector)
		}
		var states []disk.State
		for e := range img.Extents(0, img.Size()) {
			states = append(states, e.State)
		}
		if want := []disk.State{disk.Data, disk.Unallocated, disk.Zero, disk.Data, disk.Zero, disk.Data}; !equal(states, want) {
			t.Errorf("states %v, want %v", states, want)
		}
		if total, used, err := img.BlockCounts(); total != 9 || used != 3 || err != nil {
			t.Errorf("%d of %d blocks in use, %v; want 3 of 9", used, total, err)
		}
	}
}

func equal(a, b []disk.State) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestChunks: an entry of a sector bitmap follows the payload entries of each chunk.
func TestChunks(t *testing.T) {
	// With blocks of 256 MiB and sectors of 512 bytes a chunk has 16 blocks.
	s := craft{
		size: 40 * 256 * mib, block: 256 * mib,
		entries: map[int64]uint64{15: 4*mib | 6, 17: 260*mib | 6, 17 + 17: 516*mib | 6},
	}.image()
	s.fill(4*mib, 10, 'a')
	s.fill(260*mib, 10, 'b')
	s.fill(516*mib, 10, 'c')
	img := mustOpen(t, s)
	for block, want := range map[int64]byte{15: 'a', 16: 'b', 32: 'c', 14: 0, 17: 0, 31: 0, 33: 0} {
		p := make([]byte, 1)
		if _, err := img.ReadAt(p, block*256*mib); err != nil || p[0] != want {
			t.Errorf("block %d starts with %q, %v; want %q", block, p, err, want)
		}
	}
	var offsets []int64
	for e, err := range img.Extents(0, img.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.State == disk.Data {
			offsets = append(offsets, e.Off/(256*mib))
		}
	}
	if len(offsets) != 2 || offsets[0] != 15 || offsets[1] != 32 {
		t.Errorf("data from blocks %d, want 15 (with 16) and 32", offsets)
	}
}

// TestLongBAT: entries far apart are found, and reads do not depend on the order.
func TestLongBAT(t *testing.T) {
	entries := map[int64]uint64{}
	blocks := []int64{0, 8190, 8191, 8192, 16385, 70000}
	for i, b := range blocks {
		entries[b+b/4096] = uint64(4+i)*mib | 6 // chunks of 4096 blocks
	}
	s := craft{size: 80000 * mib, entries: entries}.image()
	for i := range blocks {
		s.fill(int64(4+i)*mib, 10, byte('a'+i))
	}
	img := mustOpen(t, s)
	var found []int64
	for e, err := range img.Extents(0, img.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.State == disk.Data {
			for off := e.Off; off < e.End(); off += mib {
				found = append(found, off/mib)
			}
		}
	}
	if len(found) != len(blocks) {
		t.Fatalf("blocks %d have data, want %d", found, blocks)
	}
	for i, b := range blocks {
		p := make([]byte, 1)
		if _, err := img.ReadAt(p, b*mib); err != nil || p[0] != byte('a'+i) || found[i] != b {
			t.Errorf("block %d starts with %q, %v; found as %d", b, p, err, found[i])
		}
	}
}

// TestHeaders: the valid header with the larger sequence number is the current one.
func TestHeaders(t *testing.T) {
	for name, c := range map[string]struct {
		newer int64 // offset of the header with the larger sequence number
		torn  int64 // offset of a header with a wrong checksum
		want  byte  // of the data write GUID
	}{
		"second is newer":              {newer: header2At, want: 2},
		"first is newer":               {newer: header1At, want: 1},
		"second is newer, and is torn": {newer: header2At, torn: header2At, want: 1},
		"first is newer, and is torn":  {newer: header1At, torn: header1At, want: 2},
		"second is older, and is torn": {newer: header1At, torn: header2At, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := craft{size: mib}.image()
			s.fill(header1At+32, 16, 1)
			s.fill(header2At+32, 16, 2)
			s.put64(c.newer+8, 100)
			s.resealAll()
			if c.torn != 0 {
				s.put(c.torn+4000, 1)
			}
			if got := mustOpen(t, s).Header().DataWriteGUID[0]; got != c.want {
				t.Errorf("header %d is current, want %d", got, c.want)
			}
		})
	}
}

// TestEmptyDisk: a disk of no bytes has no extents.
func TestEmptyDisk(t *testing.T) {
	img := mustOpen(t, craft{}.image())
	if n, err := img.ReadAt(make([]byte, 1), 0); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read of an empty disk: %d, %v", n, err)
	}
	for e, err := range img.Extents(0, 100) {
		t.Errorf("extent %v, %v", e, err)
	}
}

// TestWriteIsRefused: an existing image is not opened for writing.
func TestWriteIsRefused(t *testing.T) {
	s := craft{size: mib}.image()
	if d, err := vhdx.Format.Open(s, s.size, &disk.OpenOptions{Write: true}); d != nil || !errors.Is(err, vhdx.ErrUnsupported) {
		t.Errorf("%v, %v; want ErrUnsupported", d, err)
	}
}

// TestProbe distinguishes images, damaged images and other files.
func TestProbe(t *testing.T) {
	s := craft{size: mib}.image()
	if err := vhdx.Probe(s, s.size); err != nil {
		t.Errorf("an image: %v", err)
	}
	s.put(0, 'x')
	var fe *vhdx.FormatError
	if err := vhdx.Probe(s, s.size); !errors.As(err, &fe) || fe.ID != "file-identifier" || errors.Is(err, disk.ErrNotThisFormat) {
		t.Errorf("without the identifier: %v, want a FormatError", err)
	}
	for name, b := range map[string][]byte{"empty": nil, "short": []byte("vhdx"), "zeros": make([]byte, 3*mib)} {
		if err := vhdx.Probe(bytes.NewReader(b), int64(len(b))); !errors.Is(err, disk.ErrNotThisFormat) {
			t.Errorf("%s: %v, want ErrNotThisFormat", name, err)
		}
	}
	short := []byte("vhdxfile")
	if _, err := vhdx.NewImage(bytes.NewReader(short), 8, nil); !errors.Is(err, vhdx.ErrCorrupt) {
		t.Errorf("the identifier alone: %v, want ErrCorrupt", err)
	}
}

// TestClosed: a closed image is not read.
func TestClosed(t *testing.T) {
	img := mustOpen(t, craft{size: mib}.image())
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := img.ReadAt(make([]byte, 1), 0); !errors.Is(err, vhdx.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	for _, err := range img.Extents(0, 1) {
		if !errors.Is(err, vhdx.ErrClosed) {
			t.Errorf("extents: %v", err)
		}
	}
}
