package vhd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// This package replaces a driver of qemu from 2013. These tests show, item by item, that its
// correct behaviour was kept and its faults were not repeated.

var (
	someID   = uuid.MustParse("00112233-4455-4677-8899-aabbccddeeff")
	someTime = time.Date(2013, 5, 12, 8, 57, 20, 0, time.UTC) // 0x192215f0
)

// create makes an image in memory and completes it.
func create(t tb, o *vhd.CreateOptions) *memFile {
	t.Helper()
	m := newMemFile(nil)
	img, err := vhd.CreateIn(m, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	return m
}

// failing makes writes to the file fail as on a full file system. Nothing past limit is stored,
// and a write across limit is stored in part.
func failing(limit int64) func(change) (int, error) {
	return func(c change) (int, error) {
		switch {
		case c.op == "write" && c.off+int64(len(c.data)) > limit:
			return int(max(0, min(int64(len(c.data)), limit-c.off))), &os.PathError{Op: "write", Path: "disk.vhd", Err: syscall.ENOSPC}
		case c.op == "truncate" && c.off > limit:
			return 0, &os.PathError{Op: "truncate", Path: "disk.vhd", Err: syscall.ENOSPC}
		}
		return len(c.data), nil
	}
}

func TestDriver2013Keep(t *testing.T) {
	t.Run("keep field values and layout", func(t *testing.T) {
		// 10 MiB is rounded to 302/4/17; the default is dynamic.
		m := create(t, &vhd.CreateOptions{Size: 10 * mib, UniqueID: someID, Time: someTime})
		footer := unhex(t, 512, `636f6e6563746978 00000002 00010000 0000000000000200 192215f0 71656d75 00050003 5769326b
			0000000000a07000 0000000000a07000 012e0411 00000003 00000000 00112233445546778899aabbccddeeff 00`)
		sum(footer, 64)
		header := unhex(t, 1024, `6378737061727365 ffffffffffffffff 0000000000000600 00010000 00000006 00200000 fffff471`)
		table := bytes.Repeat([]byte{0xff}, 512)
		sameBytes(t, "file", m.bytes(), slices.Concat(footer, header, table, footer))
	})
	t.Run("keep field values of a fixed disk", func(t *testing.T) {
		m := create(t, &vhd.CreateOptions{Type: vhd.Fixed, Size: 34816, UniqueID: someID, Time: someTime})
		footer := unhex(t, 512, `636f6e6563746978 00000002 00010000 ffffffffffffffff 192215f0 71656d75 00050003 5769326b
			0000000000008800 0000000000008800 00010411 00000002 00000000 00112233445546778899aabbccddeeff 00`)
		sum(footer, 64)
		sameBytes(t, "file", m.bytes(), append(make([]byte, 34816), footer...))
	})
	t.Run("keep an empty disk", func(t *testing.T) {
		b := create(t, &vhd.CreateOptions{}).bytes()
		if len(b) != 2048 || be.Uint32(b[512+36:]) != 0xfffff477 {
			t.Errorf("%d bytes, header checksum %#x; want 2048 bytes and 0xfffff477", len(b), be.Uint32(b[512+36:]))
		}
	})
	t.Run("keep bitmaps of ones for new blocks", func(t *testing.T) {
		m := create(t, &vhd.CreateOptions{Size: 10 * mib})
		img := openMem(t, m)
		write(t, img, []byte("x"), 5*mib)
		syncImage(t, img)
		b := m.bytes()
		at := int64(be.Uint32(b[1536+2*4:])) * 512
		sameBytes(t, "bitmap", b[at:at+512], bytes.Repeat([]byte{0xff}, 512))
		if at != 2048 {
			t.Errorf("the bitmap of the first block is at %d, want it right after the BAT", at)
		}
	})
	t.Run("keep the entry for last", func(t *testing.T) {
		m := create(t, &vhd.CreateOptions{Size: 10 * mib, FileAlign: 4096})
		img := openMem(t, m)
		var log []string
		m.before = func(c change) (int, error) {
			switch {
			case c.op == "write" && len(c.data) == 512 && bytes.HasPrefix(c.data, []byte("conectix")):
				log = append(log, "footer")
			case c.op == "write" && c.off == 1536+4 && len(c.data) == 4:
				log = append(log, "entry")
			case c.op == "write" && bytes.HasSuffix(c.data, bytes.Repeat([]byte{0xff}, 512)):
				log = append(log, "bitmap")
			case c.op == "write" && bytes.Equal(c.data, []byte("data")):
				log = append(log, "data")
			case c.op == "write" && bytes.Equal(c.data, make([]byte, 512)):
				log = append(log, "zero old footer")
			default:
				log = append(log, c.op)
			}
			return len(c.data), nil
		}
		write(t, img, []byte("data"), 2*mib)
		syncImage(t, img)
		want := []string{"footer", "bitmap", "data", "sync", "entry", "sync", "zero old footer"}
		if !slices.Equal(log, want) {
			t.Errorf("writes are %q, want %q", log, want)
		}
	})
	t.Run("keep the footer's bytes when it is rewritten", func(t *testing.T) {
		// The fields, the reserved bytes and so the checksum are those of another program.
		c := craft{size: 8 * kib, footer: []edit{u32(8, 3), text(85, "\x01\x02\x03"), text(500, "reserved"), creator("zzzz")}}
		m := newMemFile(c.bytes())
		img := openMem(t, m)
		write(t, img, []byte("x"), 0)
		syncImage(t, img)
		b := m.bytes()
		footer := c.bytes()[:512]
		sameBytes(t, "leading copy", b[:512], footer)
		sameBytes(t, "footer", b[len(b)-512:], footer)
	})
	t.Run("keep unallocated blocks as zeros", func(t *testing.T) {
		file := craft{size: 10 * kib}.bytes()
		img := openBytes(t, file, nil)
		b := pattern(10*kib, 1)
		if n, err := img.ReadAt(b, 0); n != len(b) || err != nil && err != io.EOF {
			t.Fatal(n, err)
		}
		sameBytes(t, "contents", b, make([]byte, 10*kib))
	})
}

func TestDriver2013Correct(t *testing.T) {
	t.Run("correct 01 fixed create: file length follows the rounded size", func(t *testing.T) {
		for _, size := range []int64{1, 34817, mib, 10 * mib} {
			m := newMemFile(nil)
			img, err := vhd.CreateIn(m, &vhd.CreateOptions{Type: vhd.Fixed, Size: size})
			if err != nil {
				t.Fatal(err)
			}
			_, want := vhd.RoundToGeometry((size + 511) / 512)
			write(t, img, pattern(512, 1), want*512-512) // the last sector of the disk
			if err := img.Close(); err != nil {
				t.Fatal(err)
			}
			b := m.bytes()
			if int64(len(b)) != want*512+512 || be.Uint64(b[want*512+48:]) != uint64(want*512) {
				t.Errorf("size %d: the file has %d bytes, the footer says %d; want a disk of %d", size, len(b), be.Uint64(b[want*512+48:]), want*512)
			}
			sameBytes(t, "last sector", b[want*512-512:want*512], pattern(512, 1))
			noErrors(t, b)
		}
	})
	t.Run("correct 02 size by creator", func(t *testing.T) {
		for _, app := range []string{"win ", "d2v\x00", "tap\x00", "CTXS", "wa\x00\x00", "vbox", "qem2"} {
			// 2 GiB: the specification's geometry spans 16 sectors less.
			es := []edit{creator(app), currentSize(2 * gib), geometry(4161, 16, 63)}
			c := craft{size: 8 * mib, blockSize: 256 * mib, entries: 8, footer: es}
			if got := openBytes(t, c.bytes(), nil).Size(); got != 2*gib {
				t.Errorf("creator %q: size %d, want %d", app, got, 2*gib)
			}
		}
	})
	t.Run("correct 03 no 255 heads", func(t *testing.T) {
		for _, size := range []int64{128 * gib, gib << 10} {
			b := create(t, &vhd.CreateOptions{Size: size}).bytes()
			if be.Uint32(b[56:]) != 0xffff10ff || be.Uint64(b[48:]) != uint64(size) {
				t.Errorf("%d bytes: geometry %#x, current size %d; want 65535/16/255 and no rounding", size, b[56:60], be.Uint64(b[48:]))
			}
		}
	})
	t.Run("correct 04 limit of 2040 GiB", func(t *testing.T) {
		for _, size := range []int64{65535 * 255 * 255 * 512, 2040*gib - 512, 2040 * gib} {
			img := openBytes(t, craft{size: size, blockSize: 256 * mib}.bytes(), nil)
			if img.Size() != size {
				t.Errorf("size %d, want %d", img.Size(), size)
			}
			if got, err := (&vhd.CreateOptions{Size: size}).VirtualSize(); got != size || err != nil {
				t.Errorf("a new disk has %d bytes, %v; want %d", got, err, size)
			}
		}
		// A fixed disk has no BAT: only the footer limits its size.
		for typ, most := range map[vhd.DiskType]int64{vhd.Dynamic: 2040 * gib, vhd.Fixed: 1 << 62} {
			o := vhd.CreateOptions{Type: typ, Size: most, Exact: true}
			if got, err := o.VirtualSize(); got != most || err != nil {
				t.Errorf("a %v disk of %d bytes: %d, %v", typ, most, got, err)
			}
			o.Size++
			if err := o.Validate(); !errors.Is(err, vhd.ErrTooLarge) {
				t.Errorf("a %v disk one byte too large: %v, want ErrTooLarge", typ, err)
			}
		}
		// VirtualBox makes larger ones, which can be read.
		b := craft{size: 4000 * gib, blockSize: 256 * mib}.bytes()
		if img := openBytes(t, b, nil); img.Size() != 4000*gib {
			t.Errorf("size %d, want 4000 GiB", img.Size())
		}
	})
	t.Run("correct 05 sizes are rounded up to sectors", func(t *testing.T) {
		for size, want := range map[int64][2]int64{1: {34816, 512}, 511: {34816, 512}, 34817: {69632, 35328}, 35329: {69632, 35840}} {
			for i, exact := range []bool{false, true} {
				got, err := (&vhd.CreateOptions{Size: size, Exact: exact}).VirtualSize()
				if got != want[i] || err != nil {
					t.Errorf("size %d, exact: %t: %d, %v; want %d", size, exact, got, err, want[i])
				}
			}
		}
	})
	t.Run("correct 06 a wrong footer checksum is refused", func(t *testing.T) {
		dyn, _ := twoBlocks()
		for name, b := range map[string][]byte{
			"fixed":   spoil(fixedImage(pattern(4096, 1)), 4096+64, 4),
			"dynamic": spoil(spoil(dyn, 64, 4), len(dyn)-512+64, 4),
		} {
			_, err := vhd.NewImage(bytes.NewReader(b), int64(len(b)), nil)
			if !errors.Is(err, vhd.ErrCorrupt) || !strings.Contains(err.Error(), "checksum") {
				t.Errorf("%s: %v, want ErrCorrupt for the checksum", name, err)
			}
		}
	})
	refused := func(name string, b []byte, field string) {
		t.Run(name, func(t *testing.T) {
			_, err := vhd.NewImage(bytes.NewReader(b), int64(len(b)), nil)
			var fe *vhd.FormatError
			if !errors.As(err, &fe) || !strings.Contains(fe.Field, field) {
				t.Errorf("%v, want a FormatError for the %s", err, field)
			}
		})
	}
	refused("correct 07 block size 0", headerOf(u32(32, 0)), "block size")
	refused("correct 08 a table that 32 bits take for short", headerOf(u32(28, 0x40000002)), "max table entries")
	refused("correct 08 a table smaller than the disk", headerOf(u32(28, 1)), "current size")
	t.Run("correct 09 truncated files", func(t *testing.T) {
		whole, _ := twoBlocks()
		for cut := 1024; cut < 4608+512; cut += 512 {
			b := whole[:len(whole)-cut]
			if _, err := vhd.NewImage(bytes.NewReader(b), int64(len(b)), nil); !errors.Is(err, vhd.ErrCorrupt) {
				t.Errorf("%d bytes missing: %v, want ErrCorrupt", cut, err)
			}
		}
	})
	t.Run("correct 10 the type decides, not where the footer is", func(t *testing.T) {
		dyn, contents := twoBlocks()
		onlyTrailing := spoil(dyn, 0, 512)
		img := openBytes(t, onlyTrailing, nil)
		sameBytes(t, "dynamic by the trailing footer", readAll(t, img), contents)
		for _, typ := range []uint32{0, 1, 5, 6} {
			for name, b := range map[string][]byte{
				"trailing": append(pattern(4096, 1), footerBytes(typ, 4096)...),
				"leading":  append(footerBytes(typ, 4096), pattern(4096, 1)...),
			} {
				if _, err := vhd.NewImage(bytes.NewReader(b), int64(len(b)), nil); !errors.Is(err, vhd.ErrCorrupt) {
					t.Errorf("type %d in the %s footer: %v, want ErrCorrupt", typ, name, err)
				}
			}
		}
		b := slices.Concat(footerBytes(fixed, 4096), dyn[512:len(dyn)-512])
		if _, err := vhd.NewImage(bytes.NewReader(b), int64(len(b)), nil); !errors.Is(err, vhd.ErrCorrupt) {
			t.Errorf("fixed, at the start: %v, want ErrCorrupt", err)
		}
	})
	refused("correct 11 the header is read whole and summed", spoil(headerOf(), 512+1023, 1), "dynamic disk header: checksum")
	t.Run("correct 12 no entry too many", func(t *testing.T) {
		for size, want := range map[int64]uint32{0: 0, 1: 1, 2*mib - 1: 1, 2 * mib: 1, 2*mib + 1: 2, 4 * mib: 2, 2040 * gib: 1044480} {
			b := create(t, &vhd.CreateOptions{Size: size, Exact: true}).bytes()
			if got := be.Uint32(b[512+28:]); got != want {
				t.Errorf("%d bytes: %d entries, want %d", size, got, want)
			}
		}
	})
	t.Run("correct 13 nothing past the last sector", func(t *testing.T) {
		m := create(t, &vhd.CreateOptions{Size: 4 * mib, Exact: true})
		img := openMem(t, m)
		before := m.bytes()
		if n, err := img.WriteAt(make([]byte, 512), 4*mib); n != 0 || err == nil {
			t.Errorf("WriteAt the end: %d, %v; want an error", n, err)
		}
		if n, err := img.WriteAt(make([]byte, 513), 4*mib-512); n != 0 || err == nil {
			t.Errorf("WriteAt over the end: %d, %v; want an error", n, err)
		}
		if n, err := img.ReadAt(make([]byte, 512), 4*mib); n != 0 || err != io.EOF {
			t.Errorf("ReadAt the end: %d, %v; want EOF", n, err)
		}
		sameBytes(t, "file", m.bytes(), before)
		write(t, img, make([]byte, 512), 4*mib-512)
	})
	t.Run("correct 14 a failed allocation leaves no entry", failedAllocation)
	t.Run("correct 15 an error of writing a bitmap is returned", failedBitmap)
	t.Run("correct 16 errors say what and where", func(t *testing.T) {
		m := create(t, &vhd.CreateOptions{Size: 10 * mib})
		img := openMem(t, m)
		write(t, img, []byte("x"), 0)
		m.before = failing(m.size() + mib)
		n, err := img.WriteAt(pattern(4*mib, 1), mib)
		if n != mib || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "block 1") {
			t.Errorf("%d, %v; want %d written, ENOSPC, and the block", n, err, mib)
		}
		_, err = vhd.NewImage(bytes.NewReader(headerOf(u32(32, 12345))), 2560, nil)
		for _, part := range []string{"damaged", "dynamic disk header", "block size", "offset 544", "found 12345", "wanted a power of two"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v: want %q in it", err, part)
			}
		}
	})
	t.Run("correct 17 every image has an id", func(t *testing.T) {
		seen := map[string]bool{}
		for range 10 {
			id := create(t, &vhd.CreateOptions{}).bytes()[68:84]
			if bytes.Equal(id, make([]byte, 16)) || id[6]>>4 != 4 || id[8]>>6 != 2 || seen[string(id)] {
				t.Errorf("id %x, want a random UUID that no other image has", id)
			}
			seen[string(id)] = true
		}
	})
	t.Run("correct 18 big-endian everywhere", func(t *testing.T) {
		m := create(t, &vhd.CreateOptions{Size: 64 * mib, Exact: true, BlockSize: 512 * kib})
		img := openMem(t, m)
		write(t, img, []byte("x"), 0x51*512*kib)
		syncImage(t, img)
		b := m.bytes()
		sameBytes(t, "current size", b[48:56], []byte{0, 0, 0, 0, 4, 0, 0, 0})
		sameBytes(t, "type", b[60:64], []byte{0, 0, 0, 3})
		sameBytes(t, "table offset, version, entries, block size", b[512+16:512+36], []byte{0, 0, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 0, 0, 0x80, 0, 8, 0, 0})
		// Former offset of the footer.
		sameBytes(t, "entry", b[1536+0x51*4:1536+0x51*4+4], []byte{0, 0, 0, 4})
	})
	t.Run("correct 19 short writes and full file systems", shortWrites)
	t.Run("correct 20 reads do not wait for writes", readsDuringWrites)
	t.Run("correct 21 structures have their exact size", func(t *testing.T) {
		b := create(t, &vhd.CreateOptions{Type: vhd.Fixed, Size: 34816}).bytes()
		if len(b) != 34816+512 || string(b[34816:34824]) != "conectix" || !bytes.Equal(b[34816+85:], make([]byte, 427)) {
			t.Errorf("a fixed image of %d bytes, want 34816 and a footer of 512", len(b))
		}
		b = create(t, &vhd.CreateOptions{Size: 34816}).bytes()
		if len(b) != 512+1024+512+512 || string(b[512:520]) != "cxsparse" || be.Uint32(b[1536:]) != unused || !bytes.Equal(b[:512], b[2048:]) {
			t.Errorf("a dynamic image of %d bytes, want footer, header of 1024, BAT, footer", len(b))
		}
	})
	t.Run("correct 22 a wrong size leaves the old file", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "old.vhd")
		old := []byte("what was there")
		writeFile(t, name, old)
		for _, o := range []*vhd.CreateOptions{
			{Size: 2040*gib + 1},
			{Size: -1},
			{Size: mib, BlockSize: 12345},
			{Size: mib, BlockSize: -4096},
			{Size: mib, Type: vhd.Fixed, BlockSize: 2 * mib},
			{Size: mib, Type: vhd.Differencing},
			{Size: mib, Type: 77},
			{Size: mib, Time: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)},
		} {
			if _, err := vhd.Create(name, o); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("Create with %+v: %v, want an error that names the file", o, err)
			}
		}
		img, err := vhd.Create(name, &vhd.CreateOptions{Size: mib})
		if err != nil {
			t.Fatal(err)
		}
		write(t, img, []byte("x"), 0)
		img.Discard()
		b, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(b, old) {
			t.Errorf("the old file has become %q, %v", b, err)
		}
		if left, err := os.ReadDir(filepath.Dir(name)); err != nil || len(left) != 1 {
			t.Errorf("files left: %v, %v", left, err)
		}
	})
	t.Run("correct 23 new images read as zeros, and zeros need no space", func(t *testing.T) {
		m := newMemFile(nil)
		img, err := vhd.CreateIn(m, &vhd.CreateOptions{Size: 10 * mib, BlockSize: 512 * kib})
		if err != nil {
			t.Fatal(err)
		}
		if !img.ReadsZero() || img.BlockSize() != 512*kib {
			t.Errorf("ReadsZero: %t, BlockSize: %d; want true, %d", img.ReadsZero(), img.BlockSize(), 512*kib)
		}
		if err := img.WriteZeroes(0, img.Size()); err != nil {
			t.Fatal(err)
		}
		var extents []disk.Extent
		for e, err := range img.Extents(0, img.Size()) {
			if err != nil {
				t.Fatal(err)
			}
			extents = append(extents, e)
		}
		if len(extents) != 1 || extents[0] != (disk.Extent{Len: img.Size(), State: disk.Unallocated}) {
			t.Errorf("extents %+v, want one that is not allocated", extents)
		}
		if err := img.Close(); err != nil {
			t.Fatal(err)
		}
		if img := openMem(t, m); img.ReadsZero() {
			t.Error("an image that was opened says that it is new")
		}
		if m.size() != 2560 {
			t.Errorf("the file has %d bytes, want 2560", m.size())
		}
	})
	t.Run("correct 24 exact sizes", func(t *testing.T) {
		for _, size := range []int64{512, mib, 5 * gib} {
			b := create(t, &vhd.CreateOptions{Size: size, Exact: true}).bytes()
			if string(b[28:32]) != "qem2" || be.Uint64(b[48:]) != uint64(size) || be.Uint64(b[40:]) != uint64(size) || be.Uint32(b[56:]) != 0xffff10ff {
				t.Errorf("%d bytes: creator %q, size %d, geometry %x; want qem2, exact, 65535/16/255", size, b[28:32], be.Uint64(b[48:]), b[56:60])
			}
		}
	})
	t.Run("correct 25 differencing is not taken for dynamic", func(t *testing.T) {
		b := craft{size: 8 * kib, footer: []edit{u32(60, differencing)}, header: []edit{text(40, "id of the parent")}}.bytes()
		if _, err := vhd.NewImage(bytes.NewReader(b), int64(len(b)), nil); !errors.Is(err, vhd.ErrParentNotFound) {
			t.Errorf("%v, want ErrParentNotFound", err)
		}
	})
	t.Run("correct 26 fixed images are found by their end", func(t *testing.T) {
		b := fixedImage(make([]byte, 4096))
		if err := vhd.Probe(bytes.NewReader(b), int64(len(b))); err != nil {
			t.Errorf("Probe: %v", err)
		}
	})
	t.Run("correct 27 a fixed disk of size 0 can be opened again", func(t *testing.T) {
		for _, exact := range []bool{false, true} {
			m := create(t, &vhd.CreateOptions{Type: vhd.Fixed, Exact: exact})
			if img := openMem(t, m); img.Size() != 0 || img.Type() != vhd.Fixed {
				t.Errorf("a %v disk of size %d, want fixed and 0", img.Type(), img.Size())
			}
		}
	})
}

