package vhd_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// bit returns bit s of a bitmap, computed in the obvious way.
func bit(b []byte, s int) bool { return b[s/8]>>(7-s%8)&1 == 1 }

func TestBitmapRun(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Long runs need bytes of all zeros and all ones.
		b := rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom([]byte{0, 0xff}), rapid.Byte()), 1, 20).Draw(t, "bitmap")
		s := rapid.IntRange(0, len(b)*8-1).Draw(t, "sector")
		limit := rapid.IntRange(s+1, len(b)*8).Draw(t, "limit")
		want := s
		for want < limit && bit(b, want) == bit(b, s) {
			want++
		}
		end, set := vhd.BitmapRun(b, int64(s), int64(limit))
		if end != int64(want) || set != bit(b, s) {
			t.Fatalf("run of %08b from %d, limit %d: %d, %t; want %d, %t", b, s, limit, end, set, want, bit(b, s))
		}
	})
}

func TestSetBits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 1, 6).Draw(t, "bitmap")
		s := rapid.IntRange(0, len(b)*8).Draw(t, "sector")
		end := rapid.IntRange(s, len(b)*8).Draw(t, "end")
		got := slices.Clone(b)
		vhd.SetBits(got, int64(s), int64(end))
		for i := range len(b) * 8 {
			if want := bit(b, i) || s <= i && i < end; bit(got, i) != want {
				t.Fatalf("bits %d to %d of %08b set: %08b", s, end, b, got)
			}
		}
	})
}

func TestBitmapSize(t *testing.T) {
	for blockSize, want := range map[int64]int64{
		4 * kib: 512, 64 * kib: 512, 512 * kib: 512, 2 * mib: 512, 4 * mib: 1024, 8 * mib: 2048, 256 * mib: 65536,
	} {
		if got := vhd.BitmapSizeFor(blockSize); got != want {
			t.Errorf("blocks of %d bytes have a bitmap of %d, want %d", blockSize, got, want)
		}
	}
}

// The first sector of a block is the highest bit of its bitmap's first byte. A sector with a
// clear bit reads as zeros, whatever the file holds.
func TestReadHonoursBitmap(t *testing.T) {
	for _, c := range []struct {
		blockSize int64
		set       []int // sectors
	}{
		{4 * kib, []int{0}},
		{4 * kib, []int{7}},
		{4 * kib, []int{1, 2, 5}},
		{4 * kib, nil},
		{64 * kib, []int{3, 64, 65, 66, 127}},
		{512 * kib, []int{0, 8, 15, 16, 1023}},
		{2 * mib, []int{7, 4088, 4095}},
		{4 * mib, []int{0, 4095, 4096, 8191}}, // in both sectors of the bitmap
	} {
		t.Run(fmt.Sprint(c.blockSize, c.set), func(t *testing.T) {
			bitmap := make([]byte, bitmapBytes(c.blockSize))
			if want := map[bool]int{true: 1024, false: 512}[c.blockSize == 4*mib]; len(bitmap) != want {
				t.Fatalf("the bitmap has %d bytes, want %d", len(bitmap), want)
			}
			data := pattern(int(c.blockSize), 1)
			want := make([]byte, 2*c.blockSize)
			for _, s := range c.set {
				bitmap[s/8] |= [8]byte{0x80, 0x40, 0x20, 0x10, 8, 4, 2, 1}[s%8]
				copy(want[int(c.blockSize)+s*sector:], data[s*sector:(s+1)*sector])
			}
			file := craft{size: 2 * c.blockSize, blockSize: c.blockSize, blocks: []block{{1, 4, bitmap, data}}}.bytes()
			img := openBytes(t, file, nil)
			sameBytes(t, "contents", readAll(t, img), want)
			checkExtents(t, img, want, 0, len(want))
			checkExtents(t, img, want, int(c.blockSize)+100, 3000) // not whole sectors
			// Pieces that start and end within sectors.
			for off := int64(0); off < 2*c.blockSize; off += c.blockSize/4 + 77 {
				p := make([]byte, 1111)
				n, err := img.ReadAt(p, off)
				if err != nil && err != io.EOF {
					t.Fatal(err)
				}
				sameBytes(t, "piece", p[:n], want[off:][:n])
			}
		})
	}
}

