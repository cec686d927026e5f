package vhd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/internal/overlay"
	"github.com/vhdtool/vhdtool/internal/undo"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// A mixture is the image that several faults are applied to. It is packed, has four blocks, and
// a BAT with more entries than the disk has blocks.
type mixture struct {
	*sample
	good []byte
}

func newMixture(blockSize int64) *mixture {
	s := sampleOf(blockSize).with(func(s *sample) { s.entries = 20 })
	return &mixture{s, s.bytes()}
}

// A fault is one kind of damage, with the expected result of a repair with All.
type fault struct {
	name   string
	do     func(m *mixture, file []byte) []byte
	found  []string // kinds of errors and leaks, and of warnings that are repaired
	mended []string // kinds that are repaired
	left   []string // kinds that remain
}

// setEntry changes a BAT entry.
func setEntry(file []byte, entry int, sector int64) []byte {
	be.PutUint32(file[1536+4*entry:], uint32(sector))
	return file
}

// faults are in the order in which they are applied. Those that cut the file come last.
var faults = []fault{
	{
		"footers differ", func(m *mixture, file []byte) []byte {
			copy(file, footerBytes(dynamic, m.size, u32(24, 99)))
			return file
		},
		[]string{"footers-differ"},
		[]string{"footers-differ"},
		nil,
	},
	{
		"both footer checksums", func(m *mixture, file []byte) []byte {
			file[64] ^= 1
			file[len(file)-512+64] ^= 1
			return file
		},
		[]string{"footer-checksum", "leading-footer"},
		[]string{"footer-checksum"},
		nil,
	},
	{
		"leading footer damaged", func(m *mixture, file []byte) []byte { return spoil(file, 0, 512) },
		[]string{"leading-footer"},
		[]string{"leading-footer"},
		nil,
	},
	{
		"header checksum", func(m *mixture, file []byte) []byte { file[512+36] ^= 1; return file },
		[]string{"header-checksum"},
		[]string{"header-checksum"},
		nil,
	},
	{
		"header gone", func(m *mixture, file []byte) []byte { clear(file[512:1536]); return file },
		[]string{"header-cookie"},
		[]string{"header-cookie"},
		nil,
	},
	{
		"impossible entry", func(m *mixture, file []byte) []byte { return setEntry(file, 5, 0x7ffffff0) },
		[]string{"bat-beyond-end", "leak"},
		nil,
		[]string{"bat-beyond-end", "leak"},
	},
	{
		"entry over metadata", func(m *mixture, file []byte) []byte { return setEntry(file, 3, 3) },
		[]string{"bat-over-metadata"},
		nil,
		[]string{"bat-over-metadata"},
	},
	{
		"overlap", func(m *mixture, file []byte) []byte { return setEntry(file, 7, m.place(0)) },
		[]string{"bat-overlap"},
		[]string{"bat-overlap"},
		nil,
	},
	{
		"excess entry", func(m *mixture, file []byte) []byte { return setEntry(file, 12, m.place(1)) },
		[]string{"bat-excess"},
		[]string{"bat-excess"},
		nil,
	},
	{
		"orphan", func(m *mixture, file []byte) []byte { return setEntry(file, 0, unused) },
		[]string{"leak"},
		nil,
		[]string{"leak"},
	},
	{
		"trailing footer gone", func(m *mixture, file []byte) []byte { return file[:len(file)-512] },
		[]string{"trailing-footer"},
		[]string{"trailing-footer"},
		nil,
	},
	{
		"torn last block", func(m *mixture, file []byte) []byte { return file[:min(len(file), len(m.good)-512-5*sector)] },
		[]string{"bat-beyond-end", "trailing-footer"},
		[]string{"bat-beyond-end", "trailing-footer"},
		nil,
	},
}

// readable returns the contents of the disk as far as the structures of the undamaged image
// lead to them. has are the sectors that the file has. whole are the sectors of blocks that are
// completely in the file.
func (m *mixture) readable(file []byte) (data []byte, has, whole []bool) {
	data, has, whole = make([]byte, m.size), make([]bool, m.size/sector), make([]bool, m.size/sector)
	if len(file) < 2048+512 {
		return data, has, whole
	}
	if end := len(file) - 512; vhd.IsFooter(file[end:]) {
		file = file[:end]
	}
	for i := int64(0); i*m.blockSize < m.size; i++ {
		e := int64(be.Uint32(file[1536+4*i:]))
		start := e * sector
		if e == unused || start < 2048 {
			continue
		}
		for s := range m.blockSize / sector {
			from, at := start+bitmapBytes(m.blockSize)+s*sector, i*m.blockSize+s*sector
			if from+sector > int64(len(file)) || at+sector > m.size {
				break
			}
			has[at/sector], whole[at/sector] = true, start+int64(m.stored) <= int64(len(file))
			if file[start+s/8]&(0x80>>(s%8)) != 0 {
				copy(data[at:at+sector], file[from:])
			}
		}
	}
	return data, has, whole
}

