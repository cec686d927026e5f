package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// found returns the findings of a check in their order.
func found(t *testing.T, b []byte, o *vhd.CheckOptions) []string {
	t.Helper()
	var got []string
	n := vhd.Counts{}
	counts, err := checkImage(bytes.NewReader(b), int64(len(b)), o, func(f vhd.Finding) {
		got = append(got, fmt.Sprintf("%v %s", f.Severity, f.ID))
		switch f.Severity {
		case vhd.Error:
			n.Errors += f.Faults()
		case vhd.Warning:
			n.Warnings += f.Faults()
		}
		if f.Field == "" || f.Got == "" || f.Want == "" || f.Offset < 0 || f.Offset > int64(len(b)) {
			t.Errorf("finding %+v does not say what is wrong where", f)
		}
		checkNumber(t, f)
	})
	if err != nil {
		t.Fatal(err)
	}
	if counts.Errors != n.Errors || counts.Warnings != n.Warnings {
		t.Errorf("%d errors and %d warnings are counted, %d and %d were reported", counts.Errors, counts.Warnings, n.Errors, n.Warnings)
	}
	return got
}

func TestCheckFindings(t *testing.T) {
	data := pattern(4*kib, 1)
	two := func(bat map[int]uint32, es ...edit) []byte {
		return craft{size: 8 * kib, blocks: []block{{0, 4, nil, data}, {1, 13, nil, data}}, bat: bat, header: es}.bytes()
	}
	fix := func(es ...edit) []byte { return fixedImage(data, es...) }
	dyn := two(nil)
	end := len(dyn) - 512
	leading := func(f []byte) []byte { return append(slices.Clone(f), dyn[512:]...) }
	early := &vhd.CheckOptions{Now: time.Date(2016, 2, 19, 8, 0, 0, 0, time.UTC)}
	for _, c := range []struct {
		name string
		file []byte
		want []string
	}{
		// Nothing is wrong.
		{"fixed", fix(), nil},
		{"fixed, 511 bytes of footer", fix()[:4*kib+511], nil},
		{"fixed, temporary", fix(u32(8, 3)), nil},
		{"fixed, geometry of the specification", fixedImage(make([]byte, mib), geometry(30, 4, 17)), nil},
		{"fixed, geometry of the same size", fixedImage(make([]byte, 68*sector), geometry(1, 4, 17)), nil},
		{"fixed, hidden by XenServer", fix(creator("tap\x00"), u8(85, 1)), nil},
		{"dynamic", dyn, nil},
		{"dynamic, no blocks", headerOf(), nil},
		{"dynamic, table padded with zeros", craft{size: 8 * kib, entries: 2, bat: map[int]uint32{100: 0}}.bytes(), nil},
		{"dynamic, blocks not in order", two(map[int]uint32{0: 13, 1: 4}), nil},
		{"differencing", craft{size: 8 * kib, footer: []edit{u32(60, differencing)}, header: []edit{text(40, "the parent's id"), text(64, "name")}}.bytes(), nil},
		{"created fixed", create(t, &vhd.CreateOptions{Type: vhd.Fixed, Size: mib}).bytes(), nil},
		{"created dynamic", create(t, &vhd.CreateOptions{Size: mib}).bytes(), nil},
		{"created for XenServer", create(t, &vhd.CreateOptions{Size: mib, Creator: vhd.CreatorXenServer}).bytes(), nil},
		{"created, exact", create(t, &vhd.CreateOptions{Size: 12345, Exact: true, BlockSize: 4096}).bytes(), nil},

		// The footer.
		{"checksum", spoil(fix(), 4*kib+64, 4), []string{"error footer-checksum"}},
		{"checksum of both copies", spoil(spoil(dyn, 64, 4), end+64, 4), []string{"error footer-checksum", "error leading-footer"}},
		{"version", fix(u32(12, 0x00020000)), []string{"error footer-version"}},
		{"type 0", append(slices.Clone(data), footerBytes(0, 4096)...), []string{"error disk-type"}},
		{"type 5", append(slices.Clone(data), footerBytes(5, 4096)...), []string{"error disk-type"}},
		{"no features", fix(u32(8, 0)), []string{"warning footer-features"}},
		{"unknown features", fix(u32(8, 6)), []string{"warning footer-features"}},
		{"reserved bytes", fix(text(300, "x")), []string{"warning footer-reserved"}},
		{"hidden flag of another program", fix(u8(85, 1)), []string{"warning footer-reserved"}},
		{"saved state", fix(u8(84, 1)), []string{"warning saved-state"}},
		{"saved state of 2", fix(u8(84, 2)), []string{"warning saved-state"}},
		{"fixed with an offset", fix(u64(16, 512)), []string{"warning fixed-data-offset"}},
		{"fixed with 32 ones", fix(u64(16, 0xffffffff)), []string{"warning fixed-data-offset"}},
		{"size 0", fixedImage(nil), []string{"error current-size"}},
		{"size is not whole sectors", footerOf(currentSize(8*kib - 1)), []string{"warning current-size"}},
		{"size beyond 2040 GiB", footerOf(currentSize(2040*gib + 512)), []string{"warning large-disk", "error bat-too-small"}},
		{"fixed of impossible size", fix(currentSize(1<<63 + 512)), []string{"error current-size", "error fixed-length"}},
		{"geometry too small", fixedImage(make([]byte, mib), geometry(29, 4, 17)), []string{"warning geometry"}},
		{"geometry of qemu that ends before the current size", fixedImage(make([]byte, mib), creator("qemu"), geometry(30, 4, 17)), []string{"warning geometry-size"}},
		{"geometry of Virtual PC that ends before the current size", fixedImage(make([]byte, mib), creator("vpc "), geometry(29, 4, 17)), []string{"warning geometry-size"}},
		{"geometry of qemu that ends past the current size", fixedImage(make([]byte, mib), creator("qemu"), geometry(31, 4, 17)), []string{"warning geometry"}},
		{"geometry too large", fixedImage(make([]byte, mib), geometry(31, 4, 17)), []string{"warning geometry"}},
		{"geometry of zeros", fix(geometry(0, 0, 0)), []string{"warning geometry"}},
		{"no id", fix(text(68, strings.Repeat("\x00", 16))), []string{"warning unique-id"}},
		{"fixed, data missing", fix(currentSize(4*kib + 512)), []string{"error fixed-length"}},
		{"fixed, more than the size", fix(currentSize(4*kib - 512)), []string{"warning fixed-slack"}},
		{"torn tail", append(fix(), 1, 2, 3), []string{"warning file-length"}},
		{"all at once", fix(u32(8, 0), text(300, "x"), u8(84, 1)), []string{"warning footer-features", "warning footer-reserved", "warning saved-state"}},

		// Both footers.
		{"trailing missing", dyn[:end], []string{"error trailing-footer"}},
		{"trailing spoilt", spoil(dyn, end+9, 1), []string{"error trailing-footer"}},
		{"only a leading copy of a fixed disk", append(footerBytes(fixed, 4096), data...), []string{"error trailing-footer"}},
		{"leading missing", spoil(dyn, 0, 512), []string{"error leading-footer"}},
		{"leading spoilt", spoil(dyn, 100, 1), []string{"error leading-footer"}},
		{"leading of another time", leading(footerBytes(dynamic, 8*kib, u32(24, 7))), []string{"error footers-differ"}},
		{"leading of another type", leading(footerBytes(differencing, 8*kib)), []string{"error footers-differ"}},

		// The header.
		{"no header", footerOf(u64(16, 8192)), []string{"error data-offset"}},
		{"header not at a sector", footerOf(u64(16, 513)), []string{"error data-offset"}},
		{"header's cookie", headerOf(text(0, "cxsparsE")), []string{"error header-cookie"}},
		{"header's checksum", spoil(dyn, 512+36, 4), []string{"error header-checksum"}},
		{"header's version", headerOf(u32(24, 0x00020000)), []string{"error header-version"}},
		{"header's offset", headerOf(u64(8, 0)), []string{"warning header-data-offset"}},
		{"header's offset of 32 ones", headerOf(u64(8, 0xffffffff)), []string{"warning header-data-offset"}},
		{"block size", headerOf(u32(32, 5000)), []string{"error block-size"}},
		{"block size not supported", headerOf(u32(32, 2048)), []string{"error block-size"}},
		{"header's reserved bytes", headerOf(text(1023, "x")), []string{"warning header-reserved"}},
		{"header's other reserved bytes", headerOf(u32(60, 1)), []string{"warning header-reserved"}},
		{"parent's id", headerOf(text(40, "x")), []string{"warning dynamic-parent"}},
		{"parent's time", headerOf(u32(56, 1)), []string{"warning dynamic-parent"}},
		{"parent's name", headerOf(text(64, "x")), []string{"warning dynamic-parent"}},
		{"parent's locators", headerOf(text(600, "x")), []string{"warning dynamic-parent"}},

		// The table.
		{"table not at a sector", headerOf(u64(16, 1537)), []string{"error table-offset"}},
		{"table over the header", headerOf(u64(16, 1024)), []string{"error table-offset"}},
		{"more entries than the file has space for", headerOf(u32(28, 1000)), []string{"error max-table-entries"}},
		{"a spare entry", craft{size: 8 * kib, entries: 3}.bytes(), []string{"warning max-table-entries"}},
		{"too few entries", headerOf(u32(28, 1)), []string{"error bat-too-small"}},
		{"block over the header", craft{size: 4 * kib, bat: map[int]uint32{0: 2}, end: 12 * sector}.bytes(), []string{"error bat-over-metadata"}},
		{"block beyond the end", two(map[int]uint32{1: 14}), []string{"error bat-beyond-end"}},
		{"two blocks beyond the end", two(map[int]uint32{0: 1000, 1: 2000}), []string{"error bat-beyond-end", "leak leak"}},
		{"blocks over each other", two(map[int]uint32{1: 12}), []string{"error bat-overlap"}},
		{"blocks in one place", two(map[int]uint32{1: 4}), []string{"error bat-overlap", "leak leak"}},
		{"spare entries in use", craft{size: 8 * kib, entries: 4, bat: map[int]uint32{2: 4, 3: 0}}.bytes(), []string{"warning max-table-entries", "warning bat-excess"}},
		// Another size rule shows bytes that the geometry hides.
		{
			"block past the size of the geometry, past the end of the file",
			craft{size: 160 * sector, bat: map[int]uint32{19: 1000}, footer: []edit{creator("vpc "), geometry(2, 4, 17)}}.bytes(),
			[]string{"error bat-beyond-end"},
		},
		{"space of a block", two(map[int]uint32{1: unused}), []string{"leak leak"}},
		{"space of almost a block", craft{size: 8 * kib, end: (4 + 8) * 512}.bytes(), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := found(t, c.file, nil)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("findings (-want +got):\n%s", d)
			}
			// Open refuses an image for errors, and for nothing else.
			_, err := vhd.NewImage(bytes.NewReader(c.file), int64(len(c.file)), nil)
			isError := slices.ContainsFunc(got, func(s string) bool {
				return strings.HasPrefix(s, "error") && !slices.Contains([]string{"error trailing-footer", "error leading-footer", "error footers-differ", "error current-size"}, s) || strings.Contains(c.name, "only a leading")
			})
			if isError != (err != nil) && !strings.HasPrefix(c.name, "differencing") {
				t.Errorf("findings %q, and Open says: %v", got, err)
			}
			var refused *vhd.FormatError
			if errors.As(err, &refused) { // with the text of one of the findings
				fs, _ := findings(t, c.file)
				if !slices.ContainsFunc(fs, func(f vhd.Finding) bool {
					return f.Offset == refused.Offset && f.Field == refused.Field && f.Got == refused.Got && f.Want == refused.Want
				}) {
					t.Errorf("Open says %q, and check: %q", err, fs)
				}
			}
		})
	}
	if got := found(t, fix(), early); !slices.Equal(got, []string{"warning timestamp"}) {
		t.Errorf("made in the future: %q", got)
	}
	if got := found(t, fix(), &vhd.CheckOptions{Now: early.Now.Add(time.Hour)}); got != nil {
		t.Errorf("made in the past: %q", got)
	}
	for _, b := range [][]byte{nil, {1}, make([]byte, 4096), pattern(5000, 1)} {
		_, err := checkImage(bytes.NewReader(b), int64(len(b)), nil, func(f vhd.Finding) { t.Errorf("%d bytes that are no VHD: %v", len(b), f) })
		if !errors.Is(err, vhd.ErrNotVHD) {
			t.Errorf("%d bytes that are no VHD: %v, want ErrNotVHD", len(b), err)
		}
	}
}