// Any write may fail while a block is allocated. Then the block is unallocated, no later block
// shares its space, and another try succeeds.
func failedAllocation(t *testing.T) {
	const block = 64 * kib
	for fail := 1; ; fail++ { // number of the failing write, from the first
		m := create(t, &vhd.CreateOptions{Size: 4 * block, Exact: true, BlockSize: block, FileAlign: 4096})
		img := openMem(t, m)
		first := pattern(block, 1)
		write(t, img, first, 0)
		syncImage(t, img)
		n, failed := 0, errors.New("write fails")
		m.before = func(c change) (int, error) {
			if n++; n == fail {
				return len(c.data) / 2, failed
			}
			return len(c.data), nil
		}
		_, err := img.WriteAt(pattern(block, 2), block)
		m.before = nil
		if err == nil {
			if fail < 4 {
				t.Fatalf("the write took %d writes to the file, want at least 3", fail-1)
			}
			return
		}
		if !errors.Is(err, failed) {
			t.Fatalf("write %d fails: %v", fail, err)
		}
		if fail < 3 { // before the data is written
			if _, allocated := img.BlockCounts(); allocated != 1 {
				t.Errorf("write %d fails: %d blocks are allocated, want 1", fail, allocated)
			}
		}
		if b := m.bytes(); fail < 3 {
			sameBytes(t, "contents for another reader", readAll(t, openBytes(t, b, nil)), append(slices.Clone(first), make([]byte, 3*block)...))
		}
		write(t, img, pattern(block, 3), 2*block)
		write(t, img, pattern(block, 2), block)
		syncImage(t, img)
		b := m.bytes()
		want := slices.Concat(first, pattern(block, 2), pattern(block, 3), make([]byte, block))
		sameBytes(t, fmt.Sprintf("contents after write %d failed", fail), readAll(t, openBytes(t, b, nil)), want)
		noErrors(t, b)
	}
}

