package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// One call to the file fails in a session, which then continues with random other calls. The
// file must match the results of all calls.

var errFault = fmt.Errorf("injected: %w", syscall.EIO)

// A faultyFile is a file with one failing call: number at of the counted calls, from 0. With
// full it is a full file from that call on, until it is truncated.
type faultyFile struct {
	*memFile
	at      int
	full    bool // from that call on nothing makes the file longer
	reads   bool // count reads, too
	rnd     *rand.Rand
	calls   int
	limit   int64 // limit of the length, once the disk is full; 0 before
	faulted bool
}

func (f *faultyFile) hit() bool {
	f.calls++
	if f.calls-1 != f.at {
		return false
	}
	f.faulted = true
	return true
}

// edge returns the number of bytes that a failing write stores: up to a sector or a page, or
// all of them.
func (f *faultyFile) edge(c change) int {
	n := len(c.data)
	unit := []int64{sector, 4096}[f.rnd.IntN(2)]
	ends := []int{0, n}
	for at := (c.off/unit + 1) * unit; at < c.off+int64(n); at += unit {
		ends = append(ends, int(at-c.off))
	}
	return ends[f.rnd.IntN(len(ends))]
}

func (f *faultyFile) change(c change) (int, error) {
	end := c.off + int64(len(c.data))
	if f.mode != 0 {
		switch {
		case c.op == "truncate":
			return 0, syscall.EINVAL
		case c.op == "write" && end > f.size():
			return int(max(0, f.size()-c.off)), syscall.ENOSPC
		}
	}
	if f.hit() {
		if !f.full {
			return f.edge(c), errFault
		}
		f.limit = f.size() / sector * sector
	}
	if f.limit > 0 && f.mode == 0 {
		switch {
		case c.op == "write" && end > f.limit:
			return int(max(0, f.limit-c.off)), syscall.ENOSPC
		case c.op == "truncate" && c.off < f.limit:
			f.limit = c.off
		}
	}
	return len(c.data), nil
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if f.reads && f.hit() && !f.full {
		return 0, errFault
	}
	return f.memFile.ReadAt(p, off)
}

// A failureSession is an image and its expected contents.
type failureSession struct {
	t      *testing.T
	rnd    *rand.Rand
	file   *faultyFile
	img    *vhd.Image
	parent []byte // of a differencing image
	want   []byte
	since  [][]byte // contents since the last Sync
	isNew  bool     // the image is not complete
	over   bool     // a new image has failed: there is no image

	noTrailer bool // the image had no valid trailing footer at the start, or after it failed
	steps     []string
}

func (s *failureSession) fatalf(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s\nfault at call %d (full %t, reads %t), %d calls; steps: %s", fmt.Sprintf(format, args...),
		s.file.at, s.file.full, s.file.reads, s.file.calls, strings.Join(s.steps, ", "))
}

// open opens the image in the file.
func (s *failureSession) open() error {
	img, err := vhd.NewImage(s.file, s.file.size(), withParent(s.parent, true))
	if err == nil {
		s.img = img
	}
	return err
}

// contents reads the whole disk. It repeats a failing read once.
func (s *failureSession) contents() ([]byte, error) {
	b := make([]byte, s.img.Size())
	n, err := s.img.ReadAt(b, 0)
	if errors.Is(err, errFault) {
		n, err = s.img.ReadAt(b, 0)
	}
	if n == len(b) {
		return b, nil
	}
	return nil, err
}

// mixed reports whether each sector of got is that of one of the states; shorter states end in
// zeros. A footer of a fixed disk is allowed at the offsets in stale. It has no copy, and its
// sector is one that the disk gains or loses.
func mixed(got []byte, states [][]byte, stale ...int) bool {
	for at := 0; at < len(got); at += sector {
		ok := slices.Contains(stale, at) && string(got[at:at+8]) == "conectix"
		for _, s := range states {
			want := make([]byte, sector)
			if at < len(s) {
				copy(want, s[at:])
			}
			ok = ok || bytes.Equal(got[at:at+sector], want)
		}
		if !ok {
			return false
		}
	}
	return true
}

// after checks the state after a call that returned err. next is the disk after success.
// structural says that the call changes all or nothing.
func (s *failureSession) after(what string, err error, next []byte, structural bool) {
	s.t.Helper()
	s.steps = append(s.steps, fmt.Sprintf("%s: %v", what, err))
	if hasFailed(s.t, s.img) {
		if err == nil {
			s.fatalf("%s returned nil, and the image has failed", what)
		}
		s.reopen(next)
		return
	}
	got, rerr := s.contents()
	if rerr != nil {
		s.fatalf("%s: reading: %v", what, rerr)
	}
	switch {
	case err == nil:
		if !bytes.Equal(got, next) {
			s.fatalf("%s returned nil, and the disk is not so", what)
		}
	case structural:
		if !bytes.Equal(got, s.want) {
			s.fatalf("%s failed, and the disk is not as before", what)
		}
	default:
		if len(got) != len(s.want) || !mixed(got, [][]byte{s.want, next}) {
			s.fatalf("%s failed, and the disk has sectors neither old nor new", what)
		}
	}
	s.want = got
	if what == "Sync" && err == nil {
		s.isNew = false
	}
	if structural && err == nil && !s.isNew {
		s.since = nil
	}
	s.since = append(s.since, slices.Clone(got))
}