// A finding has its offset, its block and its bytes on the disk; an error has the same.
func TestFindingTellsThePlace(t *testing.T) {
	b := craft{size: 8 * kib, bat: map[int]uint32{1: 1000}}.bytes()
	fs, _ := findings(t, b)
	if len(fs) != 1 {
		t.Fatalf("findings %v, want one", fs)
	}
	f := fs[0]
	if f.Offset != 1536+4 || f.Field != "BAT entry 1" || !strings.Contains(f.Got, "sector 1000") || !strings.Contains(f.Want, "2048") {
		t.Errorf("finding %+v, want entry 1 at 1540, sector 1000, and the end at 2048", f)
	}
	if want := "BAT entry 1 points at sector 1000, past the end of the file: bytes 4096 to 8191 of the disk"; f.String() != want {
		t.Errorf("shown as %q, want %q", f, want)
	}
}

func TestCheckCounts(t *testing.T) {
	const stored = 9 // sectors
	c := craft{
		size: 5 * 4 * kib,
		blocks: []block{
			{0, 4, nil, nil},
			{1, 13, nil, nil}, // right after block 1
			{3, 40, nil, nil}, // after a gap of two blocks
			{4, 31, nil, nil}, // before the others
		},
		end: 70 * sector,
	}
	for _, x := range []struct {
		name string
		file []byte
		want vhd.Counts
		leak []string
	}{
		{
			"fixed", fixedImage(make([]byte, 12345*512)),
			vhd.Counts{Size: 12345 * 512, End: 12346 * 512},
			nil,
		},
		{
			"dynamic", c.bytes(),
			vhd.Counts{
				Size: 20 * kib, BlockSize: 4 * kib, Blocks: 5, Allocated: 4, Fragmented: 2, Leaked: 1 + 2, End: 71 * sector,
			},
			[]string{
				fmt.Sprintf("%d: %d bytes, space for 1 blocks", 22*sector, stored*sector),
				fmt.Sprintf("%d: %d bytes, space for 2 blocks", 49*sector, 21*sector),
			},
		},
		{
			"dynamic, empty", craft{size: 20*kib - 1536}.bytes(),
			vhd.Counts{Size: 20*kib - 1536, BlockSize: 4 * kib, Blocks: 5, End: 5 * sector},
			nil,
		},
		{
			"dynamic without trailing footer", craft{size: 4 * kib, blocks: []block{{0, 4, nil, nil}}}.bytes()[:13*sector],
			vhd.Counts{Size: 4 * kib, BlockSize: 4 * kib, Blocks: 1, Allocated: 1, End: 13 * sector, Missing: 512, Errors: 1},
			nil,
		},
	} {
		t.Run(x.name, func(t *testing.T) {
			fs, n := findings(t, x.file)
			if d := cmp.Diff(x.want, n); d != "" {
				t.Errorf("counts (-want +got):\n%s", d)
			}
			var leaks []string
			for _, f := range fs {
				if f.Severity == vhd.Leak {
					leaks = append(leaks, fmt.Sprintf("%d: %s", f.Offset, f.Got))
				}
			}
			if d := cmp.Diff(x.leak, leaks); d != "" {
				t.Errorf("leaks (-want +got):\n%s", d)
			}
		})
	}
}

