package vhd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// A hostile image and the expected result.
type hostile struct {
	name  string
	file  []byte
	err   error  // nil: it opens
	field string // part of FormatError.Field
	got   string // part of FormatError.Got
	check func(t *testing.T, img *vhd.Image)
}

// hostileBlocks is an image of two blocks of 4 KiB, at sectors 4 and 13. The footer is at
// sector 22.
func hostileBlocks(bat map[int]uint32, es ...edit) []byte {
	return craft{size: 8 * kib, blocks: []block{{0, 4, nil, nil}, {1, 13, nil, nil}}, bat: bat, header: es}.bytes()
}

func headerOf(es ...edit) []byte { return craft{size: 8 * kib, header: es}.bytes() }
func footerOf(es ...edit) []byte { return craft{size: 8 * kib, footer: es}.bytes() }

func size(want int64) func(*testing.T, *vhd.Image) {
	return func(t *testing.T, img *vhd.Image) {
		t.Helper()
		if img.Size() != want {
			t.Errorf("size %d, want %d", img.Size(), want)
		}
	}
}

func hostileImages() []hostile {
	var hs []hostile
	add := func(name string, file []byte, err error, field, got string) {
		hs = append(hs, hostile{name, file, err, field, got, nil})
	}
	opens := func(name string, file []byte, check func(*testing.T, *vhd.Image)) {
		hs = append(hs, hostile{name, file, nil, "", "", check})
	}

	// 1: block size.
	for _, n := range []uint32{0, 1, 511, 513, 3 * kib, 0x12345678, 0xffffffff} {
		add(fmt.Sprint("01 block size ", n), headerOf(u32(32, n)), vhd.ErrCorrupt, "block size", fmt.Sprint(n))
	}
	for _, n := range []uint32{2, 256} {
		add(fmt.Sprint("01 block size ", n), headerOf(u32(32, n)), vhd.ErrCorrupt, "block size", fmt.Sprint(n))
	}
	for _, n := range []uint32{512, 2 * kib, 512 * mib, 0x80000000} {
		add(fmt.Sprint("01 block size ", n), headerOf(u32(32, n)), vhd.ErrUnsupported, "block size", fmt.Sprint(n))
	}

	// 2: entries of the table.
	add("02 no entries for a disk", headerOf(u32(28, 0)), vhd.ErrCorrupt, "current size", "8192")
	add("02 one entry too few", headerOf(u32(28, 1)), vhd.ErrCorrupt, "current size", "8192")
	for _, n := range []uint32{0xffffffff, 0x7fffffff, 0x80000001, 0x40000001, 0x20000000, 257} {
		add(fmt.Sprintf("02 %#x entries", n), headerOf(u32(28, n)), vhd.ErrCorrupt, "max table entries", fmt.Sprint(n))
	}

	// 3: table offset. The file is 2560 bytes long.
	for _, off := range []uint64{
		0, 511, 512, 1024, 1537, 2561, 4096, 1 << 32, 1<<63 - 512, 1 << 63, 1<<64 - 512, 1<<64 - 4, allOnes,
	} {
		add(fmt.Sprintf("03 table at %#x", off), headerOf(u64(16, off)), vhd.ErrCorrupt, "table offset", fmt.Sprint(off))
	}
	add("03 table at the end of the file", headerOf(u64(16, 2560)), vhd.ErrCorrupt, "table offset", "2560")
	add("03 table over the footer", headerOf(u64(16, 2048)), vhd.ErrCorrupt, "", "")
	add("03 spare entries over the footer", headerOf(u32(28, 200)), vhd.ErrCorrupt, "", "")

	// 4: offset of the header.
	for _, off := range []uint64{
		0, 256, 511, 513, 1537, 2048, 2560, 1 << 32, 1<<63 - 512, 1 << 63, 1<<64 - 1024, 1<<64 - 512, 0xffffffff, allOnes,
	} {
		add(fmt.Sprintf("04 header at %#x", off), footerOf(u64(16, off)), vhd.ErrCorrupt, "data offset", fmt.Sprint(off))
	}
	add("04 header where there is none", footerOf(u64(16, 1024)), vhd.ErrCorrupt, "dynamic disk header: cookie", "")
	add("04 header over the footer", headerOverFooter(), vhd.ErrCorrupt, "", "")
	for _, next := range []uint64{0, 512, 1 << 63} {
		opens(fmt.Sprintf("04 header chain to %#x", next), headerOf(u64(8, next)), size(8*kib))
	}
	add("04 header's checksum", spoil(headerOf(), 512+1000, 1), vhd.ErrCorrupt, "dynamic disk header: checksum", "0x")
	add("04 header's version", headerOf(u32(24, 0x00020000)), vhd.ErrUnsupported, "header version", "0x00020000")

	// 5: blocks over metadata.
	for _, e := range []uint32{0, 1, 2, 3} {
		add(fmt.Sprint("05 block at sector ", e), hostileBlocks(map[int]uint32{1: e}), vhd.ErrCorrupt, "BAT entry 1", fmt.Sprint("sector ", e))
	}
	behind := craft{
		size: 4 * kib, headerAt: 20 * 512, tableAt: 10 * 512,
		blocks: []block{{0, 1, nil, nil}}, bat: map[int]uint32{0: 2}, end: 40 * 512,
	}
	add("05 end of a block over the table", behind.bytes(), vhd.ErrCorrupt, "BAT entry 0", "sector 2")
	behind.bat[0] = 12
	add("05 end of a block over the header", behind.bytes(), vhd.ErrCorrupt, "BAT entry 0", "sector 12")
	behind.bat[0] = 21
	add("05 start of a block in the header", behind.bytes(), vhd.ErrCorrupt, "BAT entry 0", "sector 21")

	// 6: blocks beyond the end. 0x800000 sectors are 4 GiB, which 32 bits lose.
	for _, e := range []uint32{14, 21, 22, 23, 1000, 0x800000 + 13, 0x7fffffff, 0x80000000, 0xfffffffe} {
		add(fmt.Sprintf("06 block at sector %#x", e), hostileBlocks(map[int]uint32{1: e}), vhd.ErrCorrupt, "BAT entry 1", fmt.Sprint("sector ", e))
	}
	whole := hostileBlocks(nil)
	add("06 last block cut off", whole[:len(whole)-1024], vhd.ErrCorrupt, "BAT entry 1", "sector 13")

	// 7: blocks over each other.
	for _, e := range []uint32{4, 5, 12} {
		add(fmt.Sprint("07 blocks at sectors 4 and ", e), hostileBlocks(map[int]uint32{1: e}), vhd.ErrCorrupt, "BAT entry", fmt.Sprint("sector ", e))
	}
	many := craft{size: 400 * kib, end: 2000 * 512}
	for i := range 100 {
		many.blocks = append(many.blocks, block{i, int64(4 + 9*i), nil, nil})
	}
	many.bat = map[int]uint32{7: 4 + 9*99 - 1}
	add("07 one of a hundred blocks over another", many.bytes(), vhd.ErrCorrupt, "BAT entry 7", fmt.Sprint("sector ", 4+9*99-1))

	// 8: current and original size.
	opens("08 dynamic of size 0", craft{}.bytes(), size(0))
	opens("08 dynamic of size 0 with entries", footerOf(currentSize(0)), size(0))
	add("08 dynamic beyond 2^63", footerOf(currentSize(1<<63+4096)), vhd.ErrCorrupt, "current size", fmt.Sprint(uint64(1<<63+4096)))
	add("08 dynamic of all ones", footerOf(currentSize(allOnes)), vhd.ErrCorrupt, "current size", fmt.Sprint(uint64(allOnes)))
	add("08 dynamic beyond 2040 GiB", footerOf(currentSize(2040*gib+512)), vhd.ErrCorrupt, "current size", fmt.Sprint(int64(2040*gib+512)))
	add("08 dynamic beyond its table", footerOf(currentSize(8*kib+1)), vhd.ErrCorrupt, "current size", "8193")
	opens("08 dynamic, not whole sectors", footerOf(currentSize(8*kib-1)), size(8*kib-512))
	opens("08 dynamic, less than a sector", footerOf(currentSize(511)), size(0))
	opens("08 original size of nonsense", footerOf(u64(40, allOnes)), size(8*kib))
	opens("08 original size of 0", footerOf(u64(40, 0)), size(8*kib))
	raw := pattern(4*kib, 9)
	add("08 fixed beyond 2^63", fixedImage(raw, currentSize(1<<63)), vhd.ErrCorrupt, "current size", fmt.Sprint(uint64(1<<63)))
	add("08 fixed of all ones", fixedImage(raw, currentSize(allOnes)), vhd.ErrCorrupt, "current size", fmt.Sprint(uint64(allOnes)))
	opens("08 fixed, not whole sectors", fixedImage(raw, currentSize(4*kib-1)), size(4*kib-512))

	// 9: geometry.
	opens("09 fixed, geometry of zeros", fixedImage(raw, creator("vpc "), geometry(0, 0, 0)), size(4*kib))
	opens("09 dynamic, geometry of zeros", footerOf(creator("vpc "), geometry(0, 0, 0)), size(8*kib))
	opens("09 fixed, geometry larger than the file", fixedImage(raw, creator("vpc "), geometry(65535, 255, 255)), size(4*kib))
	opens("09 dynamic, geometry larger than the table", footerOf(creator("qemu"), geometry(65535, 255, 255)), size(8*kib))

	// 10: disk type.
	add("10 fixed, larger than the file", fixedImage(raw, currentSize(4*kib+512)), vhd.ErrCorrupt, "current size", "4608")
	for _, typ := range []uint32{0, 1, 5, 6, 7, 0xffffffff} {
		add(fmt.Sprint("10 type ", typ), footerOf(u32(60, typ)), vhd.ErrCorrupt, "disk type", fmt.Sprint(typ))
		add(fmt.Sprint("10 type ", typ, " without trailing footer"), footerOf(u32(60, typ))[:2048], vhd.ErrCorrupt, "disk type", fmt.Sprint(typ))
	}
	mixed := whole[:len(whole)-512]
	opens("10 fixed by the trailing footer, dynamic by the leading", fixedImage(mixed), func(t *testing.T, img *vhd.Image) {
		sameBytes(t, "contents", readAll(t, img), mixed)
	})
	add("10 fixed by the only footer, which is leading", append(footerBytes(fixed, 4096), make([]byte, 4096)...), vhd.ErrCorrupt, "trailing footer", "none")

	// 11: lengths.
	add("11 empty", nil, vhd.ErrNotVHD, "", "")
	add("11 one byte", []byte{1}, vhd.ErrNotVHD, "", "")
	add("11 510 bytes of a footer", footerBytes(fixed, 0)[:510], vhd.ErrNotVHD, "", "")
	opens("11 511 bytes of a footer", footerBytes(fixed, 0)[:511], size(0))
	opens("11 length of 511 more than sectors", fixedImage(raw)[:4*kib+511], size(4*kib))
	opens("11 length of 100 more than sectors", append(fixedImage(raw), raw[:100]...), size(4*kib))
	add("11 only a dynamic footer", footerBytes(dynamic, 4096), vhd.ErrCorrupt, "data offset", "512")
	add("11 footer and half a header", whole[:1024], vhd.ErrCorrupt, "data offset", "512")
	add("11 footer and header", whole[:1536], vhd.ErrCorrupt, "max table entries", "2")

	// 12: checksum and version.
	cookie := append([]byte("conectix"), make([]byte, 504)...)
	add("12 cookie only", append(slices.Clone(raw), cookie...), vhd.ErrCorrupt, "checksum", "0x00000000")
	add("12 cookie only, at the start", append(slices.Clone(cookie), raw...), vhd.ErrCorrupt, "checksum", "0x00000000")
	for _, v := range []uint32{0x00020000, 0x00000001, 0xffffffff} {
		add(fmt.Sprintf("12 version %#x", v), fixedImage(raw, u32(12, v)), vhd.ErrUnsupported, "file format version", fmt.Sprintf("%#08x", v)[2:])
	}
	opens("12 minor version", fixedImage(raw, u32(12, 0x00010001)), size(4*kib))

	// 18: footers that disagree. One of them is used, as a whole.
	two := craft{size: 8 * kib, blocks: []block{{0, 30, nil, raw}}}.bytes()
	other := craft{size: 4 * kib, headerAt: 4096, tableAt: 2048, footer: []edit{u64(16, 4096)}}.bytes()
	copy(two[2048:], other[2048:2560]) // its table
	copy(two[4096:], other[4096:5120]) // its header
	copy(two, other[:512])
	opens("18 leading copy of another disk", two, func(t *testing.T, img *vhd.Image) {
		sameBytes(t, "contents", readAll(t, img), append(slices.Clone(raw), make([]byte, 4*kib)...))
	})
	opens("18 leading copy of another disk, alone", two[:len(two)-512], func(t *testing.T, img *vhd.Image) {
		sameBytes(t, "contents", readAll(t, img), make([]byte, 4*kib))
	})
	leadingTyped := slices.Clone(whole)
	copy(leadingTyped, footerBytes(differencing, 8*kib))
	opens("18 leading copy is differencing", leadingTyped, size(8*kib))

	// 19: raw data that looks like a VHD.
	add("19 last sector starts with the cookie", append(slices.Clone(raw), append([]byte("conectix"), pattern(504, 1)...)...), vhd.ErrCorrupt, "checksum", "0x")
	return hs
}

