package vhd_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// TestRandomDamages applies up to three random damages to images, and repairs them. The
// promises of every repair hold. No sector of the disk that could be read before changes,
// unless the repair names it.
func TestRandomDamages(t *testing.T) {
	rounds := uint64(200)
	if os.Getenv("VHDTOOL_TORTURE") != "" {
		rounds = 20_000
	}
	undoName := filepath.Join(t.TempDir(), "undo")
	changed := 0
	for seed := range rounds {
		rnd := rand.New(rand.NewPCG(seed, 14))
		m := newMixture([]int64{4 * kib, 16 * kib}[rnd.IntN(2)])
		file, edits := damaged(rnd, m)
		o := vhd.RepairOptions{All: rnd.IntN(4) > 0, Saved: rnd.IntN(4) == 0, DiscardOrphans: rnd.IntN(8) == 0, DiscardLost: rnd.IntN(8) == 0}
		if ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Logf("%q, %+v", edits, o)
			after, report := promised(t, file, o, undoName)
			if len(report.Done) > 0 {
				changed++
			}
			if len(file) >= 1536 && bytes.Equal(file[512:1536], m.good[512:1536]) {
				m.unchanged(t, file, after, report.Done)
			}
			img, err := vhd.NewImage(bytes.NewReader(file), int64(len(file)), nil)
			if err != nil {
				return
			}
			was, is := readAll(t, img), readAll(t, openBytes(t, after, nil))
			if len(was) != len(is) {
				t.Fatalf("the disk had %d bytes and has %d", len(was), len(is))
			}
			for off := int64(0); off < int64(len(was)); off += sector {
				if !named(report.Done, off) && !bytes.Equal(was[off:off+sector], is[off:off+sector]) {
					t.Fatalf("sector %d of the disk has changed and is not named; done: %q", off/sector, report.Done)
				}
			}
		}); !ok {
			return
		}
	}
	if changed < int(rounds)/10 {
		t.Errorf("only %d of %d damages were repaired", changed, rounds)
	}
}

// damaged returns the image with one to three edits in any of its regions, and their
// descriptions.
func damaged(rnd *rand.Rand, m *mixture) (file []byte, edits []string) {
	file = slices.Clone(m.good)
	stored := int64(m.stored)
	for range 1 + rnd.IntN(3) {
		regions := []struct {
			name       string
			start, end int64
		}{
			{"leading footer", 0, 512},
			{"header", 512, 1536},
			{"BAT", 1536, 1536 + 20*4},
			{"BAT padding", 1536 + 20*4, 2048},
			{"bitmap", m.place(1) * sector, m.place(1)*sector + bitmapBytes(m.blockSize)},
			{"block", m.place(2)*sector + 512, m.place(2)*sector + stored},
			{"trailing footer", int64(len(file)) - 512, int64(len(file))},
			{"anything", 0, int64(len(file))},
		}
		r := regions[rnd.IntN(len(regions))]
		r.end = min(r.end, int64(len(file)))
		if r.start < 0 || r.end-r.start < 8 {
			continue
		}
		at := r.start + rnd.Int64N(r.end-r.start)
		n := min(1+rnd.Int64N(64), r.end-at)
		if rnd.IntN(4) == 0 {
			at, n = r.start, r.end-r.start
		}
		what := ""
		switch rnd.IntN(8) {
		case 0:
			what = "zeros"
			clear(file[at : at+n])
		case 1:
			what = "ones"
			copy(file[at:at+n], bytes.Repeat([]byte{0xff}, int(n)))
		case 2, 3:
			what = "noise"
			copy(file[at:at+n], noise(int(n), byte(rnd.Uint32())))
		case 4:
			what = "another range"
			from := rnd.Int64N(int64(len(file)) - n + 1)
			copy(file[at:at+n], slices.Clone(file[from:from+n]))
		case 5:
			what = "truncated"
			file = file[:at]
			if rnd.IntN(2) == 0 {
				file = file[:at/512*512]
			}
		case 6:
			entry := rnd.IntN(20)
			sectors := []int64{0, 2, 3, m.place(rnd.IntN(4)), m.place(rnd.IntN(4)) + rnd.Int64N(8), m.place(4) + rnd.Int64N(30), 0x7fffffff, unused}
			s := sectors[rnd.IntN(len(sectors))]
			if len(file) >= 2048 {
				what = fmt.Sprintf("entry %d is %d:", entry, s)
				setEntry(file, entry, s)
			}
		case 7:
			what = "bytes inserted or removed"
			if rnd.IntN(2) == 0 {
				file = slices.Delete(file, int(at), int(at+n))
			} else {
				file = slices.Insert(file, int(at), noise(int(n), 9)...)
			}
		}
		edits = append(edits, fmt.Sprintf("%s %s at %d, %d bytes", r.name, what, at, n))
	}
	return file, edits
}
