package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// newBatmap is what the batmap of the image in b, which follows its BAT, says: a bit for
// each block.
func newBatmap(t tb, b []byte, blocks int64) []bool {
	t.Helper()
	at := int64(be.Uint64(b[512+16:])) + (blocks*4+511)/512*512
	if string(b[at:at+8]) != "tdbatmap" {
		t.Fatalf("no batmap follows the BAT, at offset %d", at)
	}
	if v := be.Uint32(b[at+20:]); v != 0x00010002 {
		t.Errorf("batmap version %#x, want 1.2", v)
	}
	if v := be.Uint32(b[32:]); v != 0x00010003 {
		t.Errorf("creator version %#x, want 1.3", v)
	}
	start, n := int64(be.Uint64(b[at+8:])), int64(be.Uint32(b[at+16:]))*512
	if start != at+512 || n < 512 || n < (blocks+7)/8 {
		t.Errorf("map of %d bytes at %d, behind a header at %d", n, start, at)
	}
	bits := make([]bool, blocks)
	for i := range bits {
		bits[i] = b[start+int64(i)/8]&(0x80>>(i%8)) != 0
	}
	return bits
}

// A new image of XenServer has a batmap, which has the bits of the blocks that are
// written whole, and WriteStream writes the same bytes.
func TestNewBatmap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		blocks := rapid.Int64Range(1, 20).Draw(t, "blocks")
		o := vhd.CreateOptions{
			Size: blocks * 2 * mib, Exact: true, Creator: vhd.CreatorXenServer, UniqueID: [16]byte{1}, Time: vhd.Timestamp(1).Time(),
			DataAlign: rapid.SampledFrom([]int64{0, 512, 4096}).Draw(t, "data align"),
			FileAlign: rapid.SampledFrom([]int64{0, 512, 4096}).Draw(t, "file align"),
		}
		m := newMemFile(nil)
		img, err := vhd.CreateIn(m, &o)
		must(t, err)
		var used []int64
		for i := range blocks {
			if rapid.Bool().Draw(t, "used") {
				used = append(used, i)
				write(t, img, pattern(512, byte(i)), i*2*mib+rapid.Int64Range(0, 4095).Draw(t, "sector")*512)
			}
		}
		want := readAll(t, img)
		must(t, img.Close())
		b := m.bytes()
		set := newBatmap(t, b, blocks)
		for i, on := range set {
			if allocated := be.Uint32(b[1536+4*i:]) != unused; on != allocated {
				t.Errorf("block %d: bit %t, allocated %t", i, on, allocated)
			}
		}
		noErrors(t, b)
		if fs, _ := findings(t, b); len(fs) > 0 {
			t.Errorf("findings %v", fs)
		}
		sameBytes(t, "contents", readAll(t, openBytes(t, b, nil)), want)
		var stream bytes.Buffer
		must(t, vhd.WriteStream(context.Background(), &stream, &o, bytes.NewReader(want), used, nil))
		sameBytes(t, "stream", stream.Bytes(), b)
		if n, err := o.FileLength(int64(len(used))); n != int64(len(b)) || err != nil {
			t.Errorf("FileLength %d, %v; the file has %d bytes", n, err, len(b))
		}
	})
}

