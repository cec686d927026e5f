package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vhdtool/vhdtool/internal/samples"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// orphansOf lists the orphans of an image.
func orphansOf(t tb, file []byte) []disk.Orphan {
	t.Helper()
	var all []disk.Orphan
	for o, err := range vhd.Orphans(context.Background(), bytes.NewReader(file), int64(len(file))) {
		must(t, err)
		all = append(all, o)
	}
	return all
}

// Unreferenced data is found at its offset, with the blocks that it may be.
func TestOrphans(t *testing.T) {
	const bs = 4 * kib
	s := sampleOf(bs) // entries 1, 0, 5 and 9, in this order in the file
	at := func(k int) int64 { return s.place(k) * sector }
	orphan := func(k int, blocks ...int64) disk.Orphan {
		return disk.Orphan{Offset: at(k), Bitmap: sector, Length: bs, Blocks: blocks}
	}
	bat := func(entries map[int]uint32) []byte { return s.with(func(s *sample) { s.bat = entries }).bytes() }
	const wild = 0x7ffffff0
	leakedFirst := s.with(func(s *sample) { s.bat = map[int]uint32{1: unused, 0: unused} }).bytes()
	aligned := craft{size: 4 * bs, footer: []edit{creator("win ")}, bat: map[int]uint32{1: wild}}
	for i := range 3 {
		aligned.blocks = append(aligned.blocks, block{i, int64(7 + 16*i), nil, pattern(bs, byte(i))})
	}
	twoWild, leaked := aligned, aligned
	twoWild.bat = map[int]uint32{1: wild, 3: wild}
	leaked.bat = map[int]uint32{1: unused}
	for name, x := range map[string]struct {
		file []byte
		want []disk.Orphan
	}{
		"none":                               {s.bytes(), nil},
		"one impossible entry, by order":     {bat(map[int]uint32{5: wild}), []disk.Orphan{orphan(2, 5)}},
		"one impossible entry, out of order": {bat(map[int]uint32{0: wild}), []disk.Orphan{orphan(1, 0)}},
		"impossible entry over metadata":     {bat(map[int]uint32{9: 3}), []disk.Orphan{orphan(3, 9)}},
		"two impossible entries, by order":   {bat(map[int]uint32{5: wild, 9: 3}), []disk.Orphan{orphan(2, 5), orphan(3, 9)}},
		"two impossible entries, one block":  {s.with(func(s *sample) { s.bat = map[int]uint32{0: wild, 7: wild} }).bytes(), []disk.Orphan{orphan(1, 0, 7)}},
		"unallocated, by order":              {leaked.bytes(), []disk.Orphan{{Offset: 23 * sector, Bitmap: sector, Length: bs, Blocks: []int64{1}}}},
		"unallocated at the start":           {leakedFirst, []disk.Orphan{orphan(0), orphan(1)}},
		"one of two impossible entries":      {twoWild.bytes(), []disk.Orphan{{Offset: 23 * sector, Bitmap: sector, Length: bs, Blocks: []int64{1}}}},
		"aligned blocks":                     {aligned.bytes(), []disk.Orphan{{Offset: 23 * sector, Bitmap: sector, Length: bs, Blocks: []int64{1}}}},
	} {
		if diff := cmp.Diff(x.want, orphansOf(t, x.file)); diff != "" {
			t.Errorf("%s: orphans (-want +got):\n%s", name, diff)
		}
	}
	fixed := fixedImage(pattern(8*kib, 1))
	if got := orphansOf(t, fixed); got != nil {
		t.Errorf("orphans of a fixed disk: %v", got)
	}
}

// An impossible entry is connected with its block, and the image is as before the damage.
func TestReconnect(t *testing.T) {
	for _, d := range samples.Damages(t) {
		if d.Name != "bat-beyond-end.vhd" {
			continue
		}
		file := fileBytes(t, d.Unpack(t))
		good := fileBytes(t, samples.Unpack(t, d.From))
		_, report := promised(t, file, vhd.RepairOptions{All: true}, "")
		i := slices.IndexFunc(report.Left, func(x vhd.Unrepaired) bool { return x.ID == "bat-beyond-end" })
		if i < 0 || report.Left[i].Next != disk.NextReconnect || len(report.Left[i].Reconnect) != 1 {
			t.Fatalf("left are %+v, want a reconnection for bat-beyond-end", report.Left)
		}
		for _, all := range []bool{false, true} {
			m := newMemFile(file)
			o := vhd.RepairOptions{All: all, Reconnect: report.Left[i].Reconnect}
			again, err := vhd.Repair(context.Background(), m, m.size(), &o)
			must(t, err)
			if len(again.Done) != 1 || !slices.Equal(again.Done[0].Doubtful, []disk.Range{{Off: 0, N: 2 * mib}}) {
				t.Errorf("done: %+v, want one reconnection that names the block", again.Done)
			}
			sameBytes(t, "the file", m.bytes(), good)
			restores(t, file, o, filepath.Join(t.TempDir(), "undo"))
		}
	}
}

