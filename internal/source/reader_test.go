package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// badDisk is a disk in memory with unreadable sectors. Its extents report that its data is in a
// file.
type badDisk struct {
	b      []byte
	bad    map[int64]bool // by offset
	file   *os.File
	holeAt int64            // a hole of 1 MiB starts here, if it is not 0
	found  []disk.LostRange // lost, as detected while reading
}

var errMedium = &fs.PathError{Op: "read", Path: "a.raw", Err: syscall.EIO}

func (d *badDisk) Size() int64 { return int64(len(d.b)) }

func (d *badDisk) Close() error { return nil }

func (d *badDisk) ReadAt(p []byte, off int64) (int, error) {
	for s := off / 512 * 512; s < off+int64(len(p)); s += 512 {
		if d.bad[s] {
			n := copy(p[:max(0, s-off)], d.b[off:])
			return n, errMedium
		}
	}
	return bytes.NewReader(d.b).ReadAt(p, off)
}

func (d *badDisk) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		n, _ := disk.ClipRange(off, n, d.Size())
		if d.holeAt == 0 {
			yield(disk.Extent{Off: off, Len: n, File: d.file, FileOff: off}, nil)
			return
		}
		for _, e := range []disk.Extent{
			{Off: 0, Len: d.holeAt},
			{Off: d.holeAt, Len: 1 << 20, State: disk.Unallocated},
			{Off: d.holeAt + 1<<20, Len: d.Size() - d.holeAt - 1<<20},
		} {
			if e.Len > 0 && !yield(e, nil) {
				return
			}
		}
	}
}

// Lost implements [disk.Salvaged].
func (d *badDisk) Lost() []disk.LostRange {
	return append(d.found, disk.LostRange{Range: disk.Range{Off: 512, N: 512}, Reason: "a wild BAT entry"})
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func join(d disk.Disk, o *Options) *Source {
	return Join([]*Source{{Name: "a.raw", Disk: Named(d, "a.raw")}}, o)
}

// TestSalvage reads parts of all alignments across unreadable sectors. Those sectors read as zeros,
// all else as the disk. The lost ranges are exactly those sectors.
func TestSalvage(t *testing.T) {
	const size = 64 << 10
	d := &badDisk{b: randomBytes(size), bad: map[int64]bool{0: true, 4096: true, 4608: true, 8192: true, size - 512: true}}
	want := bytes.Clone(d.b)
	for s := range d.bad {
		clear(want[s : s+512])
	}
	for _, c := range [][2]int64{{0, size}, {1, size - 2}, {0, 1}, {511, 2}, {4095, 1025}, {4097, 1}, {8191, 514}, {size - 700, 700}, {512, 3584}} {
		src := join(d, &Options{Salvage: true})
		got := make([]byte, c[1])
		if n, err := src.Disk.ReadAt(got, c[0]); n != len(got) || err != nil {
			t.Fatalf("%v: %d bytes, %v", c, n, err)
		}
		if !bytes.Equal(got, want[c[0]:c[0]+c[1]]) {
			t.Errorf("%v: not the disk with zeros for what cannot be read", c)
		}
	}
	// Reading past the end returns io.EOF, even if the last sector is bad.
	src := join(d, &Options{Salvage: true})
	got := make([]byte, size+512)
	if n, err := src.Disk.ReadAt(got, 0); n != size || !errors.Is(err, io.EOF) || !bytes.Equal(got[:size], want) {
		t.Errorf("beyond the end: %d bytes, %v", n, err)
	}
	var list []string
	for _, r := range src.Losses.Ranges() {
		list = append(list, fmt.Sprintf("%d+%d %s", r.Off, r.N, r.Reason))
	}
	const io = "input/output error"
	if got, want := strings.Join(list, "; "), "0+512 "+io+"; 512+512 a wild BAT entry; 4096+1024 "+io+"; 8192+512 "+io+"; 65024+512 "+io; got != want {
		t.Errorf("lost %s, want %s", got, want)
	}
	for _, off := range []int64{0, 511, 600, 4607, 65535} {
		if !src.Losses.Contains(off) {
			t.Errorf("byte %d is not lost", off)
		}
	}
	for _, off := range []int64{1024, 4095, 5120, 70000} {
		if src.Losses.Contains(off) {
			t.Errorf("byte %d is lost", off)
		}
	}
}

// An interrupted read is not a loss.
func TestSalvageInterrupted(t *testing.T) {
	for _, err := range []error{context.Canceled, fs.ErrClosed} {
		src := join(&stopped{&badDisk{b: make([]byte, 4096)}, err}, &Options{Salvage: true})
		if _, got := src.Disk.ReadAt(make([]byte, 1024), 0); !errors.Is(got, err) {
			t.Errorf("got %v, want %v", got, err)
		}
		if n := len(src.Losses.Ranges()); n > 1 { // losses that the image knew
			t.Errorf("%d lost ranges", n)
		}
	}
}

type stopped struct {
	*badDisk
	err error
}

func (d *stopped) ReadAt([]byte, int64) (int, error) { return 0, d.err }

// Losses that an image detects during reads are in Ranges afterwards.
func TestLossesGrow(t *testing.T) {
	d := &badDisk{b: make([]byte, 4096)}
	src := join(d, &Options{Salvage: true})
	d.found = []disk.LostRange{{Range: disk.Range{Off: 2048, N: 512}, Reason: "a bitmap"}}
	if !src.Losses.Contains(2048) || src.Losses.Contains(2560) {
		t.Error("Contains does not follow the image")
	}
	if got := src.Losses.Ranges(); len(got) != 2 || got[1].Off != 2048 {
		t.Errorf("got %v, want two ranges", got)
	}
}

// TestLossesParallel adds the same sectors from many goroutines, in no order.
func TestLossesParallel(t *testing.T) {
	var l Losses
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for _, s := range rand.New(rand.NewPCG(1, uint64(i))).Perm(3000) {
				l.addUnread(int64(s)*512, 512, errMedium)
			}
		})
	}
	wg.Wait()
	if got := l.Ranges(); len(got) != 1 || got[0].Range != (disk.Range{Off: 0, N: 3000 * 512}) {
		t.Errorf("got %v, want one range of 3000 sectors", got)
	}
}