// reopen opens an image again that has failed, or whose Close returned an error. Each sector
// has one of its contents since the last Sync, or that of next.
func (s *failureSession) reopen(next []byte) {
	s.t.Helper()
	before := slices.Clone(s.file.b)
	if err := s.img.Close(); err == nil {
		s.fatalf("the image has failed, and Close returns nil")
	}
	if !bytes.Equal(before, s.file.b) {
		s.fatalf("the image has failed, and Close writes")
	}
	s.openAgain(next, "trailing-footer", "current-size")
}

func (s *failureSession) openAgain(next []byte, allowed ...string) {
	s.t.Helper()
	err := s.open()
	if errors.Is(err, errFault) {
		err = s.open()
	}
	if s.isNew && (errors.Is(err, vhd.ErrNotVHD) || errors.Is(err, vhd.ErrFootersLost)) {
		s.over = true
		return
	}
	if err != nil {
		s.fatalf("the image does not open again: %v", err)
	}
	got, err := s.contents()
	if err != nil {
		s.fatalf("reading the image again: %v", err)
	}
	if len(got) != len(s.want) && len(got) != len(next) {
		s.fatalf("opened again, the disk has %d bytes, want %d or %d", len(got), len(s.want), len(next))
	}
	var stale []int
	if s.img.Type() == vhd.Fixed {
		stale = []int{len(s.want), len(next)}
	}
	if !mixed(got, append(slices.Clone(s.since), s.want, next), stale...) {
		s.fatalf("opened again, the disk has sectors that it did not have since the last Sync")
	}
	if s.file.mode == 0 {
		// A copy of the footer that differs stays until the footer is rewritten.
		noErrors(s.t, s.file.bytes(), append(allowed, "leading-footer", "footers-differ")...)
	}
	if s.t.Failed() {
		s.fatalf("opened again")
	}
	s.want, s.since, s.isNew, s.noTrailer = got, [][]byte{slices.Clone(got)}, false, !s.img.HasTrailingFooter()
}

// resized is the disk after Resize.
func (s *failureSession) resized(size int) []byte {
	return append(slices.Clone(s.want[:min(size, len(s.want))]), make([]byte, max(0, size-len(s.want)))...)
}

// emptied is the disk after Empty.
func (s *failureSession) emptied() []byte {
	b := make([]byte, len(s.want))
	if s.img.Type() == vhd.Differencing {
		copy(b, s.parent)
	}
	return b
}

// step makes one random call.
func (s *failureSession) step() {
	ctx := context.Background()
	rnd, size := s.rnd, len(s.want)
	off := rnd.IntN(size + 1)
	if rnd.IntN(2) == 0 {
		off = off / sector * sector
	}
	n := min(rnd.IntN(6*kib), size-off)
	next := slices.Clone(s.want)
	unsupported := func(err error) bool { return errors.Is(err, vhd.ErrUnsupported) }
	switch op := rnd.IntN(16); op {
	default:
		p := pattern(n, byte(rnd.Uint32()))
		copy(next[off:], p)
		_, err := s.img.WriteAt(p, int64(off))
		s.after(fmt.Sprintf("WriteAt %d+%d", off, n), err, next, false)
	case 1:
		clear(next[off : off+n])
		err := s.img.WriteZeroes(int64(off), int64(n))
		s.after(fmt.Sprintf("WriteZeroes %d+%d", off, n), err, next, false)
	case 2:
		s.after("Reserve", s.img.Reserve(int64(off), int64(n)), next, false)
	case 3, 4:
		s.after("Sync", s.img.Sync(), next, true)
	case 5, 6:
		to := rnd.IntN(10*4*kib) / sector * sector
		if s.img.Type() == vhd.Differencing {
			to = max(to, len(s.parent))
		}
		err := s.img.Resize(ctx, int64(to), nil)
		if !unsupported(err) {
			s.after(fmt.Sprintf("Resize %d", to), err, s.resized(to), true)
		}
	case 7:
		f := s.img.Footer()
		f.Timestamp = vhd.Timestamp(rnd.Uint32N(1e8))
		err := s.img.SetFooter(f)
		if !unsupported(err) {
			s.after("SetFooter", err, next, true)
			if err == nil && s.img.Footer().Timestamp != f.Timestamp {
				s.fatalf("SetFooter returned nil, and the footer is another")
			}
		}
	case 8:
		if s.img.Type() == vhd.Differencing {
			p := vhd.ParentRecord{Name: "p", Locators: []vhd.Locator{{Code: "W2ru", Path: strings.Repeat("x", 1+rnd.IntN(2000))}}}
			if err := s.img.SetParent(nil, p); !unsupported(err) {
				s.after("SetParent", err, next, true)
			}
		}
	case 9:
		if s.img.Type() == vhd.Differencing && rnd.IntN(3) == 0 {
			if err := s.img.Detach(ctx, nil); !unsupported(err) {
				s.after("Detach", err, next, true)
			}
		}
	case 10:
		if rnd.IntN(3) == 0 {
			next := s.emptied()
			if err := s.img.Empty(ctx, nil); !unsupported(err) {
				s.after("Empty", err, next, true)
			}
		}
	case 11:
		if err := s.img.SetMarker(byte(rnd.Uint32())); !unsupported(err) {
			s.after("SetMarker", err, next, true)
		}
	case 12:
		s.close()
	case 13:
		if err := s.img.SetParentTime(vhd.Timestamp(rnd.Uint32N(1e8))); !unsupported(err) {
			s.after("SetParentTime", err, next, true)
		}
	}
}

