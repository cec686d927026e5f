package vhd_test

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// newBatmap returns the batmap of the image in b, which follows its BAT: a bit for each block.
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
		t.Errorf("map of %d bytes at %d, after a header at %d", n, start, at)
	}
	bits := make([]bool, blocks)
	for i := range bits {
		bits[i] = b[start+int64(i)/8]&(0x80>>(i%8)) != 0
	}
	return bits
}

// A new image of XenServer has a batmap with the bits of the fully written blocks. WriteStream
// writes the same bytes.
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

// In a differencing image the bit of a block is set if all its sectors are written. The
// locators follow the map.
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

// XenServer's tools support only blocks of 2 MiB. An image with other blocks has no batmap, and
// neither has a fixed one; the version says so.
func TestNoNewBatmap(t *testing.T) {
	for _, o := range []vhd.CreateOptions{{BlockSize: 512 * kib}, {Type: vhd.Fixed}} {
		o.Size, o.Creator = 4*mib, vhd.CreatorXenServer
		b := create(t, &o).bytes()
		if v := be.Uint32(b[len(b)-512+32:]); v != 0x00010001 || bytes.Contains(b, []byte("tdbatmap")) {
			t.Errorf("%+v: version %#x, want 1.1 and no batmap", o, v)
		}
	}
}

// The creator decides whether an image has a batmap. A batmap that another program has not
// maintained is not trusted again.
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
	// A stale map that another program left.
	b := m.bytes()
	copy(b[28:], "win ")
	copy(b[2048:], "tdbatmap")
	sum(b[:512], 64)
	copy(b[len(b)-512:], b[:512])
	m = newMemFile(b)
	if set(vhd.CreatorXenServer); bytes.Contains(m.bytes(), []byte("tdbatmap")) {
		t.Error("a batmap of old is believed again")
	}
}