// partialBlock is an image with a block whose only written sector is sector 0.
func partialBlock() craft {
	return craft{size: 8 * kib, blocks: []block{{0, 4, append([]byte{0x80}, make([]byte, 511)...), pattern(512, 1)}}}
}

func failedBitmap(t *testing.T) {
	failed := errors.New("write fails")
	m := newMemFile(partialBlock().bytes())
	img := openMem(t, m)
	write(t, img, pattern(512, 2), 1024)
	m.before = func(c change) (int, error) {
		if c.op == "write" && c.off == 4*512 {
			return 0, failed
		}
		return len(c.data), nil
	}
	if err := img.Sync(); !errors.Is(err, failed) || !strings.Contains(err.Error(), "bitmap of block 0") {
		t.Errorf("Sync: %v, want the error of writing the bitmap", err)
	}
	m.before = nil
	if got := m.bytes()[4*512]; got != 0x80 {
		t.Errorf("the bitmap starts with %#x, want 0x80", got)
	}
	syncImage(t, img)
	want := slices.Concat(pattern(512, 1), make([]byte, 512), pattern(512, 2), make([]byte, 8*kib-1536))
	sameBytes(t, "contents", readAll(t, openBytes(t, m.bytes(), nil)), want)
}

// The file system fills up at every possible point of a session. Synced data stays, and the
// file can be opened. When space is free again, the session continues.
func shortWrites(t *testing.T) {
	const block = 4 * kib
	base := create(t, &vhd.CreateOptions{Size: 6 * block, Exact: true, BlockSize: block})
	img := openMem(t, base)
	write(t, img, pattern(block, 1), 0)
	syncImage(t, img)
	start := base.bytes()
	synced := readAll(t, img)
	failures := 0
	for limit := int64(len(start)); limit < int64(len(start))+4*block; limit += 256 {
		m := newMemFile(start)
		img := openMem(t, m)
		m.before = failing(limit)
		p := pattern(3*block, 2)
		n, err := img.WriteAt(p, block)
		if err == nil {
			err = img.Sync()
		} else if n%block != 0 || n == len(p) {
			t.Errorf("limit %d: %d bytes written, %v", limit, n, err)
		}
		if err != nil {
			failures++
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("limit %d: %v, want ENOSPC", limit, err)
			}
			// Another reader sees the synced data.
			b := m.bytes()
			sameBytes(t, "contents for another reader", readAll(t, openBytes(t, b, nil))[:block], synced[:block])
			noErrors(t, b)
			if string(b[len(b)-512:][:8]) != "conectix" {
				t.Errorf("limit %d: the file does not end with a footer", limit)
			}
		}
		m.before = nil
		write(t, img, p, block)
		write(t, img, pattern(block, 3), 4*block)
		syncImage(t, img)
		want := slices.Concat(synced[:block], p, pattern(block, 3), make([]byte, block))
		sameBytes(t, fmt.Sprintf("contents with space again, limit %d", limit), readAll(t, openBytes(t, m.bytes(), nil)), want)
		noErrors(t, m.bytes())
	}
	if failures < 10 {
		t.Errorf("only %d limits made a write fail", failures)
	}

	// A new image that cannot be completed is no image.
	m := newMemFile(nil)
	m.before = failing(1000)
	img, err := vhd.CreateIn(m, &vhd.CreateOptions{Size: mib})
	if err == nil {
		err = img.Close()
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a new image without space: %v, want ENOSPC", err)
	}
	if err := vhd.Probe(m, m.size()); err == nil {
		t.Error("it is taken for a VHD")
	}
}