// named reports whether a repair names the sector of the disk at off.
func named(done []vhd.Repaired, off int64) bool {
	return slices.ContainsFunc(done, func(x vhd.Repaired) bool {
		return slices.ContainsFunc(x.Doubtful, func(r disk.Range) bool { return r.Off < off+sector && off < r.Off+r.N })
	})
}

// promised repairs the image, and tests the promises of every repair. A dry run reports and
// does the same, overwritten bytes can be restored, and a second repair only returns space. It
// returns the file and the report.
func promised(t tb, file []byte, o vhd.RepairOptions, undoName string) ([]byte, vhd.RepairReport) {
	t.Helper()
	m := newMemFile(file)
	report, err := vhd.Repair(context.Background(), m, m.size(), &o)
	after := m.bytes()

	view := overlay.New(bytes.NewReader(file), int64(len(file)))
	foretold, ferr := vhd.Repair(context.Background(), view, int64(len(file)), &o)
	if !reflect.DeepEqual(foretold, report) || fmt.Sprint(ferr) != fmt.Sprint(err) {
		t.Errorf("the dry run says %+v (%v), and the repair %+v (%v)", foretold, ferr, report, err)
	}
	would := make([]byte, must1(t, view.Size))
	if n, _ := view.ReadAt(would, 0); n < len(would) {
		t.Fatalf("reading the view of the dry run: %d of %d bytes", n, len(would))
	}
	sameBytes(t, "the file by the dry run", withoutIDs(would), withoutIDs(after))

	if undoName != "" {
		restores(t, file, o, undoName)
	}

	last, done := after, report.Done
	if leaksNext(done) {
		m := newMemFile(last)
		then, _ := vhd.Repair(context.Background(), m, m.size(), &o)
		if !onlyLeaks(then.Done) {
			t.Errorf("the second repair: %q, after %q", then.Done, done)
		}
		last = m.bytes()
	}
	again := newMemFile(last)
	if then, _ := vhd.Repair(context.Background(), again, again.size(), &o); len(then.Done) > 0 {
		t.Errorf("another repair: %q, after %q", then.Done, done)
	}
	sameBytes(t, "the file after another repair", again.bytes(), last)
	return after, report
}

// withoutIDs returns the file without the unique ids of its footers. A rebuilt footer may have
// a new one.
func withoutIDs(file []byte) []byte {
	file = slices.Clone(file)
	for at := 0; at+512 <= len(file); at += 512 {
		if vhd.IsFooter(file[at:]) {
			clear(file[at+64 : at+84])
		}
	}
	return file
}

