package vhd_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/internal/samples"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// In each sample with parents, each file of the chain is damaged. The data that is not lost is
// that of the whole chain.
func TestSalvageChains(t *testing.T) {
	damages := map[string]func(b []byte) []byte{
		"is missing":             nil,
		"has lost its header":    func(b []byte) []byte { return spoil(b, 512, 1024) },
		"has lost its footers":   func(b []byte) []byte { return spoil(spoil(b, 0, 512), len(b)-512, 512) },
		"has lost a BAT entry":   func(b []byte) []byte { return slices.Concat(b[:1536], []byte{0x7f, 0, 0, 0}, b[1540:]) },
		"has lost its BAT":       func(b []byte) []byte { return spoil(b, 1536, 512) },
		"ends in the last block": func(b []byte) []byte { return b[:len(b)-1500] },
	}
	for _, i := range samples.Images(t) {
		if len(i.Parents) == 0 {
			continue
		}
		for level, file := range append([]string{filepath.Base(i.Name)}, i.Parents...) {
			for what, damage := range damages {
				if damage == nil && level == 0 || filepath.Ext(file) == ".raw" && damage != nil {
					continue
				}
				t.Run(i.Name+"/"+file+" "+what, func(t *testing.T) {
					name := samples.Unpack(t, i.Name)
					plain, err := vhd.Open(name, nil)
					if err != nil {
						t.Fatal(err)
					}
					want := readAll(t, plain)
					plain.Close()
					damaged := filepath.Join(filepath.Dir(name), file)
					if damage == nil {
						err = os.Remove(damaged)
					} else {
						b := fileBytes(t, damaged)
						if be.Uint64(b[16:]) == allOnes || len(b) < 2048 || string(b[:8]) != "conectix" {
							t.Skip("a fixed disk")
						}
						err = os.WriteFile(damaged, damage(b), 0o600)
					}
					if err != nil {
						t.Fatal(err)
					}
					img, err := vhd.Open(name, &vhd.OpenOptions{Salvage: true})
					if err != nil {
						t.Fatal(err)
					}
					defer img.Close()
					lost := agrees(t, img, want)
					t.Logf("%d lost, %d doubtful: %+v", lostBytes(lost, false), lostBytes(lost, true), lost)
				})
			}
		}
	}
}

// Only the data of a missing parent is lost: the image's own sectors are read. If the caller
// opens no parents, reading their data is an error as usual.
func TestSalvageWithoutParent(t *testing.T) {
	base := newMemFile(ordered(8, false).bytes())
	parent := openBytes(t, base.bytes(), nil)
	m := newMemFile(nil)
	img, err := vhd.CreateIn(m, &vhd.CreateOptions{Parent: parent})
	if err != nil {
		t.Fatal(err)
	}
	own := pattern(3*sector, 7)
	write(t, img, own, 2*4*kib+sector)
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	img = openBytes(t, m.bytes(), &vhd.OpenOptions{Salvage: true})
	got, lost := salvaged(t, img, mib)
	want := make([]byte, 8*4*kib)
	copy(want[2*4*kib+sector:], own)
	sameBytes(t, "the disk", got, want)
	wantLost := []disk.Range{{Off: 0, N: 2*4*kib + sector}, {Off: 2*4*kib + 4*sector, N: int64(len(want)) - 2*4*kib - 4*sector}}
	var ranges []disk.Range
	for _, x := range lost {
		ranges = append(ranges, x.Range)
	}
	if !slices.Equal(ranges, wantLost) {
		t.Errorf("lost %+v, want %v", lost, wantLost)
	}
	if !errors.Is(img.ParentErr(), vhd.ErrParentNotFound) {
		t.Errorf("ParentErr: %v", img.ParentErr())
	}
	alone := openBytes(t, m.bytes(), &vhd.OpenOptions{Salvage: true, Parents: disk.ParentSearch{None: true}})
	if _, err := alone.ReadAt(make([]byte, sector), 0); !errors.Is(err, vhd.ErrNoParent) {
		t.Errorf("ReadAt of an image without parents by choice: %v", err)
	}
}

// Only the doubtful sectors of overlapping blocks are listed.
func TestSalvageOverlap(t *testing.T) {
	c := ordered(8, false)
	// Over the data of block 2 from its fourth sector on.
	c.bat = map[int]uint32{5: uint32(c.blocks[2].sector + 4)}
	img := openBytes(t, c.bytes(), &vhd.OpenOptions{Salvage: true})
	_, lost := salvaged(t, img, mib)
	var ranges []disk.Range
	for _, x := range lost {
		if !x.Doubtful {
			t.Errorf("%+v is lost", x)
		}
		ranges = append(ranges, x.Range)
	}
	const block = 4 * kib
	// Block 5 also has the first sectors of block 3.
	want := []disk.Range{{Off: 2*block + 3*sector, N: block - 3*sector}, {Off: 3 * block, N: block}, {Off: 5 * block, N: block}}
	if !slices.Equal(ranges, want) && !slices.Equal(ranges, merged(want)) {
		t.Errorf("in doubt %v, want %v", ranges, want)
	}
}

// merged joins adjacent ranges.
func merged(rs []disk.Range) []disk.Range {
	var out []disk.Range
	for _, r := range rs {
		if k := len(out) - 1; k >= 0 && out[k].Off+out[k].N == r.Off {
			out[k].N += r.N
			continue
		}
		out = append(out, r)
	}
	return out
}
