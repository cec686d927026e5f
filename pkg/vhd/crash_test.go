package vhd_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/chain"
)

// A recorder records every change of a file. It can produce the file as a power cut at any
// point leaves it.
type recorder struct {
	*memFile
	start []byte
	log   []change
	known []string // findings of a check before the first change and after the last one
}

func record(b []byte) *recorder {
	r := &recorder{memFile: newMemFile(b), start: slices.Clone(b)}
	r.before = func(c change) (int, error) {
		r.log = append(r.log, change{c.op, c.off, slices.Clone(c.data)})
		return len(c.data), nil
	}
	return r
}

// lastSync returns the number of changes up to and including the last flush among the first k.
func (r *recorder) lastSync(k int) int {
	for k > 0 && r.log[k-1].op != "sync" {
		k--
	}
	return k
}

// ofLength represents the length of the file instead of a sector.
const ofLength = -1

// cut returns the file after a power cut after the first k changes. Flushed changes are in it.
// Of later changes, each sector, and the file's length, show the state of some moment, which
// when returns. A sector is never torn.
func (r *recorder) cut(k int, when func(sector int64) int) []byte {
	synced := r.lastSync(k)
	moments := map[int64]int{}
	moment := func(s int64) int {
		if _, ok := moments[s]; !ok {
			moments[s] = when(s)
		}
		return moments[s]
	}
	b := slices.Clone(r.start)
	length := len(b)
	for i, c := range r.log[:k] {
		durable := i < synced
		switch c.op {
		case "truncate":
			if durable || i < moment(ofLength) {
				length = int(c.off)
			}
			// A durable length has removed the bytes after it.
			if durable && length < len(b) {
				b = b[:length]
			}
		case "write":
			end := int(c.off) + len(c.data)
			if end > len(b) {
				b = append(b, make([]byte, end-len(b))...)
			}
			if durable || i < moment(ofLength) {
				length = max(length, end)
			}
			for p, at := c.data, c.off; len(p) > 0; {
				n := min(int64(len(p)), sector-at%sector)
				if durable || i < moment(at/sector) {
					copy(b[at:], p[:n])
				}
				p, at = p[n:], at+n
			}
		}
	}
	if length <= len(b) {
		return b[:length]
	}
	return append(b, make([]byte, length-len(b))...)
}

// subset returns the file after a power cut after the first k changes. Of the changes that were
// not flushed, those in the mask have reached the file. A sector has all earlier writes to it.
func (r *recorder) subset(k int, mask uint) []byte {
	synced := r.lastSync(k)
	return r.cut(k, func(s int64) int {
		last := synced
		for i, c := range r.log[synced:k] {
			end := c.off + int64(len(c.data))
			touches := c.op == "write" && s >= c.off/sector && s*sector < end
			if mask>>i&1 == 1 && (touches || s == ofLength) {
				last = synced + i + 1
			}
		}
		return last
	})
}

// allSubsets is the most unflushed changes of which every subset is tried.
var allSubsets = func() int {
	if os.Getenv("VHDTOOL_TORTURE") != "" {
		return 10
	}
	return 5
}()

// cuts calls f with files as power cuts leave them, at every point. These are the file with all
// changes, and every subset of the unflushed changes if these are few. There are also random
// parts of them, sector by sector.
func (r *recorder) cuts(t *testing.T, rnd *rand.Rand, each int, f func(k int, file []byte)) {
	t.Helper()
	tried := 0
	defer func() { t.Logf("%d power cuts at %d changes", tried, len(r.log)) }()
	call := f
	f = func(k int, file []byte) {
		tried++
		call(k, file)
	}
	for k := range len(r.log) + 1 {
		synced := r.lastSync(k)
		f(k, r.cut(k, func(int64) int { return k }))
		if synced == k {
			continue
		}
		if k-synced <= allSubsets {
			for mask := range uint(1) << (k - synced) {
				f(k, r.subset(k, mask))
			}
		}
		for i := range each {
			f(k, r.cut(k, func(int64) int {
				if i%2 == 0 { // all or nothing
					return []int{synced, k}[rnd.IntN(2)]
				}
				return synced + rnd.IntN(k-synced+1)
			}))
		}
	}
}