// While the data of one write is being written, other reads and writes make progress.
func readsDuringWrites(t *testing.T) {
	const block = 64 * kib
	m := create(t, &vhd.CreateOptions{Size: 4 * block, Exact: true, BlockSize: block})
	img := openMem(t, m)
	write(t, img, pattern(2*block, 1), 0)
	syncImage(t, img)
	during := 0
	m.before = func(c change) (int, error) {
		if c.op == "write" && len(c.data) == 1000 { // the data of the write below
			during++
			got := make([]byte, 100)
			// The same block, another one, an unallocated one.
			for _, off := range []int64{5000, block + 5, 3 * block} {
				if _, err := img.ReadAt(got, off); err != nil {
					t.Error(err)
				}
			}
			write(t, img, []byte("other"), block)
			write(t, img, []byte("same"), 8000)
			write(t, img, []byte("new"), 2*block)
		}
		return len(c.data), nil
	}
	write(t, img, pattern(1000, 2), 0)
	if during != 1 {
		t.Fatalf("the data was written in %d writes, want 1", during)
	}
	m.before = nil
	m.reading = func(off int64, n int) {
		if n == 1000 {
			during++
			m.reading = nil
			readAll(t, img)
			write(t, img, []byte("read"), 9000)
		}
	}
	if _, err := img.ReadAt(make([]byte, 1000), 0); err != nil || during != 2 {
		t.Errorf("ReadAt: %v", err)
	}
	want := append(pattern(2*block, 1), make([]byte, 2*block)...)
	copy(want, pattern(1000, 2))
	copy(want[block:], "other")
	copy(want[8000:], "same")
	copy(want[2*block:], "new")
	copy(want[9000:], "read")
	sameBytes(t, "contents", readAll(t, img), want)
}