// A reconnection is refused before anything is written if it uses space in use, or if the block
// is stored.
func TestReconnectRefuses(t *testing.T) {
	s := sampleOf(4 * kib)
	at := func(k int) int64 { return s.place(k) * sector }
	file := s.with(func(s *sample) { s.bat = map[int]uint32{0: 0x7ffffff0, 5: 0x7ffffff0, 2: 3} }).bytes()
	for name, c := range map[string][]disk.Reconnection{
		"a block of the disk":       {{Block: 10, Offset: at(1)}},
		"a negative block":          {{Block: -1, Offset: at(1)}},
		"a stored block":            {{Block: 1, Offset: at(1)}},
		"space in use":              {{Block: 0, Offset: at(0)}},
		"space in use in part":      {{Block: 0, Offset: at(1) - sector}},
		"metadata":                  {{Block: 0, Offset: 0}},
		"not a sector":              {{Block: 0, Offset: at(1) + 1}},
		"beyond the end":            {{Block: 0, Offset: at(4)}},
		"a negative offset":         {{Block: 0, Offset: -sector}},
		"an offset no entry holds":  {{Block: 0, Offset: 1 << 60}},
		"two blocks in one place":   {{Block: 0, Offset: at(1)}, {Block: 5, Offset: at(1)}},
		"two places over another":   {{Block: 0, Offset: at(1)}, {Block: 5, Offset: at(1) + sector}},
		"one block in two places":   {{Block: 0, Offset: at(1)}, {Block: 0, Offset: at(2)}},
		"the second one is refused": {{Block: 0, Offset: at(1)}, {Block: 9, Offset: at(2)}},
	} {
		m := record(file)
		_, err := vhd.Repair(context.Background(), m, m.size(), &vhd.RepairOptions{Reconnect: c})
		if !errors.Is(err, vhd.ErrReconnect) || m.writes() > 0 {
			t.Errorf("%s: %v, %d changes; want ErrReconnect, and none", name, err, m.writes())
		}
	}
	m := newMemFile(fixedImage(pattern(8*kib, 1)))
	if _, err := vhd.Repair(context.Background(), m, m.size(), &vhd.RepairOptions{Reconnect: []disk.Reconnection{{}}}); !errors.Is(err, vhd.ErrReconnect) {
		t.Errorf("a fixed disk: %v, want ErrReconnect", err)
	}
}

// DiscardLost deallocates the blocks of impossible entries, names them, and the image opens.
func TestDiscardLost(t *testing.T) {
	s := sampleOf(4 * kib)
	file := s.with(func(s *sample) { s.bat = map[int]uint32{2: 0x7ffffff0, 3: 0x7ffffff0, 7: 3} }).bytes()
	after, report := promised(t, file, vhd.RepairOptions{All: true, DiscardLost: true}, filepath.Join(t.TempDir(), "undo"))
	var named []disk.Range
	for _, x := range report.Done {
		named = append(named, x.Doubtful...)
	}
	if want := []disk.Range{{Off: 2 * 4 * kib, N: 2 * 4 * kib}, {Off: 7 * 4 * kib, N: 4 * kib}}; !slices.Equal(named, want) {
		t.Errorf("named are %v, want %v", named, want)
	}
	if len(report.Left) > 0 {
		t.Errorf("left: %+v", report.Left)
	}
	sameBytes(t, "contents", readAll(t, openBytes(t, after, nil)), s.contents)
}

// Overlapping blocks are separated whatever else points to the end of the file. Neither an
// impossible entry nor one past the end of the disk then points to a copy.
func TestSeparateClearsWay(t *testing.T) {
	const bs = 4 * kib
	s := sampleOf(bs)
	overlap := func(entries map[int]uint32) []byte {
		entries[7] = uint32(s.place(0)) // as entry 1
		return s.with(func(s *sample) {
			s.entries, s.bat = 20, entries
		}).bytes()
	}
	for name, x := range map[string]struct {
		file []byte
		left []string
		done []string
	}{
		"impossible entry at the end":     {overlap(map[int]uint32{2: uint32(s.place(4))}), []string{"bat-beyond-end"}, []string{"bat-beyond-end", "bat-overlap"}},
		"impossible entry after the copy": {overlap(map[int]uint32{2: uint32(s.place(4)) + 15}), []string{"bat-beyond-end"}, []string{"bat-beyond-end", "bat-overlap"}},
		"impossible entry far away":       {overlap(map[int]uint32{2: 1 << 20}), []string{"bat-beyond-end"}, []string{"bat-overlap"}},
		"block over the footer":           {overlap(map[int]uint32{2: uint32(s.place(4)) - 4}), []string{"bat-beyond-end", "bat-overlap"}, []string{}},
		"entry past the disk's end":       {overlap(map[int]uint32{12: uint32(s.place(4))}), []string{}, []string{"bat-excess", "bat-overlap"}},
		"entries past it, size unclear":   {overlap(map[int]uint32{12: uint32(s.place(4)), 13: uint32(s.place(1)), 0: unused}), []string{"bat-excess", "leak"}, []string{"bat-overlap"}},
	} {
		t.Run(name, func(t *testing.T) {
			after, report := promised(t, x.file, vhd.RepairOptions{All: true}, filepath.Join(t.TempDir(), "undo"))
			var did []string
			for _, r := range report.Done {
				did = append(did, r.ID)
			}
			if did = union(did); !slices.Equal(did, x.done) {
				t.Errorf("repaired are %q, want %q", did, x.done)
			}
			if got := kindsOf(t, after); !slices.Equal(got, x.left) {
				t.Errorf("left are %q, want %q", got, x.left)
			}
			m := newMixture(bs)
			m.unchanged(t, x.file, after, report.Done)
			if name == "entries past it, size unclear" {
				copied := int64(be.Uint32(after[1536+4*7:]))
				if claim := s.place(4); copied < claim+int64(s.stored)/sector && claim < copied+int64(s.stored)/sector {
					t.Errorf("the copy is at sector %d, where entry 12 points", copied)
				}
			}
		})
	}
}