// left checks the file that a power cut after the first k changes leaves. It may have only the
// faults that docs/reliability.md names ("After a crash"):
//
//   - findings of a check of the image before, or in the end,
//   - leaked space, and a copy of the footer that differs,
//   - no trailing footer in a file that has become longer since the last flush,
//   - with resize, more BAT entries than the disk has blocks, and a wrong checksum of
//     XenServer's batmap.
//
// left returns whether 'check -r all' has something to do.
func (r *recorder) left(t *testing.T, k int, file []byte, resize bool) bool {
	t.Helper()
	allowed := []string{"leak", "footers-differ"}
	if resize {
		allowed = append(allowed, "max-table-entries", "bat-excess", "batmap-checksum")
	}
	if r.known == nil {
		for _, b := range [][]byte{r.start, r.bytes()} {
			fs, _ := findings(t, b)
			for _, f := range fs {
				r.known = append(r.known, f.ID)
			}
		}
	}
	allowed = append(allowed, r.known...)
	synced := r.lastSync(k)
	if len(file) > len(r.cut(synced, func(int64) int { return synced })) {
		allowed = append(allowed, "trailing-footer")
	}
	repair := false
	fs, _ := findings(t, file)
	for _, f := range fs {
		if !slices.Contains(allowed, f.ID) {
			t.Errorf("cut after change %d of %d: check: %s: %v", k, len(r.log), f.ID, f)
		}
		repair = repair || !slices.Contains(r.known, f.ID)
	}
	return repair
}

// repairs runs 'check -r all --discard-orphans' twice on a file that a power cut has left. Then
// a check has only the findings of the image before, or in the end, and unused entries.
func (r *recorder) repairs(t *testing.T, k int, file []byte) {
	t.Helper()
	m := newMemFile(file)
	m.mode = r.mode
	for range 2 { // the first may change BAT entries, and then returns no space
		if _, err := repaired(context.Background(), m, m.size(), &vhd.RepairOptions{All: true, DiscardOrphans: true}); err != nil {
			t.Fatalf("cut after change %d of %d: repair: %v", k, len(r.log), err)
		}
	}
	fs, _ := findings(t, m.bytes())
	for _, f := range fs {
		if f.ID != "max-table-entries" && !slices.Contains(r.known, f.ID) {
			t.Errorf("cut after change %d of %d, and repaired: check: %s: %v", k, len(r.log), f.ID, f)
		}
	}
}

// A state is the contents of the guest's disk from the given number of changes to the file on.
type state struct {
	from     int
	contents []byte
}

// history is the activity of a guest.
type history struct {
	states []state
	synced []int // changes after which Sync had returned
	held   []int // the state at that moment
}

// allowed returns the states that a sector may have after a power cut after k changes.
func (h *history) allowed(k int) []state {
	first := 0
	for i, at := range h.synced {
		if at <= k {
			first = h.held[i]
		}
	}
	last := first
	for i := first + 1; i < len(h.states) && h.states[i].from < k; i++ {
		last = i
	}
	return h.states[first : last+1]
}

