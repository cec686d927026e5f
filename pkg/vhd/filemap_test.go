package vhd_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// fileMap returns the map of an image in memory. It must cover the file.
func fileMap(t *testing.T, b []byte) []vhd.FileExtent {
	t.Helper()
	var es []vhd.FileExtent
	end := int64(0)
	for e := range openBytes(t, b, nil).FileMap(int64(len(b))) {
		if e.Off != end || e.Len <= 0 {
			t.Fatalf("extent %+v, want one that starts at %d", e, end)
		}
		end = e.End()
		es = append(es, e)
	}
	if end != int64(len(b)) {
		t.Fatalf("the map ends at %d, the file at %d", end, len(b))
	}
	return es
}

func TestFileMap(t *testing.T) {
	data := pattern(4*kib, 1)
	xen := craft{size: 8 * kib, blocks: []block{{entry: 1, sector: 6}}, end: 15 * 512, footer: []edit{creator("tap\x00"), u32(32, 0x00010003)}}.bytes()
	copy(xen[4*512:], "tdbatmap")
	be.PutUint64(xen[4*512+8:], 5*512)
	be.PutUint32(xen[4*512+16:], 1)
	for _, c := range []struct {
		name string
		file []byte
		want []vhd.FileExtent // sectors
	}{
		{"fixed", fixedImage(data), []vhd.FileExtent{{0, 8, vhd.UseData, -1}, {8, 1, vhd.UseFooter, -1}}},
		{"fixed, larger than the disk", fixedImage(data, currentSize(3*kib)), []vhd.FileExtent{
			{0, 6, vhd.UseData, -1}, {6, 2, vhd.UsePadding, -1}, {8, 1, vhd.UseFooter, -1},
		}},
		{"empty", craft{size: mib}.bytes(), []vhd.FileExtent{
			{0, 1, vhd.UseFooterCopy, -1}, {1, 2, vhd.UseHeader, -1}, {3, 2, vhd.UseBAT, -1}, {5, 1, vhd.UseFooter, -1},
		}},
		{"blocks the other way round, padding and a leak", craft{size: 16 * kib, blocks: []block{
			{entry: 3, sector: 6, data: data}, {entry: 0, sector: 15, data: data}, {entry: 2, sector: 40, data: data},
		}}.bytes(), []vhd.FileExtent{
			{0, 1, vhd.UseFooterCopy, -1},
			{1, 2, vhd.UseHeader, -1},
			{3, 1, vhd.UseBAT, -1},
			{4, 2, vhd.UsePadding, -1},
			{6, 1, vhd.UseBitmap, 3},
			{7, 8, vhd.UseData, 3},
			{15, 1, vhd.UseBitmap, 0},
			{16, 8, vhd.UseData, 0},
			{24, 16, vhd.UseLeak, -1},
			{40, 1, vhd.UseBitmap, 2},
			{41, 8, vhd.UseData, 2},
			{49, 1, vhd.UseFooter, -1},
		}},
		{"metadata after the blocks", craft{size: 8 * kib, headerAt: 20 * 512, tableAt: 22 * 512, blocks: []block{{entry: 0, sector: 1}}}.bytes(), []vhd.FileExtent{
			{0, 1, vhd.UseFooterCopy, -1},
			{1, 1, vhd.UseBitmap, 0},
			{2, 8, vhd.UseData, 0},
			{10, 10, vhd.UseLeak, -1},
			{20, 2, vhd.UseHeader, -1},
			{22, 1, vhd.UseBAT, -1},
			{23, 1, vhd.UseFooter, -1},
		}},
		{"XenServer's batmap", xen, []vhd.FileExtent{
			{0, 1, vhd.UseFooterCopy, -1},
			{1, 2, vhd.UseHeader, -1},
			{3, 1, vhd.UseBAT, -1},
			{4, 1, vhd.UseBatmap, -1},
			{5, 1, vhd.UseBatmap, -1},
			{6, 1, vhd.UseBitmap, 1},
			{7, 8, vhd.UseData, 1},
			{15, 1, vhd.UseFooter, -1},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []vhd.FileExtent
			for _, e := range fileMap(t, c.file) {
				e.Off /= sector
				e.Len /= sector
				got = append(got, e)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %v\nwant %v", got, c.want)
			}
		})
	}
}