// Read errors end the check, and are no findings.
func TestCheckReadError(t *testing.T) {
	dyn, _ := twoBlocks()
	for at := range len(dyn) / 512 {
		if at >= 4 && at != len(dyn)/512-1 {
			continue // blocks are not read
		}
		broken := errors.New("broken")
		r := readerFunc(func(p []byte, off int64) (int, error) {
			if off <= int64(at)*512 && int64(at)*512 < off+int64(len(p)) {
				return 0, broken
			}
			return bytes.NewReader(dyn).ReadAt(p, off)
		})
		if _, err := checkImage(r, int64(len(dyn)), nil, func(f vhd.Finding) { t.Errorf("sector %d: %v", at, f) }); !errors.Is(err, broken) {
			t.Errorf("sector %d cannot be read: %v", at, err)
		}
		if _, err := vhd.NewImage(r, int64(len(dyn)), nil); !errors.Is(err, broken) {
			t.Errorf("sector %d cannot be read: NewImage: %v", at, err)
		}
	}
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

var _ io.ReaderAt = readerFunc(nil)

// Consecutive entries with the same fault are one finding with their number.
func TestFindingsOfEntriesInARow(t *testing.T) {
	bat := map[int]uint32{}
	c := craft{size: 40 * 4 * kib, bat: bat, blocks: []block{{0, 5, nil, nil}}, end: 64 * sector}
	for i := 3; i < 10; i++ {
		bat[i] = 0
	}
	bat[9] = 2
	for i := 12; i < 15; i++ {
		bat[i] = uint32(1000 * i)
	}
	bat[20], bat[21], bat[23] = 5, 6, 5
	b := c.bytes()
	fs, n := findings(t, b)
	type row struct {
		ID, Field, Got string
		Count          int64
	}
	var got []row
	for _, f := range fs {
		if f.Severity == vhd.Error {
			got = append(got, row{f.ID, f.Field, f.Got, f.Count})
		}
	}
	want := []row{
		{"bat-over-metadata", "BAT entries 3 to 8", "sector 0, blocks that overlap the copy of the footer", 6},
		{"bat-over-metadata", "BAT entry 9", "sector 2, a block that overlaps the dynamic disk header", 1},
		{"bat-beyond-end", "BAT entries 12 to 14", "sectors 12000 to 14000, blocks that end at byte 6148608 or later", 3},
		{"bat-overlap", "BAT entry 20", "sector 5, a block that overlaps that of entry 0 at sector 5", 1},
		{"bat-overlap", "BAT entry 23", "sector 5, a block that overlaps that of entry 0 at sector 5", 1},
		{"bat-overlap", "BAT entry 21", "sector 6, a block that overlaps that of entry 0 at sector 5", 1},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("findings (-want +got):\n%s", d)
	}
	if n.Errors != 7+3+3 {
		t.Errorf("%d errors, want one for each entry", n.Errors)
	}
}

// Any number of equal entries is reported as overlapping.
func TestManyEqualEntries(t *testing.T) {
	for _, n := range []int{64, 128, 200, 4096, 5000} {
		c := craft{size: int64(n) * 4 * kib, bat: map[int]uint32{}}
		at := int64(1536+n*4+511) / sector
		c.blocks = []block{{0, at, nil, nil}}
		for i := range n {
			c.bat[i] = uint32(at)
		}
		fs, counts := findings(t, c.bytes())
		if len(fs) != 1 || fs[0].ID != "bat-overlap" || fs[0].Count != int64(n-1) || counts.Errors != int64(n-1) {
			t.Errorf("%d equal entries: findings %v, counts %+v", n, fs, counts)
		}
	}
}

// Breaking off the iteration ends the check, and nothing more is read.
func TestCheckBrokenOff(t *testing.T) {
	file := craft{size: 8 * kib, footer: []edit{u32(8, 0)}, bat: map[int]uint32{1: 1000}}.bytes()
	m := newMemFile(file)
	reads := 0
	m.reading = func(int64, int) { reads++ }
	c := vhd.NewChecker(m, m.size(), nil)
	for range c.Findings(context.Background()) {
		break
	}
	if n := c.Counts(); n.Warnings != 1 || n.Errors != 0 {
		t.Errorf("counts %+v, want the first finding", n)
	}
	before := reads
	if _, err := checkImage(m, m.size(), nil, func(vhd.Finding) {}); err != nil || reads-before <= before {
		t.Errorf("%d reads for one finding, %d for all (%v)", before, reads-before, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c = vhd.NewChecker(m, m.size(), nil)
	var last error
	seen := 0
	for _, err := range c.Findings(ctx) {
		cancel()
		last = err
		seen++
	}
	if !errors.Is(last, context.Canceled) || seen != 2 {
		t.Errorf("cancelled: %v after %d steps, want context.Canceled after the first finding", last, seen)
	}
}