// session lets a guest write to the image in the file, sync now and then, and close it. parent
// is the raw parent of a differencing image.
func session(t *testing.T, r *recorder, parent []byte, rnd *rand.Rand, steps int) history {
	t.Helper()
	img, err := vhd.NewImage(r, r.size(), withParent(parent, true))
	if err != nil {
		t.Fatal(err)
	}
	now := readAll(t, img)
	h := history{states: []state{{0, slices.Clone(now)}}}
	next := func(p []byte, off int) {
		copy(now[off:], p)
		h.states = append(h.states, state{len(r.log), slices.Clone(now)})
	}
	for i := range steps {
		off := rnd.IntN(len(now))
		if rnd.IntN(2) == 0 {
			off = off / sector * sector
		}
		n := min(1+rnd.IntN(6*kib), len(now)-off)
		switch rnd.IntN(6) {
		case 0, 1:
			syncImage(t, img)
			h.synced, h.held = append(h.synced, len(r.log)), append(h.held, len(h.states)-1)
		case 2:
			next(make([]byte, n), off)
			if err := img.WriteZeroes(int64(off), int64(n)); err != nil {
				t.Fatal(err)
			}
		default:
			p := pattern(n, byte(i))
			next(p, off)
			write(t, img, p, int64(off))
		}
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	h.synced, h.held = append(h.synced, len(r.log)), append(h.held, len(h.states)-1)
	return h
}

// holds checks that every sector has one of its allowed states.
func holds(t tb, got []byte, allowed []state) {
	t.Helper()
	if len(got) != len(allowed[0].contents) {
		t.Fatalf("the disk has %d bytes, want %d", len(got), len(allowed[0].contents))
	}
	for at := 0; at < len(got); at += sector {
		if !slices.ContainsFunc(allowed, func(s state) bool { return bytes.Equal(s.contents[at:at+sector], got[at:at+sector]) }) {
			t.Fatalf("sector %d has none of the %d contents that it had since the last Sync", at/sector, len(allowed))
		}
	}
}

// withParent opens an image whose raw parent, if not nil, has these bytes.
func withParent(parent []byte, write bool) *vhd.OpenOptions {
	o := &vhd.OpenOptions{Write: write}
	if parent != nil {
		o.Parent = raw.Open(newMemFile(parent), int64(len(parent)))
	}
	return o
}

// A crashStart is the image at the start of a session.
type crashStart struct {
	file   []byte
	parent []byte // of a differencing image
	device bool
}

// mode is the mode of the file.
func (s *crashStart) mode() fs.FileMode {
	if s.device {
		return fs.ModeDevice
	}
	return 0
}

// written makes a new image with some written sectors.
func written(t *testing.T, o *vhd.CreateOptions) []byte {
	t.Helper()
	m := newMemFile(nil)
	img, err := vhd.CreateIn(m, o)
	must(t, err)
	write(t, img, pattern(5000, 4), 7000)
	must(t, img.Close())
	return m.bytes()
}

func crashStarts(t *testing.T) map[string]crashStart {
	t.Helper()
	const blockSize = 4 * kib
	bits := func(b byte) []byte { return append([]byte{b}, make([]byte, 511)...) }
	partial := craft{size: 10*blockSize - 3*sector, blocks: []block{
		{1, 13, bits(0x0f), pattern(blockSize, 1)},
		{0, 4, nil, pattern(blockSize, 2)},
		{5, 22, bits(0xa6), pattern(blockSize, 3)},
	}}
	whole := partial.bytes()
	end := len(whole) - 512
	stale := slices.Clone(whole)
	copy(stale, footerBytes(dynamic, partial.size, u32(24, 1)))
	starts := map[string][]byte{
		"new":                     create(t, &vhd.CreateOptions{Size: 10 * blockSize, Exact: true, BlockSize: blockSize}).bytes(),
		"new, of whole pages":     create(t, &vhd.CreateOptions{Size: 10 * blockSize, Exact: true, BlockSize: blockSize, FileAlign: 4096}).bytes(),
		"of whole pages":          written(t, &vhd.CreateOptions{Size: 10 * blockSize, Exact: true, BlockSize: blockSize, FileAlign: 4096}),
		"aligned":                 written(t, &vhd.CreateOptions{Size: 10 * blockSize, Exact: true, BlockSize: blockSize}),
		"blocks in part":          whole,
		"leading footer of old":   stale,
		"leading footer spoilt":   spoil(whole, 0, 512),
		"trailing footer missing": whole[:end],
		"trailing footer spoilt":  spoil(whole, end, 512),
		"footer of 511 bytes":     whole[:len(whole)-1],
		"torn tail":               append(slices.Clone(whole), pattern(100, 1)...),
		"table after the blocks": craft{
			size: 10 * blockSize, tableAt: 40 * sector, blocks: []block{{3, 3, nil, pattern(blockSize, 1)}},
		}.bytes(),
	}
	all := map[string]crashStart{}
	for name, file := range starts {
		all[name] = crashStart{file: file}
	}
	child := partial
	child.footer, child.header = []edit{u32(60, differencing)}, []edit{text(64, "\x00p")}
	parent := pattern(9*blockSize, 77) // zeros follow it
	all["child"] = crashStart{file: child.bytes(), parent: parent}
	all["empty child"] = crashStart{file: craft{size: 10 * blockSize, footer: child.footer, header: child.header}.bytes(), parent: parent}
	all["child with parent's zeros"] = crashStart{file: child.bytes(), parent: append(make([]byte, 4*blockSize), parent[:4*blockSize]...)}
	for name, c := range map[string]craft{"device": partial, "child on a device": child} {
		c.end = 250 * sector
		start := crashStart{file: c.bytes(), device: true}
		used := (22 + 1 + blockSize/sector) * sector // end of the last block
		copy(start.file[used:c.end], pattern(int(c.end)-used, 44))
		if name != "device" {
			start.parent = parent
		}
		all[name] = start
	}
	return all
}

// After a power cut at any point of a session the image opens, holds the synced data, and has
// no damage. It can be written again.
func TestCrashInPlace(t *testing.T) {
	for name, start := range crashStarts(t) {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(2) {
				rnd := rand.New(rand.NewPCG(seed, 7))
				r := record(start.file)
				r.mode = start.mode()
				h := session(t, r, start.parent, rnd, 25)
				n := 0
				r.cuts(t, rnd, 6, func(k int, file []byte) {
					img, err := vhd.NewImage(bytes.NewReader(file), int64(len(file)), withParent(start.parent, false))
					if err != nil {
						t.Fatalf("seed %d, cut after change %d of %d: %v", seed, k, len(r.log), err)
					}
					allowed := h.allowed(k)
					holds(t, readAll(t, img), allowed)
					repair := r.left(t, k, file, false)
					if n++; n%5 == 0 {
						goOn(t, file, &start)
						if repair {
							r.repairs(t, k, file)
						}
					}
					if t.Failed() {
						t.Fatalf("seed %d, cut after change %d of %d", seed, k, len(r.log))
					}
				})
			}
		})
	}
}

