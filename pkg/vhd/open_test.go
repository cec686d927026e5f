package vhd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// twoBlocks is an image of two blocks of 4 KiB, the second of which has data.
func twoBlocks(es ...edit) (image, contents []byte) {
	data := pattern(4*kib, 1)
	c := craft{size: 8 * kib, blocks: []block{{entry: 1, sector: 4, data: data}}, footer: es}
	return c.bytes(), append(make([]byte, 4*kib), data...)
}

// spoil returns a copy of b with n bytes from at on overwritten.
func spoil(b []byte, at, n int) []byte {
	b = slices.Clone(b)
	copy(b[at:at+n], bytes.Repeat([]byte{0xc7}, n))
	return b
}

func TestFooterLocation(t *testing.T) {
	data := pattern(4*kib, 2)
	fix := fixedImage(data)
	dyn, contents := twoBlocks()
	end := len(dyn) - 512
	// Copies of a disk of another size show which one was used.
	other := func(b []byte, at int, es ...edit) []byte {
		b = slices.Clone(b)
		copy(b[at:], footerBytes(dynamic, 4*kib, es...))
		return b
	}
	for _, c := range []struct {
		name string
		file []byte
		typ  vhd.DiskType
		want []byte // contents; nil: not opened
		err  error
	}{
		{"fixed", fix, vhd.Fixed, data, nil},
		{"fixed, 511 bytes", fix[:len(fix)-1], vhd.Fixed, data, nil},
		{"fixed, torn tail of 1 byte", append(slices.Clone(fix), 0), vhd.Fixed, data, nil},
		{"fixed, torn tail of 510 bytes", append(slices.Clone(fix), make([]byte, 510)...), vhd.Fixed, data, nil},
		{"fixed, torn tail of 511 bytes, as long as a short footer", append(slices.Clone(fix), make([]byte, 511)...), 0, nil, vhd.ErrCorrupt},
		{"fixed, footer spoilt", spoil(fix, len(data), 512), 0, nil, vhd.ErrNotVHD},
		{"fixed, footer's checksum wrong", spoil(fix, len(data)+100, 1), 0, nil, vhd.ErrCorrupt},
		{"fixed, 510 bytes left", fix[:len(fix)-2], 0, nil, vhd.ErrCorrupt},
		{"fixed, a whole sector appended", append(slices.Clone(fix), make([]byte, 512)...), 0, nil, vhd.ErrCorrupt},
		{"dynamic", dyn, vhd.Dynamic, contents, nil},
		{"dynamic, 511 bytes", dyn[:len(dyn)-1], vhd.Dynamic, contents, nil},
		{"dynamic, 511 bytes, leading spoilt", spoil(dyn, 0, 512)[:len(dyn)-1], vhd.Dynamic, contents, nil},
		{"dynamic, torn tail, leading spoilt", append(spoil(dyn, 0, 512), 1, 2, 3), vhd.Dynamic, contents, nil},
		{"dynamic, trailing spoilt", spoil(dyn, end, 512), vhd.Dynamic, contents, nil},
		{"dynamic, trailing spoilt by one byte", spoil(dyn, end+200, 1), vhd.Dynamic, contents, nil},
		{"dynamic, trailing cut off", dyn[:end], vhd.Dynamic, contents, nil},
		{"dynamic, half of trailing cut off", dyn[:end+100], vhd.Dynamic, contents, nil},
		{"dynamic, leading spoilt", spoil(dyn, 0, 512), vhd.Dynamic, contents, nil},
		{"dynamic, both spoilt", spoil(spoil(dyn, 0, 512), end, 512), 0, nil, vhd.ErrFootersLost},
		{"dynamic, both with a wrong checksum", spoil(spoil(dyn, 64, 4), end+64, 4), 0, nil, vhd.ErrCorrupt},
		{"dynamic, leading of another size", other(dyn, 0), vhd.Dynamic, contents, nil},
		{"dynamic, trailing of another size", other(dyn, end), vhd.Dynamic, contents[:4*kib], nil},
		{"dynamic, trailing of another size, and spoilt", spoil(other(dyn, end), end+64, 4), vhd.Dynamic, contents, nil},
		{"dynamic, leading is of a fixed disk", other(dyn, 0, u32(60, fixed)), vhd.Dynamic, contents, nil},
		{"dynamic, only a leading copy, of a fixed disk", other(dyn[:end], 0, u32(60, fixed)), 0, nil, vhd.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			img, err := vhd.NewImage(bytes.NewReader(c.file), int64(len(c.file)), nil)
			if c.want == nil {
				if !errors.Is(err, c.err) {
					t.Fatalf("error %v, want %v", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if img.Type() != c.typ {
				t.Errorf("a %v disk, want %v", img.Type(), c.typ)
			}
			sameBytes(t, "contents", readAll(t, img), c.want)
		})
	}
}

// Bytes after the first footer are not read as part of the disk.
func TestFixedDiskThatStartsWithAVHD(t *testing.T) {
	inner, _ := twoBlocks()
	img := openBytes(t, fixedImage(inner), nil)
	if img.Type() != vhd.Fixed {
		t.Errorf("a %v disk, want fixed", img.Type())
	}
	sameBytes(t, "contents", readAll(t, img), inner)
}

func TestProbe(t *testing.T) {
	fix := fixedImage(pattern(4*kib, 1))
	dyn, _ := twoBlocks()
	for _, c := range []struct {
		name  string
		file  []byte
		is    bool
		other bool // another format
	}{
		{"fixed", fix, true, false},
		{"fixed, 511 bytes", fix[:len(fix)-1], true, false},
		{"fixed of size 0", fixedImage(nil), true, false},
		{"dynamic", dyn, true, false},
		{"dynamic without trailing footer", dyn[:len(dyn)-512], true, false},
		{"differencing", craft{size: 4 * kib, footer: []edit{u32(60, differencing)}}.bytes(), true, false},
		{"empty", nil, false, true},
		{"zeros", make([]byte, 4096), false, true},
		{"raw that ends with the cookie", append(make([]byte, 4096), append([]byte("conectix"), make([]byte, 504)...)...), false, true},
		{"fixed with a wrong checksum", spoil(fix, len(fix)-1, 1), false, true},
		{"dynamic with two wrong checksums", spoil(spoil(dyn, 100, 1), len(dyn)-1, 1), false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := vhd.Probe(bytes.NewReader(c.file), int64(len(c.file)))
			if (err == nil) != c.is || errors.Is(err, disk.ErrNotThisFormat) != c.other {
				t.Errorf("Probe = %v; want a VHD: %t, another format: %t", err, c.is, c.other)
			}
		})
	}
}

// Only the footers have a fixed offset.
func TestLayouts(t *testing.T) {
	a, b, c := pattern(4*kib, 1), pattern(4*kib, 2), pattern(4*kib, 3)
	contents := slices.Concat(a, b, c)
	for _, l := range []struct {
		name  string
		craft craft
	}{
		{"usual", craft{blocks: []block{{0, 4, nil, a}, {1, 13, nil, b}, {2, 22, nil, c}}}},
		{"gaps between everything", craft{
			headerAt: 2048, tableAt: 8192,
			blocks: []block{{0, 40, nil, a}, {1, 60, nil, b}, {2, 80, nil, c}}, end: 60000 / 512 * 512,
		}},
		{"table before the header", craft{
			headerAt: 1024, tableAt: 512,
			blocks: []block{{0, 4, nil, a}, {1, 13, nil, b}, {2, 22, nil, c}},
		}},
		{"table after the blocks", craft{
			tableAt: 3 * 4608 * 2,
			blocks:  []block{{0, 3, nil, a}, {1, 12, nil, b}, {2, 21, nil, c}},
		}},
		{"header after the blocks", craft{
			headerAt: 40 * 512, tableAt: 512,
			blocks: []block{{0, 2, nil, a}, {1, 11, nil, b}, {2, 20, nil, c}},
		}},
		{"blocks in reverse order", craft{blocks: []block{{0, 22, nil, a}, {1, 13, nil, b}, {2, 4, nil, c}}}},
		{"metadata between blocks", craft{
			headerAt: 20 * 512, tableAt: 11 * 512,
			blocks: []block{{0, 30, nil, a}, {1, 1, nil, b}, {2, 22 + 30, nil, c}},
		}},
		{"spare entries, not unused", craft{
			entries: 200, bat: map[int]uint32{3: 0, 199: 12345},
			blocks: []block{{0, 5, nil, a}, {1, 14, nil, b}, {2, 23, nil, c}},
		}},
		{"table padded with zeros", craft{
			entries: 128, bat: map[int]uint32{127: 0},
			blocks: []block{{0, 4, nil, a}, {1, 13, nil, b}, {2, 22, nil, c}},
		}},
	} {
		t.Run(l.name, func(t *testing.T) {
			l.craft.size = 12 * kib
			file := l.craft.bytes()
			sameBytes(t, "contents", readAll(t, openBytes(t, file, nil)), contents)
			noErrors(t, file)
			// Writing in place respects the layout, too.
			m := newMemFile(file)
			img := openMem(t, m)
			write(t, img, b, 0)
			syncImage(t, img)
			sameBytes(t, "contents after a write", readAll(t, openBytes(t, m.bytes(), nil)), slices.Concat(b, b, c))
		})
	}
}

// New blocks never overlap other structures, whatever the layout.
func TestAllocationRespectsLayout(t *testing.T) {
	a, b := pattern(4*kib, 1), pattern(4*kib, 2)
	for _, l := range []struct {
		name   string
		craft  craft
		batmap bool // XenServer's, known only to its readers
	}{
		{"table after the block", craft{tableAt: 40 * 512, blocks: []block{{0, 3, nil, a}}}, false},
		{"space before the footer", craft{blocks: []block{{0, 4, nil, a}}, end: 100 * 512}, false},
		{"gap after the table", craft{blocks: []block{{0, 50, nil, a}}}, false},
		{"batmap after the table", craft{
			footer: []edit{creator("tap\x00"), u32(32, 0x00010003)}, blocks: []block{{0, 50, nil, a}},
		}, true},
	} {
		t.Run(l.name, func(t *testing.T) {
			l.craft.size = 12 * kib
			file := l.craft.bytes()
			if l.batmap {
				copy(file[4*512:], "tdbatmap")
			}
			m := newMemFile(file)
			img := openMem(t, m)
			write(t, img, b, 8*kib)
			syncImage(t, img)
			after := m.bytes()
			want := slices.Concat(a, make([]byte, 4*kib), b)
			sameBytes(t, "contents", readAll(t, openBytes(t, after, nil)), want)
			noErrors(t, after)
			// Of the old bytes, only the entry and the old footer have changed.
			table := be.Uint64(file[512+16:])
			copy(file[table+8:], after[table+8:table+12])
			old := len(file) - 512
			sameBytes(t, "the file in front of the old footer", after[:old], file[:old])
			sameBytes(t, "the new footer", after[len(after)-512:], file[:512])
		})
	}
}

// A device keeps its length and has its footer in the last sector. New blocks follow everything
// in use, and overwrite nothing.
func TestAllocationOnDevice(t *testing.T) {
	a, b := pattern(4*kib, 1), pattern(4*kib, 2)
	for _, l := range []struct {
		name   string
		craft  craft
		batmap bool
	}{
		{"no blocks", craft{}, false},
		{"a block", craft{blocks: []block{{0, 4, nil, a}}}, false},
		{"a batmap after the table", craft{tableAt: 6 * 512, footer: []edit{creator("tap\x00"), u32(32, 0x00010003)}}, true},
	} {
		t.Run(l.name, func(t *testing.T) {
			l.craft.size, l.craft.end = 12*kib, 99*512
			file := l.craft.bytes()
			want := make([]byte, 12*kib)
			if len(l.craft.blocks) > 0 {
				copy(want, a)
			}
			if l.batmap {
				copy(file[7*512:], "tdbatmap")
				be.PutUint64(file[7*512+8:], 8*512) // the map is in the next sector
				be.PutUint32(file[7*512+16:], 1)
				be.PutUint32(file[7*512+20:], 0x00010002)
				be.PutUint32(file[7*512+24:], 0xffffffff)
			}
			m := newMemFile(file)
			m.mode = fs.ModeDevice
			img := openMem(t, m)
			write(t, img, b, 8*kib)
			syncImage(t, img)
			copy(want[8*kib:], b)
			after := m.bytes()
			sameBytes(t, "contents", readAll(t, openBytes(t, after, nil)), want)
			noErrors(t, after)
			sameBytes(t, "footer", after[99*512:], file[99*512:])
			if l.batmap {
				sameBytes(t, "batmap", after[7*512:9*512], file[7*512:9*512])
			}
			if err := img.Reserve(0, 12*kib); err != nil {
				t.Fatal(err)
			}
			syncImage(t, img)
			sameBytes(t, "contents with all blocks", readAll(t, openBytes(t, m.bytes(), nil)), want)
		})
	}
	// A full device is an error, and the image stays as it is.
	c := craft{size: 12 * kib, blocks: []block{{0, 4, nil, a}}, end: 20 * 512}
	m := newMemFile(c.bytes())
	m.mode = fs.ModeDevice
	img := openMem(t, m)
	if n, err := img.WriteAt(b, 8*kib); n != 0 || err == nil {
		t.Errorf("a write to a full device: %d, %v; want an error", n, err)
	}
	syncImage(t, img)
	sameBytes(t, "full device", m.bytes(), c.bytes())
}

func TestSizeRules(t *testing.T) {
	const (
		auto = vhd.SizeAuto
		geo  = vhd.SizeFromGeometry
		cur  = vhd.SizeFromCurrent
	)
	small, large := geometry(2, 4, 17), geometry(3, 4, 17) // 136 and 204 sectors
	const space = 160 * sector                             // the space of the file and of the table
	type result struct {
		size int64 // sectors
		by   vhd.SizeRule
	}
	type test struct {
		name  string
		edits []edit
		rule  vhd.SizeRule
		want  result // for a fixed and for a dynamic disk
	}
	row := func(name string, es []edit, rule vhd.SizeRule, n int64, by vhd.SizeRule) test {
		return test{name, es, rule, result{n, by}}
	}
	var tests []test
	for _, c := range []struct {
		creator string
		byCHS   bool
	}{
		{"vpc ", true},
		{"qemu", true},
		{"vs  ", false},
		{"win ", false},
		{"d2v\x00", false},
		{"d2v ", false},
		{"qem2", false},
		{"tap\x00", false},
		{"tap ", false},
		{"CTXS", false},
		{"vbox", false},
		{"wa\x00\x00", false},
		{"dutl", false},
		{"*img", false},
		{"xo  ", false},
		{"pcem", false},
		{"VARC", false},
		{"\x00\x00\x00\x00", false},
		{"VPC ", false},
	} {
		name := fmt.Sprintf("%q", c.creator)
		n, by := int64(160), cur
		if c.creator == "vpc " { // the specification's geometry of 160 sectors
			n, by = 136, geo
		}
		rounded, larger := int64(120), cur
		if c.byCHS {
			rounded, larger = 136, geo
		}
		tests = append(
			tests,
			row(name+", smaller geometry", []edit{creator(c.creator), small}, auto, n, by),
			row(name+", smaller geometry that nobody rounds to", []edit{creator(c.creator), geometry(1, 4, 17)}, auto, 160, cur),
			row(name+", geometry as large as the current size", []edit{creator(c.creator), small, currentSize(136 * sector)}, auto, 136, larger),
			row(name+", geometry larger than the current size", []edit{creator(c.creator), small, currentSize(120 * sector)}, auto, rounded, larger),
			row(name+", smaller geometry, by geometry", []edit{creator(c.creator), small}, geo, 136, geo),
			row(name+", smaller geometry, by current size", []edit{creator(c.creator), small}, cur, 160, cur),
			row(name+", largest geometry", []edit{creator(c.creator)}, auto, 160, cur),
			row(name+", largest geometry, by geometry", []edit{creator(c.creator)}, geo, 160, cur),
			row(name+", geometry of zeros", []edit{creator(c.creator), geometry(0, 0, 0)}, auto, 160, cur),
			row(name+", geometry of zeros, by geometry", []edit{creator(c.creator), geometry(0, 0, 0)}, geo, 160, cur),
			row(name+", geometry without heads", []edit{creator(c.creator), geometry(2, 0, 17)}, auto, 160, cur),
			// qemu of 2012 rounded the geometry of a fixed disk up, but not its file, and gave
			// dynamic ones a table to match. The size of the file or the table is the limit.
			row(name+", larger geometry than there is space, by geometry", []edit{creator(c.creator), large}, geo, 160, geo),
		)
	}
	tests = append(
		tests,
		row("qemu, larger geometry than there is space", []edit{creator("qemu"), large}, auto, 160, geo),
		row("vpc, larger geometry than there is space", []edit{creator("vpc "), large}, auto, 160, geo),
		row("win, larger geometry than there is space", []edit{large}, auto, 160, cur),
		row("original size is not asked", []edit{u64(40, 1), small}, auto, 160, cur),
		row("current size smaller than the space", []edit{currentSize(space / 2), small}, auto, 80, cur),
		row("current size is not whole sectors", []edit{currentSize(space/2 + 511), small}, auto, 80, cur),
	)
	check := func(t *testing.T, file []byte, rule vhd.SizeRule, want result) {
		t.Helper()
		img := openBytes(t, file, &vhd.OpenOptions{SizeRule: rule})
		if img.Size() != want.size*sector || img.SizedBy() != want.by {
			t.Errorf("%v disk: %d sectors by %v, want %d by %v", img.Type(), img.Size()/sector, img.SizedBy(), want.size, want.by)
		}
		n, err := checkImage(bytes.NewReader(file), int64(len(file)), &vhd.CheckOptions{SizeRule: rule}, func(vhd.Finding) {})
		if err != nil || n.Size != want.size*sector {
			t.Errorf("%v disk: Check sees %d sectors, %v; want %d", img.Type(), n.Size/sector, err, want.size)
		}
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			check(t, fixedImage(make([]byte, space), c.edits...), c.rule, c.want)
			check(t, craft{size: space, footer: c.edits}.bytes(), c.rule, c.want)
		})
	}
	// A spare entry gives space for the size of the geometry.
	spare := craft{size: space, entries: 26, footer: []edit{creator("qemu"), large}}
	check(t, spare.bytes(), auto, result{204, geo})
	check(t, spare.bytes(), cur, result{160, cur})

	// A current size beyond the space means that data is missing. It is accepted only if the
	// caller asks for the geometry.
	beyond := []edit{currentSize(2 * space), small}
	for name, file := range map[string][]byte{
		"fixed":   fixedImage(make([]byte, space), beyond...),
		"dynamic": craft{size: space, footer: beyond}.bytes(),
	} {
		for _, rule := range []vhd.SizeRule{auto, cur} {
			if _, err := vhd.NewImage(bytes.NewReader(file), int64(len(file)), &vhd.OpenOptions{SizeRule: rule}); !errors.Is(err, vhd.ErrCorrupt) {
				t.Errorf("%s disk with a current size beyond its space, rule %v: %v, want ErrCorrupt", name, rule, err)
			}
		}
		img := openBytes(t, file, &vhd.OpenOptions{SizeRule: geo})
		if img.Size() != 136*sector {
			t.Errorf("%s disk by geometry: %d sectors, want 136", name, img.Size()/sector)
		}
	}
}

