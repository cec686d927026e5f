package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// ordered is an image of n blocks of 4 KiB, without those in without. The file has the order of
// the disk.
func ordered(n int, aligned bool, without ...int) craft {
	c := craft{size: int64(n) * 4 * kib}
	c.defaults()
	free := (1536 + int64(n*4) + sector - 1) / sector
	for i := range n {
		if slices.Contains(without, i) {
			continue
		}
		if aligned {
			free = (free+1+7)/8*8 - 1
		}
		data := noise(4*kib, byte(i))
		be.PutUint32(data, uint32(i+1)) // no two blocks are alike
		c.blocks = append(c.blocks, block{i, free, nil, data})
		free += 9
	}
	return c
}

// lostEntries are damages of a BAT that starts at byte 1536, of 512 entries.
var lostEntries = map[string]func(table []byte){
	"a sector of zeros":           func(b []byte) { clear(b[512:1024]) },
	"two sectors of zeros":        func(b []byte) { clear(b[512:1536]) },
	"the first sector of zeros":   func(b []byte) { clear(b[:512]) },
	"the last sector of zeros":    func(b []byte) { clear(b[3*512 : 4*512]) },
	"a sector of garbage":         func(b []byte) { copy(b[512:1024], noise(512, 9)) },
	"half a sector of text":       func(b []byte) { copy(b[512+200:], strings.Repeat("A line of a log, 0.\n", 12)) },
	"one entry beyond the end":    func(b []byte) { be.PutUint32(b[300*4:], 0x7ffffff0) },
	"three entries over metadata": func(b []byte) { be.PutUint32(b[300*4:], 1); be.PutUint32(b[7*4:], 2); be.PutUint32(b[400*4:], 0) },
}

// Entries are rebuilt if the file has the order of the disk, by a repair and by a salvage.
// Check reports that before.
func TestRebuildBAT(t *testing.T) {
	for layout, c := range map[string]craft{
		"packed": ordered(512, false), "aligned": ordered(512, true),
		"with unused entries": ordered(512, true, 1, 2, 3, 100, 101, 383+17, 500),
	} {
		good := c.bytes()
		want := readAll(t, openBytes(t, good, nil))
		for name, damage := range lostEntries {
			unusedLost := layout == "with unused entries" && (strings.HasPrefix(name, "the ") || name == "three entries over metadata")
			t.Run(layout+"/"+name, func(t *testing.T) {
				file := slices.Clone(good)
				damage(file[1536:])
				img := openBytes(t, file, &vhd.OpenOptions{Salvage: true})
				lost := agrees(t, img, slices.Clone(want))
				if unusedLost { // entries without a block are unknown
					return
				}
				if len(lost) > 0 {
					t.Errorf("salvage loses %+v", lost)
				}
				if name == "one entry beyond the end" { // the block may be another one
					if r, done := repair(t, file, vhd.RepairOptions{All: true}, errOrphans); r.writes() > 0 {
						t.Errorf("a single entry is repaired: %q", done)
					}
					return
				}
				r, done := repair(t, file, vhd.RepairOptions{All: true}, nil)
				fs, _ := findings(t, file)
				noted := slices.ContainsFunc(fs, func(f vhd.Finding) bool {
					return strings.Contains(f.Note, "can be rebuilt: ") && strings.HasPrefix(f.Remedy, "rebuild")
				})
				if !noted {
					t.Errorf("no finding says what can be rebuilt: %v", fs)
				}
				sameBytes(t, fmt.Sprintf("the file after %q", done), r.bytes(), good)
				if again, done := repair(t, r.bytes(), vhd.RepairOptions{All: true}, nil); again.writes() > 0 {
					t.Errorf("the second repair: %q", done)
				}
			})
		}
	}
}

// A repair that rebuilds entries can be interrupted at any point and repeated.
func TestCrashOfRebuild(t *testing.T) {
	good := ordered(512, false).bytes()
	for name, damage := range map[string]func(b []byte){
		"entries": func(b []byte) { copy(b[1536+512:], make([]byte, 1024)) },
		"header":  func(b []byte) { clear(b[512:1536]) },
		"footers": func(b []byte) { copy(b[:8], "damaged!"); clear(b[len(b)-512:]) },
	} {
		t.Run(name, func(t *testing.T) {
			file := slices.Clone(good)
			damage(file)
			r, _ := repair(t, file, vhd.RepairOptions{All: true}, nil)
			sameBytes(t, "the repaired file", r.bytes(), good)
			r.cuts(t, rand.New(rand.NewPCG(5, 6)), 10, func(k int, cut []byte) {
				again, done := repair(t, cut, vhd.RepairOptions{All: true}, nil)
				sameBytes(t, fmt.Sprintf("cut after change %d, and repaired again: %q", k, done), again.bytes(), good)
			})
		})
	}
}