// goOn writes to an image that a power cut has left.
func goOn(t *testing.T, file []byte, start *crashStart) {
	t.Helper()
	m, parent := newMemFile(file), start.parent
	m.mode = start.mode()
	img, err := vhd.NewImage(m, m.size(), withParent(parent, true))
	if err != nil {
		t.Fatal(err)
	}
	want := readAll(t, img)
	for off := int64(100); off < img.Size(); off += 8 * kib {
		p := pattern(300, 99)
		write(t, img, p, off)
		copy(want[off:], p)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "contents of the image that was gone on with", readAll(t, openBytes(t, m.bytes(), withParent(parent, false))), want)
	// If no block was allocated, no footer had to be written.
	before, _ := findings(t, file)
	if slices.ContainsFunc(before, func(f vhd.Finding) bool { return f.ID == "trailing-footer" }) {
		noErrors(t, m.bytes(), "trailing-footer")
	} else {
		noErrors(t, m.bytes())
	}
}

// A new image is missing or complete.
func TestCrashOfCreate(t *testing.T) {
	const blockSize = 4 * kib
	for _, o := range []*vhd.CreateOptions{
		{Size: 6 * blockSize, Exact: true, BlockSize: blockSize},
		{Size: 6 * blockSize, Exact: true, Type: vhd.Fixed},
	} {
		t.Run(fmt.Sprint("type ", o.Type), func(t *testing.T) {
			r := record(nil)
			img, err := vhd.CreateIn(r, o)
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, o.Size)
			for off := 1000; off < len(want); off += 9000 {
				write(t, img, pattern(3000, 1), int64(off))
				copy(want[off:], pattern(3000, 1))
			}
			syncImage(t, img)
			opened := 0
			r.cuts(t, rand.New(rand.NewPCG(1, 1)), 100, func(k int, file []byte) {
				img, err := vhd.NewImage(bytes.NewReader(file), int64(len(file)), nil)
				if err != nil {
					if k == len(r.log) {
						t.Fatalf("after Sync: %v", err)
					}
					return
				}
				opened++
				sameBytes(t, fmt.Sprintf("contents, cut after change %d of %d", k, len(r.log)), readAll(t, img), want)
				// One of the two footers may be missing.
				fs, _ := findings(t, file)
				for _, f := range fs {
					if f.ID != "leading-footer" && f.ID != "trailing-footer" || len(fs) > 1 || k == len(r.log) {
						t.Errorf("cut after change %d of %d: check: %s: %v", k, len(r.log), f.ID, f)
					}
				}
			})
			if opened < 3 {
				t.Errorf("the image opened after %d cuts only", opened)
			}
		})
	}
}

// xenImage is an image of XenServer. It has a batmap after the BAT, with the bit of every
// second block set.
func xenImage(c craft) []byte {
	c.footer = append(slices.Clone(c.footer), creator("tap\x00"), u32(32, 0x00010003))
	c.blocks = slices.Clone(c.blocks)
	for i := range c.blocks {
		c.blocks[i].sector += 2
	}
	b := c.bytes()
	c.defaults()
	at := int(c.tableAt) + (c.entries*4+511)/512*512
	header, bits := b[at:at+512], b[at+512:at+1024]
	copy(header, "tdbatmap")
	be.PutUint64(header[8:], uint64(at+512))
	be.PutUint32(header[16:], 1)
	be.PutUint32(header[20:], 0x00010002)
	header[28] = 7
	for i, x := range c.blocks {
		if i%2 == 0 {
			bits[x.entry/8] |= 0x80 >> (x.entry % 8)
		}
	}
	s := uint32(0)
	for _, v := range bits {
		s += uint32(v)
	}
	be.PutUint32(header[24:], ^s)
	return b
}