func must1[T any](t tb, f func() (T, error)) T {
	t.Helper()
	v, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// restores repairs the image with an undo file, and restores it.
func restores(t tb, file []byte, o vhd.RepairOptions, name string) {
	t.Helper()
	m := newMemFile(file)
	id, err := vhd.Identify(m, m.size())
	if err != nil {
		return
	}
	saved, err := undo.Create(name, m, m.size(), id.UniqueID)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(name)
	report, _ := vhd.Repair(context.Background(), saved, m.size(), &o)
	after, err := vhd.Identify(m, m.size())
	if err != nil {
		t.Fatal(err)
	}
	var spans []undo.Span
	for _, x := range after.Metadata {
		spans = append(spans, undo.Span{Start: x[0], End: x[1]})
	}
	if err := saved.Close(spans...); err != nil {
		t.Fatal(err)
	}
	if len(report.Done) == 0 {
		sameBytes(t, "the file of which nothing was repaired", m.bytes(), file)
		return
	}
	if err := undo.Restore(m, name, after.UniqueID); err != nil {
		t.Fatalf("restoring: %v; done: %q", err, report.Done)
	}
	sameBytes(t, "the restored file", m.bytes(), file)
}

// kindsOf returns the kinds of errors and leaks that a check finds, and of warnings that a
// repair may repair.
func kindsOf(t tb, file []byte) []string {
	t.Helper()
	ids := []string{}
	_, err := checkImage(bytes.NewReader(file), int64(len(file)), nil, func(f vhd.Finding) {
		if f.Severity != vhd.Warning || f.ID == "bat-excess" {
			ids = append(ids, f.ID)
		}
	})
	if err != nil {
		return []string{err.Error()}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func union(a ...[]string) []string {
	all := slices.Concat(a...)
	slices.Sort(all)
	return append([]string{}, slices.Compact(all)...)
}

func minus(a []string, b ...string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// expected is the expected result for a pair of faults: that of each of them, with the
// exceptions here.
func expected(a, b fault) (found, mended, left []string, because string) {
	found, mended, left = union(a.found, b.found), union(a.mended, b.mended), union(a.left, b.left)
	has := func(names ...string) bool { return slices.Contains(names, a.name) || slices.Contains(names, b.name) }
	cut := has("trailing footer gone", "torn last block")
	switch {
	case has("footers differ") && (cut || has("both footer checksums", "leading footer damaged")):
		found = minus(found, "footers-differ")
		mended = minus(mended, "footers-differ")
		if has("both footer checksums") {
			mended = union(mended, []string{"leading-footer"})
		}
		because = "only two valid copies can differ"
	case has("both footer checksums") && cut:
		found, because = minus(found, "leading-footer"), "the copy at the start is the only one"
	case has("excess entry") && has("orphan"):
		mended, left = minus(mended, "bat-excess"), union(left, []string{"bat-excess"})
		because = "the entry refers to the orphan, so the size is in doubt"
	}
	if !has("header gone") {
		return found, mended, left, because
	}
	found = minus(found, "bat-beyond-end", "bat-over-metadata", "bat-overlap", "bat-excess", "leak", "header-checksum")
	mended, left = minus(mended, "header-checksum"), []string{}
	switch {
	case has("impossible entry", "entry over metadata", "overlap", "excess entry", "orphan"):
		mended, left, because = []string{}, found, "a header is rebuilt only if it leads to blocks without faults"
	case has("both footer checksums", "torn last block"):
		mended, left, because = []string{}, found, "a header is rebuilt only from a valid footer, in a file that has all blocks"
	}
	return found, mended, left, because
}

// TestPairsOfFaults repairs the image with each fault, and with each pair of faults.
func TestPairsOfFaults(t *testing.T) {
	m := newMixture(4 * kib)
	undoName := filepath.Join(t.TempDir(), "undo")
	none := fault{name: "nothing", do: func(_ *mixture, file []byte) []byte { return file }}
	for i, a := range append([]fault{none}, faults...) {
		for _, b := range faults[max(0, i-1):] {
			if a.name == b.name {
				continue
			}
			t.Run(a.name+" and "+b.name, func(t *testing.T) {
				file := b.do(m, a.do(m, slices.Clone(m.good)))
				found, mended, left, because := expected(a, b)
				if got := kindsOf(t, file); !slices.Equal(got, found) {
					t.Errorf("check finds %q, want %q (%s)", got, found, because)
				}
				after, report := promised(t, file, vhd.RepairOptions{All: true}, undoName)
				var did []string
				for _, x := range report.Done {
					did = append(did, x.ID)
				}
				if did = union(did); !slices.Equal(did, mended) {
					t.Errorf("repaired are %q, want %q (%s)", did, mended, because)
				}
				if got := kindsOf(t, after); !slices.Equal(got, left) {
					t.Errorf("after the repair check finds %q, want %q (%s)", got, left, because)
				}
				var why []string
				for _, x := range report.Left {
					why = append(why, x.ID)
					if x.Reason == "" || strings.HasPrefix(x.Reason, ";") || x.Count < 1 {
						t.Errorf("%+v has no reason", x)
					}
				}
				if why = union(why); !slices.Equal(why, left) {
					t.Errorf("there are reasons for %q, want them for %q", why, left)
				}
				m.unchanged(t, file, after, report.Done)
			})
		}
	}
}

// TestCraftedDamages tests the promises of every repair with each crafted damage.
func TestCraftedDamages(t *testing.T) {
	undoName := filepath.Join(t.TempDir(), "undo")
	forDamages(t, func(t *testing.T, d *damage) { promised(t, d.file, d.o, undoName) })
}

// unchanged tests that each sector that could be read before a repair has the same contents. No
// other sector may have received data, unless the repair names it.
func (m *mixture) unchanged(t tb, before, after []byte, done []vhd.Repaired) {
	t.Helper()
	was, had, _ := m.readable(before)
	is, has, whole := m.readable(after)
	for s := range had {
		off := int64(s) * sector
		if had[s] && !named(done, off) && (!has[s] || !bytes.Equal(was[off:off+sector], is[off:off+sector])) {
			t.Fatalf("sector %d of the disk has changed and is not named; done: %q", s, done)
		}
		if !had[s] && whole[s] && !named(done, off) {
			t.Fatalf("sector %d of the disk could not be read, has data now and is not named; done: %q", s, done)
		}
	}
}