// If the order of the file proves nothing, a repair writes no entry. A salvage reads such a
// block, and lists it as doubtful.
func TestRebuildNeedsProof(t *testing.T) {
	shuffled := ordered(512, false)
	rand.New(rand.NewPCG(1, 2)).Shuffle(512, func(i, k int) {
		b := shuffled.blocks
		b[i].sector, b[k].sector = b[k].sector, b[i].sector
	})
	swapped := ordered(64, false)
	b := swapped.blocks
	rand.New(rand.NewPCG(1, 2)).Shuffle(30, func(i, k int) { b[i].sector, b[k].sector = b[k].sector, b[i].sector })
	rand.New(rand.NewPCG(3, 4)).Shuffle(30, func(i, k int) { b[34+i].sector, b[34+k].sector = b[34+k].sector, b[34+i].sector })
	b[31].sector, b[32].sector = b[32].sector, b[31].sector
	all := ordered(32, false)
	overwritten := ordered(512, false)
	for i := range overwritten.blocks {
		if b := &overwritten.blocks[i]; b.entry == 200 {
			b.bitmap = noise(512, 3) // no sector bitmap
		}
	}
	for name, d := range map[string]struct {
		good   craft
		damage func(table []byte)
	}{
		"blocks in any order":         {shuffled, func(b []byte) { clear(b[512:1024]) }},
		"two blocks in any order":     {shuffled, func(b []byte) { clear(b[512:520]) }},
		"two swapped blocks":          {swapped, func(b []byte) { clear(b[31*4 : 33*4]) }},
		"no other entry":              {all, func(b []byte) { clear(b[:128]) }},
		"a block that is overwritten": {overwritten, func(b []byte) { clear(b[512:1024]) }},
	} {
		t.Run(name, func(t *testing.T) {
			good := d.good.bytes()
			want := readAll(t, openBytes(t, good, nil))
			file := slices.Clone(good)
			d.damage(file[1536:])
			lost := agrees(t, openBytes(t, file, &vhd.OpenOptions{Salvage: true}), want)
			if len(lost) == 0 {
				t.Error("nothing is lost, or doubtful")
			}
			m := newMemFile(file)
			if err := repairFile(m, &vhd.RepairOptions{All: true}); err != nil && !errors.Is(err, errOrphans) {
				t.Fatal(err)
			}
			sameBytes(t, "the file after a repair", m.bytes(), file)
		})
	}
}

// A file that was cut, and received a footer since, has lost the blocks of its last entries. No
// other blocks are assigned to these entries.
func TestRebuildKeepsCutEntries(t *testing.T) {
	c := ordered(16, false, 15)
	c.bat = map[int]uint32{3: unused, 15: uint32(c.blocks[14].sector + 9)} // block 3 is unreferenced
	file := c.bytes()
	m := newMemFile(file)
	if err := repairFile(m, &vhd.RepairOptions{All: true}); err != nil && !errors.Is(err, errOrphans) {
		t.Fatal(err)
	}
	sameBytes(t, "the file after a repair", m.bytes(), file)
}

// A header is rebuilt for every block size of a product, and for no other.
func TestRebuildHeader(t *testing.T) {
	for _, blockSize := range []int64{4 * kib, 8 * kib, 64 * kib, 512 * kib, 2 * mib} {
		for _, aligned := range []bool{false, true} {
			for _, n := range []int{1, 2, 5} {
				c := craft{size: 7*blockSize - sector, blockSize: blockSize}
				bitmap := bitmapBytes(blockSize) / sector
				free := int64(4)
				for i := range n {
					if aligned {
						free = (free+bitmap+7)/8*8 - bitmap
					}
					c.blocks = append(c.blocks, block{i, free, nil, noise(int(blockSize), byte(i))})
					free += bitmap + blockSize/sector
				}
				good := c.bytes()
				want := readAll(t, openBytes(t, good, nil))
				file := spoil(good, 512, 1024)
				name := fmt.Sprintf("%d blocks of %d, aligned %v", n, blockSize, aligned)
				agrees(t, openBytes(t, file, &vhd.OpenOptions{Salvage: true}), slices.Clone(want))
				m := newMemFile(file)
				if err := repairFile(m, &vhd.RepairOptions{All: true}); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if bytes.Equal(m.bytes(), file) {
					t.Logf("%s: not certain", name)
					continue
				}
				sameBytes(t, name, m.bytes(), good)
			}
		}
	}
}