// XenServer's batmap moves with the BAT, and has no bits of deallocated blocks.
func TestResizeBatmap(t *testing.T) {
	const blockSize = 4 * kib
	c := craft{size: 20 * blockSize}
	for i := range 10 {
		c.blocks = append(c.blocks, block{19 - 2*i, int64(4 + 9*i), nil, pattern(blockSize, byte(i))})
	}
	before := xenImage(c)
	fs, _ := findings(t, before)
	for _, f := range fs {
		if strings.HasPrefix(f.ID, "batmap") {
			t.Fatalf("the image is wrong from the start: %s: %v", f.ID, f)
		}
	}
	for _, blocks := range []int64{5, 20, 100, 300, 5000} {
		m := newMemFile(before)
		img := openMem(t, m)
		must(t, img.Resize(context.Background(), blocks*blockSize, nil))
		if marker, ok := img.Marker(); marker != 7 || !ok {
			t.Errorf("%d blocks: marker %d, %t", blocks, marker, ok)
		}
		must(t, img.Close())
		after := m.bytes()
		table := int(be.Uint64(after[512+16:]))
		at := table + int(be.Uint32(after[512+28:])*4+511)/512*512
		header := after[at : at+512]
		if string(header[:8]) != "tdbatmap" || header[28] != 7 {
			t.Fatalf("%d blocks: %q follows the BAT", blocks, header[:8])
		}
		bits := after[be.Uint64(header[8:]):][:be.Uint32(header[16:])*512]
		for i := range int64(len(bits)) * 8 {
			want := byte(0)
			if i < min(blocks, 20) && i%4 == 3 { // every second one of the blocks 19, 17, 15, ...
				want = 0x80 >> (i % 8)
			}
			if got := bits[i/8] & (0x80 >> (i % 8)); got != want {
				t.Errorf("%d blocks: bit of block %d is %#x, want %#x", blocks, i, got, want)
			}
		}
		fs, _ := findings(t, after)
		for _, f := range fs {
			if strings.HasPrefix(f.ID, "batmap") || f.Severity == vhd.Error {
				t.Errorf("%d blocks: %s: %v", blocks, f.ID, f)
			}
		}
		if img.BlockSize() != blockSize || int64(len(bits))*8 < blocks {
			t.Errorf("%d blocks: a map of %d bits", blocks, len(bits)*8)
		}
	}
}

// After a crash of a resize the disk has the old size or the new one.
func TestCrashOfResize(t *testing.T) {
	const blockSize = 4 * kib
	many := craft{size: 20 * blockSize}
	for i := range 10 {
		many.blocks = append(many.blocks, block{19 - 2*i, int64(4 + 9*i), nil, pattern(blockSize, byte(i))})
	}
	holed := craft{size: 8 * blockSize, footer: []edit{u32(24, 5)}, blocks: []block{
		{0, 200, nil, pattern(blockSize, 1)}, {7, 20, nil, pattern(blockSize, 2)}, {4, 150, nil, pattern(blockSize, 3)},
	}}
	staleLeading := holed.bytes()
	copy(staleLeading, footerBytes(dynamic, holed.size))
	// The disk has three blocks, and ends long before the footer.
	slack := append(pattern(5*blockSize, 1), footerBytes(fixed, 3*blockSize)...)
	for _, c := range []struct {
		name  string
		start []byte
		size  int64
	}{
		{"dynamic, grow within a block", craft{size: 3*blockSize - 1024, blocks: []block{{2, 4, nil, pattern(blockSize, 1)}}}.bytes(), 3 * blockSize},
		{"dynamic, grow within the table's sector", many.bytes(), 100 * blockSize},
		{"dynamic, grow beyond the table's sector", many.bytes(), 300 * blockSize},
		{"dynamic, shrink", many.bytes(), 7*blockSize + 512},
		{"dynamic, shrink to nothing", many.bytes(), 0},
		{"dynamic with holes, shrink", holed.bytes(), 5 * blockSize},
		{"dynamic with holes, grow", holed.bytes(), 200 * blockSize},
		{"dynamic, leading footer of old, shrink", staleLeading, 5 * blockSize},
		{"dynamic, leading footer of old, grow", staleLeading, 200 * blockSize},
		{"dynamic without trailing footer, grow", many.bytes()[:4*512+90*512], 300 * blockSize},
		{"dynamic without trailing footer, shrink", many.bytes()[:4*512+90*512], 2 * blockSize},
		{"with a batmap, grow within the table's sector", xenImage(many), 100 * blockSize},
		{"with a batmap, grow beyond the table's sector", xenImage(many), 300 * blockSize},
		{"with a batmap, shrink", xenImage(many), 7*blockSize + 512},
		{"fixed, grow", fixedImage(pattern(5*blockSize, 1)), 9 * blockSize},
		{"fixed, grow by a sector", fixedImage(pattern(5*blockSize, 1)), 5*blockSize + 512},
		{"fixed with space before the footer, grow into it", slack, 4 * blockSize},
		{"fixed with space before the footer, grow to it", slack, 5 * blockSize},
		{"fixed with space before the footer, grow beyond it", slack, 9 * blockSize},
		{"fixed with a torn tail, grow", append(fixedImage(pattern(5*blockSize, 1)), pattern(100, 1)...), 9 * blockSize},
		{"fixed with a torn tail, grow by a sector", append(fixedImage(pattern(5*blockSize, 1)), pattern(100, 1)...), 5*blockSize + 512},
		{"fixed, shrink", fixedImage(pattern(5*blockSize, 1)), 2 * blockSize},
		{"fixed, shrink by a sector", fixedImage(pattern(5*blockSize, 1)), 5*blockSize - 512},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := record(c.start)
			img, err := vhd.NewImage(r, r.size(), &vhd.OpenOptions{Write: true})
			if err != nil {
				t.Fatal(err)
			}
			old := readAll(t, img)
			typ, oldFooter := img.Type(), int(img.FooterOffset())
			if err := img.Resize(context.Background(), c.size, nil); err != nil {
				t.Fatal(err)
			}
			want := append(slices.Clone(old), make([]byte, max(0, int(c.size)-len(old)))...)[:c.size]
			sameBytes(t, "contents", readAll(t, img), want)
			done := len(r.log)
			if err := img.Close(); err != nil {
				t.Fatal(err)
			}
			r.cuts(t, rand.New(rand.NewPCG(1, 1)), 30, func(k int, file []byte) {
				img, err := vhd.NewImage(bytes.NewReader(file), int64(len(file)), nil)
				if err != nil && len(file) > len(c.start) && bytes.Equal(file[oldFooter:oldFooter+sector], c.start[oldFooter:oldFooter+sector]) && bytes.Equal(file[:len(old)], old) && typ == vhd.Fixed {
					// The new length of a fixed disk is durable, and its new footer is not.
					// That cannot be prevented, and the old footer is still at its offset.
					return
				}
				if err != nil {
					t.Fatalf("cut after change %d of %d: %v", k, len(r.log), err)
				}
				what := fmt.Sprintf("contents, cut after change %d of %d", k, len(r.log))
				got, right := readAll(t, img), want
				if len(got) == len(old) && k < done {
					right = slices.Clone(old)
				}
				if at := min(oldFooter, int(c.size)); img.Type() == vhd.Fixed && k < done && at < len(got) && string(got[at:at+8]) == "conectix" {
					// The footer has no other offset: its sector belongs to the part that the
					// disk gains or loses.
					right = slices.Clone(right)
					copy(right[at:], got[at:at+sector])
				}
				sameBytes(t, what, got, right)
				if r.left(t, k, file, true) {
					r.repairs(t, k, file)
				}
				if t.Failed() {
					t.Fatal(what)
				}
			})
		})
	}
}

