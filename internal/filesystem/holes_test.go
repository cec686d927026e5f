package filesystem

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

const mib = 1 << 20

// newFile creates a file of 8 MiB with 1 MiB of data at 2 MiB, and 1 byte at 5 MiB + 1. The rest is
// a hole.
func newFile(t *testing.T) (*os.File, []byte) {
	t.Helper()
	return newFileIn(t, t.TempDir())
}

func newFileIn(t *testing.T, dir string) (*os.File, []byte) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	want := make([]byte, 8*mib)
	copy(want[2*mib:], bytes.Repeat([]byte("data"), mib/4))
	want[5*mib+1] = 1
	if err := f.Truncate(8 * mib); err != nil {
		t.Fatal(err)
	}
	for _, w := range [][2]int64{{2 * mib, mib}, {5*mib + 1, 1}} {
		if _, err := f.WriteAt(want[w[0]:w[0]+w[1]], w[0]); err != nil {
			t.Fatal(err)
		}
	}
	return f, want
}

// findsHoles skips the test if holes cannot be found.
func findsHoles(t *testing.T, f *os.File) {
	t.Helper()
	if _, _, ok, err := nextData(f, 0); !ok || err != nil {
		t.Skipf("no holes are found in files on %s (%v)", runtime.GOOS, err)
	}
}

// Extents are in order and without gaps, holes are zeros, and all data is reported. start and off
// are those of a disk in the file.
func TestExtents(t *testing.T) {
	f, want := newFile(t)
	const hole = disk.Unallocated
	for _, c := range []struct{ start, off, n int64 }{
		{0, 0, 8 * mib},
		{0, 0, 0},
		{0, 3*mib - 1, 2},
		{0, 2*mib + 5, 100},
		{mib + 512, 0, 6 * mib},
		{mib + 512, 512, 6 * mib},
		{2 * mib, -512, 2 * mib}, // the disk starts before the range
		{0, 7 * mib, 3 * mib},    // past the end there are holes
		{0, 9 * mib, mib},
	} {
		next := c.off
		var last disk.Extent
		for e, err := range NewHoleMap(f).Extents(c.start, c.off, c.n, hole) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Off != next || e.Len <= 0 || e.FileOff != c.start+e.Off || e.File != io.ReaderAt(f) {
				t.Fatalf("%+v: extent %+v, want one at %d", c, e, next)
			}
			if last.Len > 0 && e.State == last.State {
				t.Errorf("%+v: extents at %d and %d are not merged", c, last.Off, e.Off)
			}
			if e.State == hole {
				zeros := want[min(e.FileOff, 8*mib):min(e.FileOff+e.Len, 8*mib)]
				if !bytes.Equal(zeros, make([]byte, len(zeros))) {
					t.Errorf("%+v: the hole at %d has data", c, e.Off)
				}
			} else if e.State != disk.Data {
				t.Errorf("%+v: state %v", c, e.State)
			}
			next, last = e.End(), e
		}
		if next != c.off+c.n {
			t.Errorf("%+v: the extents end at %d, want %d", c, next, c.off+c.n)
		}
	}
}

// Holes are found, and the ends of the runs are cached.
func TestHoles(t *testing.T) {
	f, _ := newFile(t)
	findsHoles(t, f)
	m := NewHoleMap(f)
	if m.File() != io.ReaderAt(f) {
		t.Error("File is not the file")
	}
	for _, c := range []struct {
		off, limit, end int64
		data            bool
	}{
		{0, 8 * mib, 2 * mib, false},
		{mib, 8 * mib, 2 * mib, false},
		{mib, mib + 10, mib + 10, false},
		{2 * mib, 8 * mib, 3 * mib, true},
		{3*mib - 1, 8 * mib, 3 * mib, true},
		{3*mib - 1, 3*mib - 1, 3*mib - 1, true},
		{4 * mib, 8 * mib, 5 * mib, false},
		{6 * mib, 8 * mib, 8 * mib, false},
		{0, 8 * mib, 2 * mib, false}, // back again
		{20 * mib, 30 * mib, 30 * mib, false},
	} {
		if end, data, err := m.At(c.off, c.limit); end != c.end || data != c.data || err != nil {
			t.Errorf("At(%d, %d) = %d, %v, %v; want %d, %v", c.off, c.limit, end, data, err, c.end, c.data)
		}
	}
}