// A file with a dynamic disk header and no footer is no raw disk.
func TestProbeHeaderWithoutFooter(t *testing.T) {
	good := ordered(8, false).bytes()
	file := spoil(spoil(good, 0, 512), len(good)-512, 512)
	for name, b := range map[string][]byte{
		"both footers lost": file, "and the header damaged": spoil(file, 530, 100), "and the header cut": file[:1536],
	} {
		r, size := bytes.NewReader(b), int64(len(b))
		if err := vhd.Probe(r, size); !errors.Is(err, vhd.ErrFootersLost) || !errors.Is(err, vhd.ErrCorrupt) {
			t.Errorf("%s: Probe: %v", name, err)
		}
		if _, err := vhd.NewImage(r, size, nil); !errors.Is(err, vhd.ErrFootersLost) {
			t.Errorf("%s: NewImage: %v", name, err)
		}
		if fs, _ := findings(t, b); len(fs) < 2 || fs[0].ID != "trailing-footer" {
			t.Errorf("%s: check finds %v", name, fs)
		}
	}
	c := vhd.NewChecker(bytes.NewReader(file), int64(len(file)), nil)
	for range c.Findings(context.Background()) {
	}
	if c.Type() != vhd.Dynamic {
		t.Errorf("check of a file without footers: type %v", c.Type())
	}
}

// errReader fails to read some sectors.
type errReader struct {
	*bytes.Reader
	bad map[int64]bool
}

var errSector = errors.New("unreadable sector")

func (r *errReader) ReadAt(p []byte, off int64) (int, error) {
	for s := off / sector; s*sector < off+int64(len(p)); s++ {
		if r.bad[s] {
			return 0, errSector
		}
	}
	return r.Reader.ReadAt(p, off)
}

// Unreadable sectors of metadata do not prevent a salvage.
func TestSalvageUnreadable(t *testing.T) {
	c := ordered(512, true)
	good := c.bytes()
	want := readAll(t, openBytes(t, good, nil))
	open := func(t *testing.T, bad ...int64) *vhd.Image {
		r := &errReader{bytes.NewReader(good), map[int64]bool{}}
		for _, s := range bad {
			r.bad[s] = true
		}
		img, err := vhd.NewImage(r, int64(len(good)), &vhd.OpenOptions{Salvage: true})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	last := int64(len(good)/sector - 1)
	for name, bad := range map[string][]int64{
		"copy of the footer": {0}, "trailing footer": {last}, "both footers": {0, last},
		"header": {1, 2}, "a sector of the BAT": {4}, "the whole BAT": {3, 4, 5, 6}, "both footers and half of the BAT": {0, 3, 4, last},
	} {
		t.Run(name, func(t *testing.T) {
			lost := agrees(t, open(t, bad...), slices.Clone(want))
			if n := lostBytes(lost, false); n > 0 {
				t.Errorf("lost %+v", lost)
			}
		})
	}
	t.Run("sector bitmap", func(t *testing.T) {
		img := open(t, c.blocks[5].sector)
		if lost := img.Lost(); len(lost) > 0 {
			t.Errorf("lost %+v before anything is read", lost)
		}
		sameBytes(t, "the disk", readAll(t, img), want)
		lost := img.Lost()
		if len(lost) != 1 || lost[0].Off != 5*4*kib || lost[0].N != 4*kib || !lost[0].Doubtful {
			t.Errorf("lost %+v, want block 5", lost)
		}
	})
	t.Run("data", func(t *testing.T) {
		img := open(t, c.blocks[5].sector+1)
		b := make([]byte, 4*kib)
		if _, err := img.ReadAt(b, 5*4*kib); !errors.Is(err, errSector) {
			t.Errorf("ReadAt: %v", err)
		}
		if _, err := img.ReadAt(b, 6*4*kib); err != nil && err != io.EOF {
			t.Errorf("ReadAt of the next block: %v", err)
		}
	})
}