// In a differencing image a bit is set for a block of which all sectors are written,
// and the locators follow the map.
func TestNewBatmapOfChild(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.vhd")
	p, err := vhd.Create(base, &vhd.CreateOptions{Size: 6 * mib, Exact: true, Creator: vhd.CreatorXenServer})
	must(t, err)
	must(t, p.Close())
	parent, err := vhd.Open(base, nil)
	must(t, err)
	o := vhd.CreateOptions{Parent: parent}
	o.ParentRecord, err = vhd.ParentRecordOf(filepath.Join(dir, "child.vhd"), base, parent, vhd.PathsXen)
	must(t, err)
	m := newMemFile(nil)
	img, err := vhd.CreateIn(m, &o)
	must(t, err)
	write(t, img, pattern(2*mib, 1), 0)
	write(t, img, pattern(2*mib-512, 2), 2*mib)
	must(t, img.Close())
	b := m.bytes()
	if got := newBatmap(t, b, 3); !got[0] || got[1] || got[2] {
		t.Errorf("bits %t, want the first only", got)
	}
	child := openBytes(t, b, &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
	if got := child.ParentRecord().Locators; len(got) != 3 || !child.MetadataFirst() {
		t.Errorf("locators %q; all metadata before the blocks: %t", got, child.MetadataFirst())
	}
	noErrors(t, b)
}

// An image without blocks of 2 MiB, which XenServer's tools do not know, has no
// batmap, nor does a fixed one; the version says so.
func TestNoNewBatmap(t *testing.T) {
	for _, o := range []vhd.CreateOptions{{BlockSize: 512 * kib}, {Type: vhd.Fixed}} {
		o.Size, o.Creator = 4*mib, vhd.CreatorXenServer
		b := create(t, &o).bytes()
		if v := be.Uint32(b[len(b)-512+32:]); v != 0x00010001 || bytes.Contains(b, []byte("tdbatmap")) {
			t.Errorf("%+v: version %#x, want 1.1 and no batmap", o, v)
		}
	}
}

// The BAT of a new image whose size becomes known late is in front of the blocks,
// however large.
func TestGrowingImageHasBATFirst(t *testing.T) {
	const blockSize = 4 * kib
	for _, o := range []vhd.CreateOptions{{BlockSize: blockSize}, {BlockSize: blockSize, DataAlign: 512}, {Creator: vhd.CreatorXenServer}} {
		for _, blocks := range []int64{40, 2000, 70_000, 200_000} {
			t.Run(fmt.Sprintf("%v blocks of %v, %d", blocks, o.BlockSize, o.DataAlign), func(t *testing.T) {
				o := o
				o.Growing, o.Exact = true, true
				m := newMemFile(nil)
				img, err := vhd.CreateIn(m, &o)
				must(t, err)
				size := int64(max(o.BlockSize, 2*mib/512))
				if o.BlockSize == 0 {
					size = 2 * mib
				}
				data := pattern(int(20*size), 3)
				must(t, img.Resize(context.Background(), int64(len(data)), nil))
				write(t, img, data, 0)
				must(t, img.Resize(context.Background(), blocks*size, nil))
				must(t, img.Close())
				b := m.bytes()
				got := openBytes(t, b, nil)
				if !got.MetadataFirst() || got.Header().TableOffset != 1536 {
					t.Errorf("the BAT is at %d; all metadata before the blocks: %t", got.Header().TableOffset, got.MetadataFirst())
				}
				if o.DataAlign == 512 && !got.Packed() {
					t.Error("the file is not packed")
				}
				head := make([]byte, len(data))
				must(t, second(got.ReadAt(head, 0)))
				sameBytes(t, "contents", head, data)
				noErrors(t, b)
			})
		}
	}
}

// The creator decides whether there is a batmap: one that another program has not kept
// right is not believed again.
func TestSetCreatorDropsBatmap(t *testing.T) {
	m := create(t, &vhd.CreateOptions{Size: 8 * mib, Exact: true, Creator: vhd.CreatorXenServer})
	set := func(c vhd.Creator) vhd.Footer {
		img := openMem(t, m)
		f := img.Footer()
		_, batmap := img.Marker()
		must(t, f.SetCreator(c, batmap))
		must(t, img.SetFooter(f))
		must(t, img.Close())
		return openBytes(t, m.bytes(), nil).Footer()
	}
	if f := set(vhd.CreatorXenServer); f.CreatorVersion != 0x00010003 || f.CreatorHostOS != [4]byte{} {
		t.Errorf("tap, with a batmap: version %#x, host OS %q", f.CreatorVersion, f.CreatorHostOS)
	}
	if f := set(vhd.CreatorWindows); f.CreatorVersion != 0x000a0000 || string(f.CreatorHostOS[:]) != "Wi2k" || bytes.Contains(m.bytes(), []byte("tdbatmap")) {
		t.Errorf("win: version %#x, host OS %q; no batmap is to be left", f.CreatorVersion, f.CreatorHostOS)
	}
	if f := set(vhd.CreatorXenServer); f.CreatorVersion != 0x00010001 || f.CreatorHostOS != [4]byte{} {
		t.Errorf("tap, without a batmap: version %#x, host OS %q", f.CreatorVersion, f.CreatorHostOS)
	}
	// A map that another program left where it was.
	b := m.bytes()
	copy(b[28:], "win ")
	copy(b[2048:], "tdbatmap")
	sum(b[:512], 64)
	copy(b[len(b)-512:], b[:512])
	m = newMemFile(b)
	if len(b) < 2048+1024 {
		m = newMemFile(append(append(b[:2048:2048], append([]byte("tdbatmap"), make([]byte, 1016)...)...), b[:512]...))
	}
	if set(vhd.CreatorXenServer); bytes.Contains(m.bytes(), []byte("tdbatmap")) {
		t.Error("a batmap of old is believed again")
	}
}

// The pieces of a split image are refused by name, whatever is asked for.
func TestSplitImage(t *testing.T) {
	whole := craft{size: 64 * kib, blocks: []block{{0, 4, nil, pattern(4*kib, 1)}}}.bytes()
	for name, c := range map[string]struct {
		files   map[string][]byte
		refused bool
	}{
		"x.vhd":   {map[string][]byte{"x.vhd": whole[:4096], "x.v01": whole[4096:]}, true},
		"x.v01":   {map[string][]byte{"x.vhd": whole[:4096], "x.v01": whole[4096:]}, true},
		"X.VHD":   {map[string][]byte{"X.VHD": whole[:4096], "X.V01": whole[4096:]}, true},
		"raw.vhd": {map[string][]byte{"raw.vhd": pattern(8*kib, 1), "raw.v01": pattern(512, 1)}, true},
		"w.vhd":   {map[string][]byte{"w.vhd": whole, "w.v01": pattern(512, 1)}, false},
		"y.vhd":   {map[string][]byte{"y.vhd": whole}, false},
		"y.v01":   {map[string][]byte{"y.v01": whole}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tree(t, dir, c.files)
			path := filepath.Join(dir, name)
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			size := int64(len(c.files[name]))
			_, opened := vhd.NewImage(f, size, nil)
			probed := vhd.Probe(f, size)
			_, checked := checkImage(f, size, nil, func(vhd.Finding) {})
			_, repaired := vhd.Repair(context.Background(), f, size, &vhd.RepairOptions{All: true})
			for what, err := range map[string]error{"open": opened, "probe": probed, "check": checked, "repair": repaired} {
				refused := errors.Is(err, vhd.ErrUnsupported) && strings.Contains(err.Error(), "split")
				if refused != c.refused || !refused && err != nil {
					t.Errorf("%s: %v, want a refusal: %t", what, err, c.refused)
				}
				if errors.Is(err, disk.ErrNotThisFormat) {
					t.Errorf("%s: %v, and another format takes it", what, err)
				}
			}
			left, err := os.ReadFile(path)
			must(t, err)
			sameBytes(t, "the file", left, c.files[name])
		})
	}
}