// A differencing image gets another parent, or none, or is emptied. A power cut at any point
// leaves the old state or the new one.
func TestCrashOfRelink(t *testing.T) {
	const blockSize = 4 * kib
	bits := func(b byte) []byte { return append([]byte{b}, make([]byte, 511)...) }
	child := craft{
		size: 6 * blockSize, footer: []edit{u32(60, differencing)}, header: []edit{text(64, "\x00o\x00l\x00d")},
		blocks: []block{{1, 13, bits(0x0f), pattern(blockSize, 1)}, {0, 4, nil, pattern(blockSize, 2)}},
	}.bytes()
	long := vhd.Locator{Code: "W2ru", Path: `.\` + strings.Repeat("folder\\", 200) + "new"}
	parents := map[string][]byte{
		"old": append(pattern(3*blockSize, 5), make([]byte, 2*blockSize)...),
		"new": append(make([]byte, blockSize), pattern(4*blockSize, 6)...),
	}
	contents := func(t tb, file []byte) (string, []byte) {
		img := openBytes(t, file, &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
		name := img.ParentRecord().Name
		if img.Type() == vhd.Dynamic {
			return "", readAll(t, img)
		}
		return name, readAll(t, openBytes(t, file, withParent(parents[name], false)))
	}
	before := map[string][]byte{}
	for name, parent := range parents {
		before[name] = readAll(t, openBytes(t, child, withParent(parent, false)))
	}
	for _, c := range []struct {
		name string
		do   func(img *vhd.Image) error
		// after is the name of the parent at the end.
		after string
	}{
		{"name", func(img *vhd.Image) error { return img.SetParent(nil, vhd.ParentRecord{Name: "new"}) }, "new"},
		{"name and paths", func(img *vhd.Image) error {
			return img.SetParent(nil, vhd.ParentRecord{Name: "new", Locators: []vhd.Locator{long, {Code: "MacX", Path: "file://./new"}}})
		}, "new"},
		{"twice", func(img *vhd.Image) error {
			for _, name := range []string{"new", "old", "new"} {
				if err := img.SetParent(nil, vhd.ParentRecord{Name: name, Locators: []vhd.Locator{long}}); err != nil {
					return err
				}
			}
			return nil
		}, "new"},
		{"detach", func(img *vhd.Image) error { return img.Detach(context.Background(), nil) }, ""},
		{"empty", func(img *vhd.Image) error { return img.Empty(context.Background(), nil) }, "old"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := record(child)
			img, err := vhd.NewImage(r, r.size(), withParent(parents["old"], true))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.do(img); err != nil {
				t.Fatal(err)
			}
			if err := img.Close(); err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			r.cuts(t, rand.New(rand.NewPCG(1, 1)), 40, func(k int, file []byte) {
				what := fmt.Sprintf("contents, cut after change %d of %d", k, len(r.log))
				name, got := contents(t, file)
				seen[name] = true
				switch {
				case c.name == "empty":
					holds(t, got, []state{{0, before["old"]}, {0, append(slices.Clone(parents["old"]), make([]byte, blockSize)...)}})
				case name == "":
					sameBytes(t, what, got, before["old"])
				default:
					sameBytes(t, what, got, before[name])
				}
				if r.left(t, k, file, false) {
					r.repairs(t, k, file)
				}
				if t.Failed() {
					t.Fatal(what)
				}
			})
			name, _ := contents(t, r.bytes())
			if name != c.after || !seen["old"] || !seen[c.after] {
				t.Errorf("the parent is %q, want %q; seen after cuts: %v", name, c.after, seen)
			}
			if at := be.Uint64(r.bytes()[16:]); at != 512 {
				t.Errorf("the header is at %d when all is done, want 512", at)
			}
			if c.name == "empty" {
				if total, used := openBytes(t, r.bytes(), withParent(parents["old"], false)).BlockCounts(); used != 0 || r.size() > 4*kib {
					t.Errorf("%d of %d blocks are left, in a file of %d bytes", used, total, r.size())
				}
			}
		})
	}
}

// While an image is merged into its parent and emptied, its disk stays the same. After a power
// cut at any point each sector is read from one of the two files.
func TestCrashOfCommit(t *testing.T) {
	const blockSize = 4 * kib
	bits := func(b byte) []byte { return append([]byte{b}, make([]byte, 511)...) }
	id := text(68, parentID)
	bases := map[string][]byte{
		"dynamic": craft{size: 6 * blockSize, footer: []edit{id}, blocks: []block{{2, 4, nil, pattern(blockSize, 3)}, {4, 20, bits(0x3c), pattern(blockSize, 4)}}}.bytes(),
		"empty":   craft{size: 6 * blockSize, footer: []edit{id}}.bytes(),
		"fixed":   fixedImage(pattern(6*blockSize, 5), id),
		"smaller": craft{size: 3*blockSize + 512, footer: []edit{id}, blocks: []block{{3, 4, nil, pattern(blockSize, 6)}}}.bytes(),
	}
	child := craft{
		size: 6 * blockSize, footer: []edit{u32(60, differencing)}, header: []edit{text(40, parentID), text(64, "\x00p")},
		blocks: []block{{1, 13, bits(0x0f), pattern(blockSize, 1)}, {0, 4, nil, make([]byte, blockSize)}, {4, 40, bits(0xf0), pattern(blockSize, 2)}},
	}.bytes()
	middle := craft{
		size: 6 * blockSize, footer: []edit{u32(60, differencing), text(68, "the middle's own")}, header: []edit{text(40, parentID), text(64, "\x00p")},
		blocks: []block{{1, 13, bits(0x3f), pattern(blockSize, 7)}, {5, 4, nil, pattern(blockSize, 8)}},
	}.bytes()
	onMiddle := craft{
		size: 6 * blockSize, footer: []edit{u32(60, differencing), text(68, "the leaf's own..")}, header: []edit{text(40, "the middle's own"), text(64, "\x00p")},
		blocks: []block{{1, 13, bits(0x0f), pattern(blockSize, 1)}, {4, 40, bits(0xf0), pattern(blockSize, 2)}},
	}.bytes()
	chains := map[string][][]byte{"through an image": {bases["dynamic"], middle, onMiddle}}
	for name, base := range bases {
		chains[name] = [][]byte{base, child}
	}
	open := func(files []disk.File, write bool) (levels []*vhd.Image, err error) {
		for _, f := range files {
			o := &vhd.OpenOptions{Write: write}
			if n := len(levels); n > 0 {
				o.Parent = levels[n-1]
			}
			size, err := disk.FileSize(f)
			must(t, err)
			img, err := vhd.NewImage(f, size, o)
			if err != nil {
				return nil, fmt.Errorf("level %d: %w", len(levels), err)
			}
			levels = append(levels, img)
		}
		return levels, nil
	}
	for name, start := range chains {
		t.Run(name, func(t *testing.T) {
			var all []*recorder
			var files []disk.File
			var order []*recorder
			for _, b := range start {
				r := record(b)
				before := r.before
				r.before = func(c change) (int, error) {
					order = append(order, r)
					return before(c)
				}
				all, files = append(all, r), append(files, r)
			}
			depth := len(all) - 1
			levels, err := open(files, true)
			must(t, err)
			img := levels[depth]
			want := readAll(t, img)
			must(t, chain.CommitImage(context.Background(), img, depth, &chain.CommitOptions{Workers: 1}))
			must(t, img.Close())
			sameBytes(t, "the parent afterwards", readAll(t, openBytes(t, all[0].bytes(), nil)), want)
			rnd := rand.New(rand.NewPCG(3, 3))
			for k := range len(order) + 1 {
				for range 8 {
					at := map[*recorder]int{}
					for _, r := range order[:k] {
						at[r]++
					}
					var left []disk.File
					for i, r := range all {
						synced := r.lastSync(at[r])
						b := r.cut(at[r], func(int64) int { return synced + rnd.IntN(at[r]-synced+1) })
						left = append(left, newMemFile(b))
						r.left(t, at[r], b, name == "smaller" && i == 0)
					}
					what := fmt.Sprintf("cut after change %d of %d", k, len(order))
					levels, err := open(left, false)
					if err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					sameBytes(t, "contents, "+what, readAll(t, levels[depth]), want)

					// A second commit completes it.
					if levels, err = open(left, true); err != nil {
						t.Fatalf("%s, for writing: %v", what, err)
					}
					img := levels[depth]
					if err := chain.CommitImage(context.Background(), img, depth, &chain.CommitOptions{Workers: 1}); err != nil {
						t.Fatalf("%s: another commit: %v", what, err)
					}
					sameBytes(t, "contents after another commit, "+what, readAll(t, img), want)
					for _, level := range levels[1:] {
						if got, want := level.ParentRecord().ID, level.Parent().(*vhd.Image).Footer().UniqueID; got != want {
							t.Errorf("%s: another commit leaves the record %v of a parent with id %v", what, got, want)
						}
					}
					must(t, img.Close())
					for _, f := range left {
						noErrors(t, f.(*memFile).bytes(), "leak")
					}
					if t.Failed() {
						t.FailNow()
					}
				}
			}
		})
	}
}

// While an image gets another parent, its disk stays the same. After a power cut at any point
// it is read with the old or the new parent.
func TestCrashOfRebase(t *testing.T) {
	const blockSize = 4 * kib
	bits := func(b byte) []byte { return append([]byte{b}, make([]byte, 511)...) }
	child := craft{
		size: 6 * blockSize, footer: []edit{u32(60, differencing)}, header: []edit{text(64, "\x00o\x00l\x00d")},
		blocks: []block{{1, 13, bits(0x0f), pattern(blockSize, 1)}, {0, 4, nil, pattern(blockSize, 2)}},
	}.bytes()
	parents := map[string][]byte{
		"old": append(pattern(3*blockSize, 5), make([]byte, 2*blockSize)...),
		"new": append(make([]byte, blockSize), pattern(4*blockSize, 6)...),
	}
	want := readAll(t, openBytes(t, child, withParent(parents["old"], false)))
	for _, c := range []struct{ name, parent string }{{"another parent", "new"}, {"no parent", ""}} {
		t.Run(c.name, func(t *testing.T) {
			r := record(child)
			img, err := vhd.NewImage(r, r.size(), withParent(parents["old"], true))
			must(t, err)
			var parent disk.Disk
			if c.parent != "" {
				parent = withParent(parents[c.parent], false).Parent
			}
			must(t, chain.RebaseImage(context.Background(), img, parent, vhd.ParentRecord{Name: c.parent}, &chain.RebaseOptions{Workers: 1}))
			sameBytes(t, "contents", readAll(t, img), want)
			must(t, img.Close())
			seen := map[string]bool{}
			r.cuts(t, rand.New(rand.NewPCG(1, 1)), 20, func(k int, file []byte) {
				what := fmt.Sprintf("contents, cut after change %d of %d", k, len(r.log))
				alone := openBytes(t, file, &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
				name := alone.ParentRecord().Name
				seen[name] = true
				sameBytes(t, what, readAll(t, openBytes(t, file, withParent(parents[name], false))), want)
				if r.left(t, k, file, false) {
					r.repairs(t, k, file)
				}
				if t.Failed() {
					t.Fatal(what)
				}
			})
			if !seen["old"] || !seen[c.parent] {
				t.Errorf("seen after cuts: %v, want %q and %q", seen, "old", c.parent)
			}
		})
	}
}