// In a file in memory, data and holes are found from any offset. A truncated file has no data
// past its end.
func TestMemory(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "filesystem")
	if err != nil {
		t.Skipf("no file system in memory: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f, _ := newFileIn(t, dir)
	findsHoles(t, f)
	check := func(off, end int64, data bool) {
		t.Helper()
		if gotEnd, gotData, err := NewHoleMap(f).At(off, 16*mib); gotEnd != end || gotData != data || err != nil {
			t.Errorf("at %d: the run ends at %d, data %v, %v; want %d, %v", off, gotEnd, gotData, err, end, data)
		}
	}
	check(mib, 2*mib, false)
	check(2*mib+512, 3*mib, true)
	if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 8*mib), 0); err != nil {
		t.Fatal(err)
	}
	check(0, 8*mib, true)
	check(3*mib+512, 8*mib, true)
	check(8*mib, 16*mib, false)
	if err := f.Truncate(4 * mib); err != nil {
		t.Fatal(err)
	}
	check(3*mib, 4*mib, true)
	check(5*mib, 16*mib, false)
}

// A reader that knows no holes is data throughout.
func TestNoHoles(t *testing.T) {
	for e, err := range NewHoleMap(bytes.NewReader(make([]byte, mib))).Extents(0, 100, 1000, disk.Zero) {
		if err != nil || e.Off != 100 || e.Len != 1000 || e.State != disk.Data {
			t.Errorf("got %+v, %v; want all data", e, err)
		}
	}
}

func TestClosedFile(t *testing.T) {
	f, _ := newFile(t)
	findsHoles(t, f)
	f.Close()
	for _, err := range NewHoleMap(f).Extents(0, 0, mib, disk.Zero) {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("got %v, want %v", err, os.ErrClosed)
		}
	}
}

// plain hides the system's file, so that zeros are written.
type plain struct{ disk.File }

func (p plain) Size() (int64, error) { return disk.FileSize(p.File) }

func TestZero(t *testing.T) {
	for _, punched := range []bool{true, false} {
		f, want := newFile(t)
		var file disk.File = f
		if !punched {
			file = plain{f}
		}
		for _, c := range [][2]int64{{2*mib + 100, 300_000}, {5 * mib, 3*mib - 100}, {0, 0}, {2*mib + 500_000, 1}, {2*mib - 10, 20}} {
			if err := Zero(file, c[0], c[1]); err != nil {
				t.Fatal(err)
			}
			clear(want[c[0] : c[0]+c[1]])
		}
		got, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("punched=%v: the file is not what it was, with zeros in the ranges", punched)
		}
	}
}

// Zeros become holes if the system can punch them.
func TestPunch(t *testing.T) {
	f, _ := newFile(t)
	findsHoles(t, f)
	if err := Zero(f, 2*mib, mib); err != nil {
		t.Fatal(err)
	}
	if end, data, err := NewHoleMap(f).At(0, 8*mib); end != 5*mib || data || err != nil {
		t.Errorf("a hole up to %d (data: %v, %v), want one up to %d", end, data, err, 5*mib)
	}
}

// Zeroing keeps the length of the file.
func TestZeroPastEnd(t *testing.T) {
	for _, punched := range []bool{true, false} {
		f, want := newFile(t)
		var file disk.File = f
		if !punched {
			file = plain{f}
		}
		if err := Zero(file, 7*mib, 4*mib); err != nil {
			t.Fatal(err)
		}
		if st, err := f.Stat(); err != nil || st.Size() != int64(len(want)) {
			t.Errorf("punched=%v: the file has %d bytes (%v), want %d", punched, st.Size(), err, len(want))
		}
	}
}

// A cancelled Fill stops, and has reported the written bytes.
func TestFillCancelled(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 3 * fillPiece
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, data, err := NewHoleMap(f).At(0, size); data || err != nil {
		t.Skipf("no holes are found here: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var reported []int64
	err = Fill(ctx, f, 0, size, true, func(done, total int64) {
		if total != size {
			t.Errorf("total %d, want %d", total, size)
		}
		reported = append(reported, done)
		cancel()
	})
	if !errors.Is(err, context.Canceled) || len(reported) != 1 {
		t.Errorf("%v after %v, want the context's error after one report", err, reported)
	}
	reported = nil
	if err := Fill(t.Context(), f, 0, size, true, func(done, _ int64) { reported = append(reported, done) }); err != nil {
		t.Error(err)
	}
	if n := len(reported); n == 0 || reported[n-1] != size {
		t.Errorf("reported %v, want %d last", reported, size)
	}
}