// Another parent of a XenServer image is recorded before its first block, which moves if
// it is in the way.
func TestRebasedXenImageHasMetadataFirst(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"base.vhd", "a rather long name, for which the text of the locator needs more space.vhd"} {
		p, err := vhd.Create(filepath.Join(dir, name), &vhd.CreateOptions{Size: 40 * 1024 * mib, Exact: true, Creator: vhd.CreatorXenServer, UniqueID: [16]byte{byte(len(name))}})
		must(t, err)
		must(t, p.Close())
		parent, err := vhd.Open(filepath.Join(dir, name), nil)
		must(t, err)
		child := filepath.Join(dir, "child.vhd")
		record, err := vhd.ParentRecordOf(child, filepath.Join(dir, name), parent, vhd.PathsXen)
		must(t, err)
		if name == "base.vhd" {
			img, err := vhd.Create(child, &vhd.CreateOptions{Parent: parent, ParentRecord: record})
			must(t, err)
			write(t, img, pattern(2*mib, 5), 0)
			must(t, img.Close())
			continue
		}
		img, err := vhd.Open(child, &vhd.OpenOptions{Write: true})
		must(t, err)
		for range 5 { // each time the old locators become a gap
			must(t, img.SetParent(nil, record))
			if !img.MetadataFirst() {
				t.Errorf("a locator is behind a block")
			}
		}
		must(t, img.SetParent(parent, record))
		must(t, img.Close())
		img, err = vhd.Open(child, nil)
		must(t, err)
		got := make([]byte, 2*mib)
		must(t, second(img.ReadAt(got, 0)))
		sameBytes(t, "contents", got, pattern(2*mib, 5))
		if !img.MetadataFirst() {
			t.Errorf("a locator is behind a block")
		}
		must(t, img.Close())
	}
}

func TestPacked(t *testing.T) {
	at := func(starts ...int64) []byte {
		c := craft{size: 32 * kib}
		for i, s := range starts {
			c.blocks = append(c.blocks, block{i, s, nil, pattern(4*kib, byte(i))})
		}
		return c.bytes()
	}
	for name, c := range map[string]struct {
		file []byte
		want bool
	}{
		"no block":       {at(), true},
		"one block":      {at(7), true},
		"in order":       {at(4, 13, 22), true},
		"in other order": {at(22, 4, 13), true},
		"behind a gap":   {at(7, 16, 25), true},
		"aligned":        {at(7, 23, 39), false},
		"gap of a block": {at(4, 13, 31), false},
		"uneven":         {at(4, 14, 23), false},
	} {
		if got := openBytes(t, c.file, nil).Packed(); got != c.want {
			t.Errorf("%s: packed %t, want %t", name, got, c.want)
		}
	}
}