// headerOverFooter is an image whose header ends where the file ends.
func headerOverFooter() []byte {
	f := footerBytes(dynamic, 4*kib, u64(16, 1024))
	h := make([]byte, 1024)
	copy(h, "cxsparse")
	be.PutUint64(h[8:], allOnes)
	be.PutUint64(h[16:], 512)
	be.PutUint32(h[24:], 0x00010000)
	be.PutUint32(h[28:], 1)
	be.PutUint32(h[32:], 4*kib)
	copy(h[512:], f)
	sum(h, 36)
	return slices.Concat(f, bytes.Repeat([]byte{0xff}, 512), h)
}

func TestHostileImages(t *testing.T) {
	dir := t.TempDir()
	for i, c := range hostileImages() {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, fmt.Sprint(i, ".vhd"))
			writeFile(t, path, c.file)
			img, err := vhd.Open(path, nil)
			if err == nil {
				defer img.Close()
			}
			errorsFound := 0
			_, checkErr := checkImage(bytes.NewReader(c.file), int64(len(c.file)), nil, func(f vhd.Finding) {
				if f.Severity == vhd.Error {
					errorsFound++
				}
			})
			if c.err == nil {
				if err != nil || checkErr != nil {
					t.Fatalf("Open: %v, Check: %v", err, checkErr)
				}
				c.check(t, img)
				readAll(t, img)
				return
			}
			for _, sentinel := range []error{vhd.ErrNotVHD, vhd.ErrCorrupt, vhd.ErrUnsupported} {
				if errors.Is(err, sentinel) != (sentinel == c.err) {
					t.Errorf("%v; want %v", err, c.err)
				}
			}
			if err == nil {
				return
			}
			if strings.Count(err.Error(), path) != 1 {
				t.Errorf("%v: want the path in it, once", err)
			}
			if c.err == vhd.ErrNotVHD {
				if !errors.Is(checkErr, vhd.ErrNotVHD) {
					t.Errorf("Check: %v, want ErrNotVHD", checkErr)
				}
				return
			}
			if checkErr != nil || errorsFound == 0 {
				t.Errorf("Check: %v, and no error found; Open says %v", checkErr, err)
			}
			var fe *vhd.FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("%v is no FormatError", err)
			}
			if !strings.Contains(fe.Field, c.field) || !strings.Contains(fe.Got, c.got) {
				t.Errorf("field %q, found %q; want %q, %q", fe.Field, fe.Got, c.field, c.got)
			}
			if fe.Offset < 0 || fe.Offset > int64(len(c.file)) || fe.Want == "" {
				t.Errorf("offset %d, want %q", fe.Offset, fe.Want)
			}
		})
	}
}