// The bits that pad the bitmap are ignored.
func TestBitmapPadding(t *testing.T) {
	bitmap := append([]byte{0x40}, bytes.Repeat([]byte{0xff}, 511)...)
	data := pattern(4*kib, 1)
	img := openBytes(t, craft{size: 4 * kib, blocks: []block{{0, 4, bitmap, data}}}.bytes(), nil)
	want := make([]byte, 4*kib)
	copy(want[512:], data[512:1024])
	sameBytes(t, "contents", readAll(t, img), want)
	bitmap = append([]byte{0xff}, make([]byte, 511)...)
	img = openBytes(t, craft{size: 4 * kib, blocks: []block{{0, 4, bitmap, data}}}.bytes(), nil)
	sameBytes(t, "contents of a full block", readAll(t, img), data)
}

// These writes go to a block whose sectors 1, 2 and 5 are written. The file holds other bytes
// in the other sectors.
func TestWriteIntoPartialBlock(t *testing.T) {
	for _, c := range []struct {
		name   string
		off, n int
		bits   byte // after the write
	}{
		{"a sector that is there", 512, 512, 0b01100100},
		{"part of a sector that is there", 600, 100, 0b01100100},
		{"a sector that is not", 3 * 512, 512, 0b01110100},
		{"the start of a sector that is not", 3 * 512, 10, 0b01110100},
		{"the middle of a sector that is not", 3*512 + 100, 10, 0b01110100},
		{"the end of a sector that is not", 4*512 - 10, 10, 0b01110100},
		{"from one that is not into one that is", 400, 300, 0b11100100},
		{"from one that is into one that is not", 3*512 - 100, 200, 0b01110100},
		{"over three, the first and last in part", 2*512 + 500, 600, 0b01110100 | 0b00001000},
		{"over one that is there, its neighbours in part", 4*512 + 1, 3*512 - 2, 0b01101110},
		{"all of it", 0, 4096, 0b11111111},
		{"all but the first and last byte", 1, 4094, 0b11111111},
		{"the last byte", 4095, 1, 0b01100101},
		{"nothing", 100, 0, 0b01100100},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := pattern(4*kib, 1)
			bitmap := append([]byte{0b01100100}, make([]byte, 511)...)
			file := craft{size: 8 * kib, blocks: []block{{1, 4, bitmap, old}}}.bytes()
			want := make([]byte, 8*kib)
			for _, s := range []int{1, 2, 5} {
				copy(want[4*kib+s*sector:], old[s*sector:(s+1)*sector])
			}
			m := newMemFile(file)
			img := openMem(t, m)
			p := pattern(c.n, 2)
			write(t, img, p, int64(4*kib+c.off))
			copy(want[4*kib+c.off:], p)
			sameBytes(t, "contents", readAll(t, img), want)

			// The bits are written when the data is durable: by Sync, after a flush.
			if got := m.bytes()[4*sector]; got != 0b01100100 {
				t.Errorf("before Sync the bitmap is %08b, want %08b", got, 0b01100100)
			}
			var log []string
			m.before = func(c change) (int, error) {
				if c.op == "write" && c.off == 4*sector {
					c.op = "bitmap"
				}
				log = append(log, c.op)
				return len(c.data), nil
			}
			syncImage(t, img)
			if c.bits != 0b01100100 && !slices.Equal(log, []string{"sync", "bitmap", "sync"}) {
				t.Errorf("Sync does %q, want flush, bitmap, flush", log)
			}
			b := m.bytes()
			if b[4*sector] != c.bits || !bytes.Equal(b[4*sector+1:5*sector], bitmap[1:]) {
				t.Errorf("the bitmap is %08b, want %08b and zeros", b[4*sector], c.bits)
			}
			sameBytes(t, "contents for another reader", readAll(t, openBytes(t, b, nil)), want)
			if len(b) != len(file) {
				t.Errorf("the file has grown from %d to %d bytes", len(file), len(b))
			}
		})
	}
}