// close closes the image, and opens it again.
func (s *failureSession) close() {
	s.t.Helper()
	err := s.img.Close()
	s.steps = append(s.steps, fmt.Sprintf("Close: %v", err))
	if err != nil {
		s.openAgain(s.want, "trailing-footer", "current-size")
		return
	}
	s.since, s.isNew = [][]byte{slices.Clone(s.want)}, false
	allowed := []string{"current-size"}
	if s.noTrailer { // no call may have needed it
		allowed = append(allowed, "trailing-footer")
	}
	s.openAgain(s.want, allowed...)
	if got, err := s.contents(); err != nil || !bytes.Equal(got, s.want) {
		s.fatalf("Close returned nil, and the disk is not as it was (%v)", err)
	}
}

// A failureStart is the start of sessions: an image in a file, or a new one.
type failureStart struct {
	file   func() *memFile
	create *vhd.CreateOptions // of a new image
	parent []byte             // of a differencing image
}

func failureStarts(t *testing.T) map[string]failureStart {
	const blockSize = 4 * kib
	in := func(b []byte) func() *memFile { return func() *memFile { return newMemFile(b) } }
	device := func() *memFile {
		m := newMemFile(pattern(160*kib, 200))
		m.mode = fs.ModeDevice
		return m
	}
	starts := map[string]failureStart{}
	for name, s := range crashStarts(t) {
		starts[name] = failureStart{file: in(s.file), parent: s.parent}
	}
	starts["fixed"] = failureStart{file: in(fixedImage(pattern(5*blockSize, 9)))}
	starts["XenServer"] = failureStart{file: in(xenImage(craft{size: 8 * blockSize, blocks: []block{
		{1, 13, nil, pattern(blockSize, 1)}, {0, 4, nil, pattern(blockSize, 2)},
	}}))}
	dyn := &vhd.CreateOptions{Size: 8 * blockSize, Exact: true, BlockSize: blockSize}
	fix := &vhd.CreateOptions{Size: 8 * blockSize, Exact: true, Type: vhd.Fixed}
	starts["dynamic to be"] = failureStart{file: in(nil), create: dyn}
	starts["fixed to be"] = failureStart{file: in(nil), create: fix}
	starts["child to be"] = failureStart{file: in(nil), create: dyn, parent: pattern(8*blockSize, 7)}
	starts["dynamic to be, of unknown size"] = failureStart{file: in(nil), create: &vhd.CreateOptions{Exact: true, BlockSize: blockSize, Growing: true}}
	for name, o := range map[string]*vhd.CreateOptions{"dynamic": dyn, "fixed": fix} {
		starts[name+" to be on a device"] = failureStart{file: device, create: o}
		starts[name+" on a device"] = failureStart{file: func() *memFile {
			m := device()
			img, err := vhd.CreateIn(m, o)
			must(t, err)
			write(t, img, pattern(5000, 3), 3000)
			must(t, img.Close())
			return m
		}}
	}
	return starts
}

// begin opens or creates the image.
func (s *failureSession) begin(start failureStart) error {
	if start.create == nil {
		return s.open()
	}
	o := *start.create
	if s.parent != nil {
		o.Parent, o.ParentRecord.Name = raw.Open(newMemFile(s.parent), int64(len(s.parent))), "p"
	}
	img, err := vhd.CreateIn(s.file, &o)
	if err == nil {
		s.img, s.isNew = img, true
	}
	return err
}