// No image makes the package allocate memory out of proportion to its file.
func TestHostileImagesTakeLittleMemory(t *testing.T) {
	big := craft{size: 8 * kib, footer: []edit{currentSize(2040 * gib)}}
	for _, c := range append(
		hostileImages(),
		hostile{name: "2040 GiB in a small file", file: big.bytes()},
		hostile{name: "2040 GiB and the entries for it", file: headerAndFooter(2040*gib, u32(28, 2040*gib/(4*kib)))},
		hostile{name: "2040 GiB of the largest blocks", file: headerAndFooter(2040*gib, u32(28, 8160), u32(32, 256*mib))},
		hostile{name: "largest blocks", file: headerAndFooter(256*mib, u32(28, 1), u32(32, 256*mib))},
	) {
		t.Run(c.name, func(t *testing.T) {
			for _, o := range []*vhd.OpenOptions{{}, {IgnoreChecksums: true}, {SizeRule: vhd.SizeFromGeometry}} {
				used := allocated(func() {
					img, err := vhd.NewImage(bytes.NewReader(c.file), int64(len(c.file)), o)
					if err != nil && img != nil {
						t.Errorf("there is an image beside the error %v", err)
					}
					if err == nil {
						img.Close()
					}
					_, err = checkImage(bytes.NewReader(c.file), int64(len(c.file)), nil, func(vhd.Finding) {})
					if err != nil && !errors.Is(err, vhd.ErrNotVHD) {
						t.Error(err)
					}
				})
				if used > 2*mib {
					t.Errorf("%d bytes were allocated for a file of %d", used, len(c.file))
				}
			}
		})
	}
}