// In a fixed image of qemu of 2012 the file has the requested size, and the geometry is rounded
// up. A guest that writes to the last sector must not overwrite the footer.
func TestFixedDiskIsCutToItsFile(t *testing.T) {
	data := pattern(2048*sector, 3)
	m := newMemFile(fixedImage(data, creator("qemu"), geometry(31, 4, 17))) // 2108 sectors
	img := openMem(t, m)
	if img.Size() != 2048*sector {
		t.Fatalf("size %d, want %d", img.Size(), 2048*sector)
	}
	sameBytes(t, "contents", readAll(t, img), data)
	if n, err := img.WriteAt(make([]byte, sector), 2048*sector); n != 0 || err == nil {
		t.Errorf("a write over the footer: %d, %v", n, err)
	}
	sameBytes(t, "footer", m.bytes()[2048*sector:], footerBytes(fixed, 2048*sector, creator("qemu"), geometry(31, 4, 17)))
}

func TestFixedDiskOfSizeZero(t *testing.T) {
	name := filepath.Join(t.TempDir(), "zero.vhd")
	img, err := vhd.Create(name, &vhd.CreateOptions{Type: vhd.Fixed})
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(name); err != nil || len(b) != 512 {
		t.Fatalf("the file has %d bytes, %v; want 512", len(b), err)
	}
	img, err = vhd.Open(name, &vhd.OpenOptions{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if n, err := img.ReadAt(make([]byte, 1), 0); img.Size() != 0 || n != 0 || err != io.EOF {
		t.Errorf("size %d, read: %d, %v; want 0, 0, EOF", img.Size(), n, err)
	}
	if n, err := img.WriteAt([]byte{1}, 0); n != 0 || err == nil {
		t.Errorf("write: %d, %v; want an error", n, err)
	}
}

func TestMissingParentIsRefused(t *testing.T) {
	file := craft{size: 8 * kib, footer: []edit{u32(60, differencing)}, blocks: []block{{entry: 1, sector: 4}}}.bytes()
	for _, o := range []*vhd.OpenOptions{nil, {Write: true}, {IgnoreChecksums: true}, {Force: true}} {
		if _, err := vhd.NewImage(newMemFile(file), int64(len(file)), o); !errors.Is(err, vhd.ErrParentNotFound) || errors.Is(err, vhd.ErrCorrupt) {
			t.Errorf("with %+v: %v, want ErrParentNotFound", o, err)
		}
	}
	// A leading copy is not enough to recognise a dynamic image either.
	if _, err := vhd.NewImage(bytes.NewReader(file), int64(len(file)-512), nil); !errors.Is(err, vhd.ErrParentNotFound) {
		t.Errorf("without trailing footer: %v, want ErrParentNotFound", err)
	}
}

func TestSavedState(t *testing.T) {
	dyn, contents := twoBlocks(u8(84, 1))
	fixedData := pattern(4*kib, 1)
	for _, c := range []struct {
		name     string
		file     []byte
		contents []byte
	}{
		{"fixed", fixedImage(fixedData, u8(84, 1)), fixedData},
		{"dynamic", dyn, contents},
	} {
		t.Run(c.name, func(t *testing.T) {
			sameBytes(t, "contents", readAll(t, openBytes(t, c.file, nil)), c.contents)
			m := newMemFile(c.file)
			if _, err := vhd.NewImage(m, m.size(), &vhd.OpenOptions{Write: true}); !errors.Is(err, vhd.ErrSavedState) {
				t.Fatalf("opened for writing: %v, want ErrSavedState", err)
			}
			img, err := vhd.NewImage(m, m.size(), &vhd.OpenOptions{Write: true, Force: true})
			if err != nil {
				t.Fatal(err)
			}
			write(t, img, []byte("new"), 0)
			syncImage(t, img)
			copy(c.contents, "new")
			sameBytes(t, "contents after a forced write", readAll(t, openBytes(t, m.bytes(), nil)), c.contents)
		})
	}
}

func TestIgnoreChecksums(t *testing.T) {
	data := pattern(4*kib, 2)
	fix := fixedImage(data)
	dyn, contents := twoBlocks()
	end := len(dyn) - 512
	for _, c := range []struct {
		name string
		file []byte
		want []byte // nil: still refused
	}{
		{"fixed, checksum wrong", spoil(fix, len(data)+64, 4), data},
		{"fixed, reserved byte changed", spoil(fix, len(data)+300, 1), data},
		{"fixed, type changed", spoil(fix, len(data)+60, 4), nil},
		{"fixed, version changed", spoil(fix, len(data)+12, 4), nil},
		{"fixed, cookie changed", spoil(fix, len(data), 8), nil},
		{"dynamic, both footers", spoil(spoil(dyn, 64, 4), end+64, 4), contents},
		{"dynamic, header", spoil(dyn, 512+36, 4), contents},
		{"dynamic, all three", spoil(spoil(spoil(dyn, 512+36, 4), 64, 4), end+64, 4), contents},
		{"dynamic, only a leading copy", spoil(dyn, 64, 4)[:end], contents},
		{"dynamic, header's block size", spoil(dyn, 512+32, 4), nil},
		{"dynamic, header's cookie", spoil(dyn, 512, 4), nil},
		{"dynamic, BAT", spoil(dyn, 1536, 4), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			size := int64(len(c.file))
			if _, err := vhd.NewImage(bytes.NewReader(c.file), size, nil); err == nil {
				t.Error("opened without IgnoreChecksums")
			}
			img, err := vhd.NewImage(bytes.NewReader(c.file), size, &vhd.OpenOptions{IgnoreChecksums: true})
			if c.want == nil {
				if err == nil {
					t.Error("opened, although more than the checksum is wrong")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			sameBytes(t, "contents", readAll(t, img), c.want)
		})
	}
	// A valid copy is preferred to a footer with a wrong checksum.
	stale := spoil(dyn, end+64, 4)
	be.PutUint64(stale[end+48:], 4*kib)
	img := openBytes(t, stale, &vhd.OpenOptions{IgnoreChecksums: true})
	sameBytes(t, "contents", readAll(t, img), contents)
}

func TestOpenErrorsNameTheFile(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		file []byte
		want error
	}{
		{"raw.vhd", make([]byte, 4096), vhd.ErrNotVHD},
		{"damaged.vhd", spoil(fixedImage(make([]byte, 4096)), 4096+64, 4), vhd.ErrCorrupt},
		{"child.vhd", craft{size: 4096, footer: []edit{u32(60, differencing)}}.bytes(), vhd.ErrParentNotFound},
		{"missing.vhd", nil, os.ErrNotExist},
	} {
		path := filepath.Join(dir, c.name)
		if c.file != nil {
			writeFile(t, path, c.file)
		}
		_, err := vhd.Open(path, nil)
		if !errors.Is(err, c.want) || bytes.Count([]byte(fmt.Sprint(err)), []byte(path)) != 1 {
			t.Errorf("Open: %v; want %v, and the path once", err, c.want)
		}
	}
	if _, err := vhd.Open(dir, nil); err == nil || !bytes.Contains([]byte(err.Error()), []byte(dir)) {
		t.Errorf("Open of a directory: %v, want an error that names it", err)
	}
	if _, err := vhd.Create(filepath.Join(dir, "no", "dir.vhd"), &vhd.CreateOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Create in a directory that is not there: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	file, contents := twoBlocks()
	img := openBytes(t, file, nil)
	if _, err := img.WriteAt([]byte{1}, 0); !errors.Is(err, vhd.ErrReadOnly) {
		t.Errorf("WriteAt: %v, want ErrReadOnly", err)
	}
	if err := img.WriteZeroes(4096, 1); !errors.Is(err, vhd.ErrReadOnly) {
		t.Errorf("WriteZeroes: %v, want ErrReadOnly", err)
	}
	if err := img.Reserve(0, 1); !errors.Is(err, vhd.ErrReadOnly) {
		t.Errorf("Reserve: %v, want ErrReadOnly", err)
	}
	if err := img.Sync(); err != nil {
		t.Errorf("Sync: %v", err)
	}
	sameBytes(t, "contents", readAll(t, img), contents)
	if _, err := vhd.NewImage(bytes.NewReader(file), int64(len(file)), &vhd.OpenOptions{Write: true}); err == nil {
		t.Error("a source that cannot be written was opened for writing")
	}
}