// TestFileMapOddEnds: a footer of 511 bytes, a partial last sector, and no footer.
func TestFileMapOddEnds(t *testing.T) {
	whole := craft{size: 8 * kib, blocks: []block{{entry: 0, sector: 4}}}.bytes()
	n := int64(len(whole))
	for _, c := range []struct {
		name string
		file []byte
		want vhd.FileExtent
	}{
		{"511 bytes", whole[:n-1], vhd.FileExtent{Off: n - 512, Len: 511, Use: vhd.UseFooter, Block: -1}},
		{"torn", append(slices.Clone(whole), make([]byte, 100)...), vhd.FileExtent{Off: n, Len: 100, Use: vhd.UsePadding, Block: -1}},
		{"cut off", whole[:n-512], vhd.FileExtent{Off: 5 * 512, Len: 4096, Use: vhd.UseData, Block: 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			es := fileMap(t, c.file)
			if got := es[len(es)-1]; got != c.want {
				t.Errorf("the last is %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestFileMapRandom lays blocks out at random, and compares the map with a string that has a
// letter for each sector of the file.
func TestFileMapRandom(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		c := craft{size: 64 * kib}
		want := []byte("FHHB")
		for _, entry := range r.Perm(16)[:r.IntN(17)] {
			gap := bytes.Repeat([]byte("."), r.IntN(20))
			want = append(want, gap...)
			c.blocks = append(c.blocks, block{entry: entry, sector: int64(len(want))})
			want = append(append(want, 'b'), bytes.Repeat([]byte{byte('0' + entry)}, 8)...)
		}
		want = append(want, 'f')
		letters := map[vhd.FileUse]byte{
			vhd.UseFooterCopy: 'F', vhd.UseHeader: 'H', vhd.UseBAT: 'B', vhd.UseBitmap: 'b', vhd.UsePadding: '.', vhd.UseLeak: '.', vhd.UseFooter: 'f',
		}
		var got []byte
		for _, e := range fileMap(t, c.bytes()) {
			letter := letters[e.Use]
			if e.Use == vhd.UseData {
				letter = byte('0' + e.Block)
			}
			if leak := e.Use == vhd.UseLeak; letter == '.' && leak != (e.Len >= 9*512) {
				t.Errorf("seed %d: a gap of %d bytes is %v", seed, e.Len, e.Use)
			}
			got = append(got, bytes.Repeat([]byte{letter}, int(e.Len/sector))...)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("seed %d: got\n%s, want\n%s", seed, got, want)
		}
	}
}

// TestFileMapStops: breaking off the iteration ends it.
func TestFileMapStops(t *testing.T) {
	b := craft{size: 16 * kib, blocks: []block{{entry: 3, sector: 6}, {entry: 0, sector: 30}}}.bytes()
	for n := range fileMap(t, b) {
		seen := 0
		for range openBytes(t, b, nil).FileMap(int64(len(b))) {
			if seen++; seen > n {
				break
			}
		}
	}
}

// TestFileMapLocators: the texts of a differencing image's parent locators are at the offsets
// in its header.
func TestFileMapLocators(t *testing.T) {
	dir := t.TempDir()
	base, err := vhd.Create(filepath.Join(dir, "base.vhd"), &vhd.CreateOptions{Size: 10 * mib, Exact: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := base.Close(); err != nil {
		t.Fatal(err)
	}
	if base, err = vhd.Open(filepath.Join(dir, "base.vhd"), nil); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "child.vhd")
	parentage, err := vhd.ParentRecordOf(name, filepath.Join(dir, "base.vhd"), base, vhd.PathsAll)
	if err != nil {
		t.Fatal(err)
	}
	child, err := vhd.Create(name, &vhd.CreateOptions{Parent: base, ParentRecord: parentage})
	if err != nil {
		t.Fatal(err)
	}
	write(t, child, []byte("x"), 5*mib)
	if err := child.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	uses := map[vhd.FileUse]int{}
	at := map[int64]vhd.FileExtent{}
	img := openBytes(t, b, &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
	end := int64(0)
	for e := range img.FileMap(int64(len(b))) {
		if e.Off != end {
			t.Fatalf("%+v, want one at %d", e, end)
		}
		end = e.End()
		uses[e.Use]++
		at[e.Off] = e
	}
	locators := 0
	for i := range 8 {
		l := b[512+576+i*24:][:24]
		if be.Uint32(l) == 0 {
			continue
		}
		locators++
		off, n := int64(be.Uint64(l[16:])), int64(be.Uint32(l[8:]))
		if e := at[off]; e.Use != vhd.UseLocator || e.Len < n {
			t.Errorf("locator %d of %d bytes at %d: the map has %+v", i+1, n, off, e)
		}
	}
	if locators == 0 || uses[vhd.UseLocator] != locators || uses[vhd.UseData] != 1 || uses[vhd.UseLeak] != 0 {
		t.Errorf("%d locators in the header; in the map: %v", locators, uses)
	}
}