// headerAndFooter is an image of that size in a small file.
func headerAndFooter(size int64, es ...edit) []byte {
	return craft{size: 8 * kib, footer: []edit{currentSize(uint64(size))}, header: es}.bytes()
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// 17: the file is truncated while it is in use.
func TestHostileTruncationWhileOpen(t *testing.T) {
	dyn, _ := twoBlocks()
	fix := fixedImage(pattern(8*kib, 1))
	for name, file := range map[string][]byte{"dynamic": dyn, "fixed": fix} {
		t.Run(name, func(t *testing.T) {
			m := newMemFile(file)
			img, err := vhd.NewImage(m, m.size(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Truncate(4096); err != nil {
				t.Fatal(err)
			}
			n, err := img.ReadAt(make([]byte, 8*kib), 0)
			if n >= 8*kib || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("ReadAt: %d, %v; want ErrUnexpectedEOF", n, err)
			}
			// With a length that the file no longer has, no contents are invented.
			if _, err := vhd.NewImage(m, int64(len(file)), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("NewImage: %v, want ErrUnexpectedEOF", err)
			}
			if _, err := checkImage(m, int64(len(file)), nil, func(vhd.Finding) {}); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("Check: %v, want ErrUnexpectedEOF", err)
			}
		})
	}
	// The end is cut off after the footers were read.
	for _, c := range []struct {
		name string
		at   int64 // the read at which that happens
		left int64
	}{
		{"before the header", 512, 600},
		{"before the BAT", 1536, 1536},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemFile(dyn)
			m.reading = func(off int64, _ int) {
				if off == c.at {
					if err := m.Truncate(c.left); err != nil {
						t.Error(err)
					}
				}
			}
			if _, err := vhd.NewImage(m, m.size(), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("NewImage: %v, want ErrUnexpectedEOF", err)
			}
		})
	}
}