// An error names the file with the unreadable data, or the parent's, and the offset in it.
func TestErrorNamesFile(t *testing.T) {
	good := &badDisk{b: randomBytes(1 << 20)}
	bad := &badDisk{b: randomBytes(1 << 20), bad: map[int64]bool{4096: true}}
	joined := Join([]*Source{{Disk: Named(good, "a.raw")}, {Disk: Named(bad, "b.raw")}}, &Options{})
	err := convert.WriteTo(t.Context(), io.Discard, joined.Disk, nil)
	var e *Error
	if !errors.As(err, &e) || e.Name != "b.raw" || e.Off != 4096 {
		t.Errorf("got %v, want an error of b.raw at 4096", err)
	}
	child := &named{bad, "child.vhd", []string{"base.vhd", "a.raw"}}
	if _, err := child.ReadAt(make([]byte, 8192), 0); !errors.As(err, &e) || e.Name != "a.raw" {
		t.Errorf("got %v, want an error of the parent", err)
	}
	s := &namedStream{r: io.MultiReader(strings.NewReader("abc"), errReader{io.ErrUnexpectedEOF}), name: "standard input"}
	if _, err := io.Copy(io.Discard, s); !errors.As(err, &e) || e.Name != "standard input" || e.Off != 3 {
		t.Errorf("got %v, want an error of standard input at 3", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// The waits of a copy add up to the time of its data at the rate. Holes need no time.
func TestThrottle(t *testing.T) {
	var mu sync.Mutex
	var longest time.Duration
	pause := func(_ context.Context, d time.Duration) {
		mu.Lock()
		longest = max(longest, d)
		mu.Unlock()
	}
	d := &badDisk{b: make([]byte, 4<<20), holeAt: 1 << 20} // 3 MiB of data
	throttled := func() *Options { return &Options{Throttle: NewThrottle(t.Context(), 1<<10, pause)} }
	check := func(what string, err error, want time.Duration) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		// Nothing waits. The last wait is the time of all data, less the time that the copy took.
		if longest > want || longest < want-10*time.Minute {
			t.Errorf("%s: a wait for %v, want one for %v", what, longest, want)
		}
		longest = 0
	}
	err := convert.WriteTo(t.Context(), io.Discard, join(d, throttled()).Disk, nil)
	check("a disk", err, 3072*time.Second)
	s := Join([]*Source{{Stream: bytes.NewReader(d.b)}}, throttled())
	_, err = io.Copy(io.Discard, s.Stream)
	check("a stream", err, 4096*time.Second)
	if NewThrottle(t.Context(), 0, nil) != nil {
		t.Error("a rate of 0 limits")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewThrottle(ctx, 1, nil).Wait(1 << 40); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// A salvaged or throttled disk is not cloned or mapped. All others are.
func TestExtentsWithoutFile(t *testing.T) {
	d := &badDisk{b: make([]byte, 4096), file: os.Stdin}
	for _, o := range []*Options{{Salvage: true}, {Throttle: NewThrottle(t.Context(), 1, nil)}, {}} {
		for e, err := range join(d, o).Disk.Extents(0, 4096) {
			if plain := *o == (Options{}); err != nil || plain != (e.File != nil) || e.Len != 4096 {
				t.Errorf("%+v: extent %+v, %v", o, e, err)
			}
		}
	}
}

// TestSection cuts parts out of a disk and of a stream.
func TestSection(t *testing.T) {
	b := randomBytes(4096)
	for _, c := range []struct{ skip, count, from, to int64 }{
		{0, -1, 0, 4096}, {100, -1, 100, 4096}, {100, 1000, 100, 1100}, {4000, 1000, 4000, 4096}, {5000, 10, 4096, 4096}, {5000, -1, 4096, 4096},
	} {
		s, err := join(&badDisk{b: b}, &Options{}).Section(c.skip, c.count)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := convert.WriteTo(t.Context(), &out, s.Disk, nil); err != nil || !bytes.Equal(out.Bytes(), b[c.from:c.to]) {
			t.Errorf("disk %+v: %d bytes, %v", c, out.Len(), err)
		}
		stream := &Source{Stream: bytes.NewReader(b)}
		if s, err = stream.Section(c.skip, c.count); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(s.Stream); err != nil || !bytes.Equal(got, b[c.from:c.to]) {
			t.Errorf("stream %+v: %d bytes, %v", c, len(got), err)
		}
	}
}