// Zeros need no bit: missing sectors read as zeros.
func TestZeroesInPartialBlock(t *testing.T) {
	old := pattern(4*kib, 1)
	bitmap := append([]byte{0b01100100}, make([]byte, 511)...)
	m := newMemFile(craft{size: 4 * kib, blocks: []block{{0, 4, bitmap, old}}}.bytes())
	img := openMem(t, m)
	if err := img.WriteZeroes(100, 1024); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 4*kib)
	copy(want[1124:1536], old[1124:1536])
	copy(want[5*sector:], old[5*sector:6*sector])
	sameBytes(t, "contents", readAll(t, img), want)
	syncImage(t, img)
	sameBytes(t, "contents for another reader", readAll(t, openBytes(t, m.bytes(), nil)), want)
}

// The image has more partial blocks than it keeps in memory.
func TestManyPartialBlocks(t *testing.T) {
	const blocks = 4100
	c := craft{size: blocks * 4 * kib}
	tableSectors := int64(blocks*4+511) / 512
	var want []byte
	for i := range blocks {
		data := pattern(4*kib, byte(i))
		bits := byte(0x80) >> (i % 8)
		c.blocks = append(c.blocks, block{i, 3 + tableSectors + int64(i)*9, append([]byte{bits}, make([]byte, 511)...), data})
		w := make([]byte, 4*kib)
		copy(w[i%8*sector:], data[i%8*sector:(i%8+1)*sector])
		want = append(want, w...)
	}
	img := openBytes(t, c.bytes(), nil)
	sameBytes(t, "contents", readAll(t, img), want)
	sameBytes(t, "contents, again", readAll(t, img), want)
}

// The bitmaps of a new image are written with the blocks or after them, whichever part of a
// block is written first.
func TestBitmapsOfNewImage(t *testing.T) {
	const blockSize, blocks = 64 * kib, 6
	name := filepath.Join(t.TempDir(), "new.vhd")
	img, err := vhd.Create(name, &vhd.CreateOptions{Size: blocks * blockSize, Exact: true, BlockSize: blockSize})
	must(t, err)
	want := make([]byte, blocks*blockSize)
	put := func(off, n int) {
		p := pattern(n, byte(off/blockSize+1))
		write(t, img, p, int64(off))
		copy(want[off:], p)
	}
	must(t, img.Reserve(0, 5*blockSize))
	put(0, blockSize)                         // the whole block
	put(blockSize, 100)                       // the start only
	put(2*blockSize+4096, 4096)               // without the start
	put(3*blockSize+blockSize/2, blockSize/2) // the start last
	put(3*blockSize, blockSize/2)
	put(4*blockSize-512, 1024) // across two blocks
	put(5*blockSize, blockSize)
	file, err := os.ReadFile(name)
	if err == nil {
		t.Errorf("the new image appears, with %d bytes, before it is closed", len(file))
	}
	must(t, img.Close())
	file, err = os.ReadFile(name)
	must(t, err)
	for b := range blocks {
		at := int(be.Uint32(file[1536+4*b:])) * sector
		if got, want := file[at:at+512], append(bytes.Repeat([]byte{0xff}, blockSize/sector/8), make([]byte, 512-blockSize/sector/8)...); !bytes.Equal(got, want) {
			t.Errorf("the bitmap of block %d begins with %x, want all ones for its %d sectors", b, got[:20], blockSize/sector)
		}
	}
	sameBytes(t, "contents", readAll(t, openBytes(t, file, nil)), want)
	noErrors(t, file)
}