func TestHostileRanges(t *testing.T) {
	file, contents := twoBlocks()
	for name, b := range map[string][]byte{"dynamic": file, "fixed": fixedImage(contents)} {
		t.Run(name, func(t *testing.T) {
			m := newMemFile(b)
			img := openMem(t, m)
			p := make([]byte, 10)
			for _, off := range []int64{-1, math.MinInt64} {
				if n, err := img.ReadAt(p, off); n != 0 || err == nil || err == io.EOF {
					t.Errorf("ReadAt at %d: %d, %v; want an error", off, n, err)
				}
			}
			for _, off := range []int64{8 * kib, 8*kib + 1, math.MaxInt64} {
				if n, err := img.ReadAt(p, off); n != 0 || err != io.EOF {
					t.Errorf("ReadAt at %d: %d, %v; want EOF", off, n, err)
				}
			}
			if n, err := img.ReadAt(p, 8*kib-4); n != 4 || err != io.EOF || !bytes.Equal(p[:4], contents[8*kib-4:]) {
				t.Errorf("ReadAt over the end: %d, %v, %x; want 4 bytes and EOF", n, err, p)
			}
			if n, err := img.ReadAt(p, 8*kib-10); n != 10 || err != nil && err != io.EOF {
				t.Errorf("ReadAt up to the end: %d, %v", n, err)
			}
			for _, off := range []int64{-1, 8*kib - 9, 8 * kib, math.MaxInt64, math.MaxInt64 - 5} {
				if n, err := img.WriteAt(p, off); n != 0 || err == nil {
					t.Errorf("WriteAt at %d: %d, %v; want an error", off, n, err)
				}
				if err := img.WriteZeroes(off, 10); err == nil {
					t.Errorf("WriteZeroes at %d: no error", off)
				}
				if err := img.Reserve(off, 10); err == nil {
					t.Errorf("Reserve at %d: no error", off)
				}
			}
			if err := img.WriteZeroes(0, -1); err == nil {
				t.Error("WriteZeroes of -1 bytes: no error")
			}
			if err := img.WriteZeroes(10, math.MaxInt64); err == nil {
				t.Error("WriteZeroes of all there is: no error")
			}
			sameBytes(t, "file", m.bytes(), b)
		})
	}
}