// A system that cannot write pages drops them, and reports success the next time. If any flush
// fails, the image commits nothing more, and synced data stays.
func TestFailedFlush(t *testing.T) {
	const block = 4 * kib
	base := create(t, &vhd.CreateOptions{Size: 4 * block, Exact: true, BlockSize: block, FileAlign: 4096})
	img := openMem(t, base)
	write(t, img, pattern(block, 1), 0)
	syncImage(t, img)
	for k := 0; ; k++ {
		failed := errors.New("input/output error")
		m := newMemFile(base.bytes())
		img := openMem(t, m)
		n := 0
		m.before = func(c change) (int, error) {
			if c.op == "sync" {
				if n++; n == k+1 {
					return 0, failed
				}
			}
			return len(c.data), nil
		}
		write(t, img, pattern(block, 2), block)
		err := img.Sync()
		if err == nil {
			if k < 2 {
				t.Errorf("Sync flushes %d times only", k)
			}
			return
		}
		if !errors.Is(err, failed) || !errors.Is(err, vhd.ErrNotDurable) {
			t.Errorf("flush %d fails: %v", k, err)
		}
		left := m.bytes()
		if _, werr := img.WriteAt(pattern(block, 3), 2*block); !errors.Is(werr, vhd.ErrNotDurable) {
			t.Errorf("flush %d failed, and then a write: %v", k, werr)
		}
		for range 2 {
			if err := img.Sync(); !errors.Is(err, vhd.ErrNotDurable) {
				t.Errorf("flush %d failed, and the next: %v", k, err)
			}
		}
		if err := img.Close(); !errors.Is(err, vhd.ErrNotDurable) {
			t.Errorf("flush %d failed, and then closing: %v", k, err)
		}
		sameBytes(t, "the file after the flush that failed", m.bytes(), left)
		sameBytes(t, "what was synced", readAll(t, openBytes(t, left, nil))[:block], pattern(block, 1))
		noErrors(t, left)
	}
}