// runFailure runs the session of a seed with a fault, and returns the number of its calls to
// the file.
func runFailure(t *testing.T, start failureStart, seed uint64, at int, full, reads bool) int {
	m := start.file()
	s := &failureSession{
		t: t, rnd: rand.New(rand.NewPCG(seed, 1)), parent: start.parent,
		file: &faultyFile{memFile: m, at: at, full: full, reads: reads, rnd: rand.New(rand.NewPCG(seed, uint64(at)))},
	}
	m.before = s.file.change
	if err := s.begin(start); err != nil {
		if !s.file.faulted {
			s.fatalf("begin: %v", err)
		}
		if start.create != nil {
			return s.file.calls
		}
		must(t, s.open())
	}
	var err error
	if s.want, err = s.contents(); err != nil {
		s.fatalf("reading: %v", err)
	}
	s.since, s.noTrailer = [][]byte{slices.Clone(s.want)}, !s.img.HasTrailingFooter()
	for range 12 {
		if s.step(); s.over {
			return s.file.calls
		}
	}
	s.file.full, s.file.limit = false, 0
	for range 2 {
		if s.close(); s.over {
			break
		}
	}
	return s.file.calls
}

// TestFailures makes each change to the file and each read of it fail, in one session each.
func TestFailures(t *testing.T) {
	seeds, stride := uint64(3), 3
	if os.Getenv("VHDTOOL_TORTURE") != "" {
		seeds, stride = 20, 1
	}
	sessions := 0
	for name, start := range failureStarts(t) {
		t.Run(name, func(t *testing.T) {
			for seed := range seeds {
				for _, mode := range []struct{ full, reads bool }{{false, false}, {true, false}, {false, true}} {
					calls := runFailure(t, start, seed, -1, mode.full, mode.reads)
					for at := int(seed) % stride; at < calls; at += stride {
						runFailure(t, start, seed, at, mode.full, mode.reads)
						sessions++
					}
				}
			}
		})
	}
	t.Logf("%d sessions, each with a call that failed", sessions)
}

var _ disk.File = (*faultyFile)(nil)

// A new image whose Sync has failed is in its former state. The writes of Sync do not show in
// blocks that are written for the first time afterwards.
func TestFailedSyncOfNewImage(t *testing.T) {
	const blockSize = 4 * kib
	for k, done := 0, false; !done; k++ {
		m := newMemFile(nil)
		img, err := vhd.CreateIn(m, &vhd.CreateOptions{Exact: true, BlockSize: blockSize, Growing: true})
		must(t, err)
		// The BAT is after the blocks, and would overlap the next one.
		must(t, img.Resize(context.Background(), 2000*blockSize, nil))
		want := make([]byte, 2000*blockSize)
		put := func(off, n int) {
			copy(want[off:], pattern(n, byte(off)))
			write(t, img, want[off:off+n], int64(off))
		}
		put(0, blockSize)
		n := 0
		m.before = func(c change) (int, error) {
			if n++; n == k+1 {
				return len(c.data), errFault
			}
			return len(c.data), nil
		}
		err = img.Sync()
		m.before = nil
		done = err == nil
		if errors.Is(err, vhd.ErrFailed) {
			continue
		}
		put(5*blockSize+100, 1000)
		sameBytes(t, fmt.Sprintf("call %d failed", k), readAll(t, img), want)
		must(t, img.Close())
		sameBytes(t, fmt.Sprintf("call %d failed, closed", k), readAll(t, openBytes(t, m.bytes(), nil)), want)
		noErrors(t, m.bytes())
	}
}

// If a packed file cannot grow by the space reserved ahead, blocks are allocated one at a time.
func TestNoSpaceAhead(t *testing.T) {
	const blockSize, blocks = 4 * kib, 200
	m := create(t, &vhd.CreateOptions{Size: blocks * blockSize, Exact: true, BlockSize: blockSize, DataAlign: 512})
	limit := m.size() + 20*(blockSize+sector)
	img := openMem(t, m)
	m.before = func(c change) (int, error) {
		if c.op == "write" && c.off+int64(len(c.data)) > limit {
			return 0, syscall.EFBIG
		}
		return len(c.data), nil
	}
	want := make([]byte, blocks*blockSize)
	for i := range 20 {
		copy(want[i*9*blockSize:], pattern(blockSize, byte(i)))
		write(t, img, want[i*9*blockSize:][:blockSize], int64(i*9*blockSize))
	}
	if _, err := img.WriteAt([]byte{1}, 199*blockSize); !errors.Is(err, syscall.EFBIG) || errors.Is(err, vhd.ErrFailed) {
		t.Errorf("a block too many: %v, want EFBIG", err)
	}
	must(t, img.Close())
	sameBytes(t, "contents", readAll(t, openBytes(t, m.bytes(), nil)), want)
	noErrors(t, m.bytes())
}
