package disk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// memory is a disk in memory. A sector of zeros is unallocated. All others are data, stored at
// their offset.
type memory struct {
	b      []byte
	closed int
	err    error // of Close
}

func (m *memory) Size() int64 { return int64(len(m.b)) }

func (m *memory) Close() error {
	m.closed++
	return m.err
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, off) }

func (m *memory) WriteAt(p []byte, off int64) (int, error) { return copy(m.b[off:], p), nil }

func (m *memory) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		merge := disk.Merger{Yield: yield}
		end := min(off+n, m.Size())
		for s := off / 512 * 512; s < end; s += 512 {
			e := disk.Extent{Off: s, Len: 512, State: disk.Unallocated}
			if !bytes.Equal(m.b[s:s+512], make([]byte, 512)) {
				e.State, e.File, e.FileOff = disk.Data, m, s
			}
			if !merge.Add(e.Clip(off, end)) {
				return
			}
		}
		merge.Flush()
	}
}

// readOnly hides the methods that write.
type readOnly struct{ disk.Disk }

// shrunk is a disk whose file was truncated after its size was read.
type shrunk struct {
	*memory
	at int64
}

func (s shrunk) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(s.b[:s.at]).ReadAt(p, off)
}

// newMemory returns a disk of random sectors, about half of them zeros.
func newMemory(t *rapid.T, label string, maxSectors int) *memory {
	n := rapid.IntRange(0, maxSectors).Draw(t, label+" sectors")
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], rapid.Uint64().Draw(t, label+" seed"))
	c := rand.NewChaCha8(key)
	m := &memory{b: make([]byte, n*512)}
	for s := 0; s < len(m.b); s += 512 {
		if c.Uint64()%2 == 0 {
			_, _ = c.Read(m.b[s : s+512])
		}
	}
	return m
}

// checkDisk compares the size, reads and extents of a disk with those of a byte slice.
func checkDisk(t *rapid.T, d disk.Disk, want []byte) {
	size := int64(len(want))
	if d.Size() != size {
		t.Fatalf("size %d, want %d", d.Size(), size)
	}
	r := bytes.NewReader(want)
	for range 20 {
		off := rapid.Int64Range(0, size+600).Draw(t, "offset")
		p := make([]byte, rapid.IntRange(0, 3000).Draw(t, "length"))
		q := make([]byte, len(p))
		n, err := d.ReadAt(p, off)
		m, wantErr := r.ReadAt(q, off)
		if len(p) == 0 && err == nil {
			wantErr = nil // at the end, both answers are right
		}
		if n != m || !bytes.Equal(p[:n], q[:m]) || err != wantErr {
			t.Fatalf("read of %d bytes at %d of %d: %d, %v; want %d, %v", len(p), off, size, n, err, m, wantErr)
		}
	}
	off := rapid.Int64Range(0, size+600).Draw(t, "extents offset")
	n := rapid.Int64Range(0, size+600).Draw(t, "extents length")
	next := off
	for e, err := range d.Extents(off, n) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Off != next || e.Len <= 0 || e.End() > min(off+n, size) {
			t.Fatalf("extent %d+%d, want one at %d within %d+%d of %d", e.Off, e.Len, next, off, n, size)
		}
		got := make([]byte, e.Len)
		if e.File != nil {
			if _, err := e.File.ReadAt(got, e.FileOff); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want[e.Off:e.End()]) {
			t.Fatalf("extent %d+%d (%v) does not say what the disk holds", e.Off, e.Len, e.State)
		}
		next = e.End()
	}
	if end := max(off, min(off+n, size)); next != end {
		t.Fatalf("the extents of %d+%d end at %d, want %d", off, n, next, end)
	}
	for range d.Extents(off, n) {
		break // and no more is yielded, or the loop would panic
	}
}

func TestConcat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var disks []disk.Disk
		var want []byte
		for range rapid.IntRange(0, 4).Draw(t, "disks") {
			m := newMemory(t, "disk", 8)
			disks = append(disks, m)
			want = append(want, m.b...)
		}
		c := disk.NewConcat(disks...)
		checkDisk(t, c, want)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		for i, d := range disks {
			if n := d.(*memory).closed; n != 1 {
				t.Fatalf("disk %d was closed %d times, want once", i, n)
			}
		}
	})
}

func TestConcatErrors(t *testing.T) {
	broken := errors.New("broken")
	a, b := &memory{b: make([]byte, 512), err: broken}, &memory{b: make([]byte, 512)}
	c := disk.NewConcat(a, b)
	if _, err := c.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("a negative offset was read")
	}
	if err := c.Close(); !errors.Is(err, broken) || b.closed != 1 {
		t.Errorf("Close: %v, and the second disk was closed %d times; want %v, once", err, b.closed, broken)
	}
	c = disk.NewConcat(a, shrunk{b, 100})
	if n, err := c.ReadAt(make([]byte, 1024), 0); n != 612 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read of a disk that shrank: %d, %v; want 612, %v", n, err, io.ErrUnexpectedEOF)
	}
}

func TestSection(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMemory(t, "disk", 16)
		off := rapid.Int64Range(0, m.Size()).Draw(t, "section offset")
		n := rapid.Int64Range(0, m.Size()-off).Draw(t, "section length")
		s, err := disk.NewSection(m, off, n)
		if err != nil {
			t.Fatal(err)
		}
		checkDisk(t, s, m.b[off:off+n])

		want := bytes.Clone(m.b)
		at := rapid.Int64Range(0, n).Draw(t, "write offset")
		p := bytes.Repeat([]byte{0x5a}, int(rapid.Int64Range(0, n-at).Draw(t, "write length")))
		if k, err := s.WriteAt(p, at); k != len(p) || err != nil {
			t.Fatalf("write of %d bytes at %d: %d, %v", len(p), at, k, err)
		}
		copy(want[off+at:], p)
		at = rapid.Int64Range(0, n).Draw(t, "zeros offset")
		k := rapid.Int64Range(0, n-at).Draw(t, "zeros length")
		if err := s.WriteZeroes(at, k); err != nil {
			t.Fatal(err)
		}
		clear(want[off+at : off+at+k])
		if _, err := s.WriteAt([]byte{1}, n); err == nil {
			t.Fatal("a byte past the section was written")
		}
		if err := s.WriteZeroes(n, 1); err == nil {
			t.Fatal("a byte past the section was zeroed")
		}
		if err := s.Reserve(n, 1); err == nil {
			t.Fatal("a byte past the section was reserved")
		}
		if !bytes.Equal(m.b, want) {
			t.Fatal("the disk is not what was written into the section")
		}
		if err := s.Close(); err != nil || m.closed != 0 {
			t.Fatalf("Close: %v, and the disk was closed %d times", err, m.closed)
		}
	})
}

func TestSectionBounds(t *testing.T) {
	m := &memory{b: make([]byte, 1024)}
	for _, c := range [][2]int64{{-1, 1}, {0, 1025}, {1024, 1}, {1025, 0}, {512, 1<<63 - 1}, {0, -1}} {
		if _, err := disk.NewSection(m, c[0], c[1]); err == nil {
			t.Errorf("a section of %d bytes at %d of %d", c[1], c[0], m.Size())
		}
	}
	s, err := disk.NewSection(readOnly{m}, 0, 512)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WriteAt([]byte{1}, 0); err == nil {
		t.Error("a disk that cannot be written was")
	}
	if _, err := s.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("a negative offset was read")
	}
	if s.ReadsZero() {
		t.Error("a disk that is not a KnownZero reads as zeros")
	}
}

// TestMerger merges extents that were cut into pieces.
func TestMerger(t *testing.T) {
	f, g := &memory{}, &memory{}
	in := []disk.Extent{
		{Off: 0, Len: 512, State: disk.Data, File: f, FileOff: 4096},
		{Off: 512, Len: 512, State: disk.Data, File: f, FileOff: 4608},
		{Off: 1024, Len: 0, State: disk.Zero},
		{Off: 1024, Len: 512, State: disk.Data, File: f, FileOff: 9000},      // elsewhere
		{Off: 1536, Len: 512, State: disk.Data, File: g, FileOff: 9512},      // another file
		{Off: 2048, Len: 512, State: disk.Zero, File: g, FileOff: 10024},     // another state
		{Off: 2560, Len: 512, State: disk.Unallocated},                       // and again
		{Off: 3072, Len: 512, State: disk.Unallocated},                       // joined
		{Off: 3584, Len: 512, State: disk.Unallocated, Depth: 1},             // another depth
		{Off: 5120, Len: 512, State: disk.Unallocated, Depth: 1},             // after a gap
		{Off: 5632, Len: 512, State: disk.Data, Depth: 1, FileOff: 1 << 40},  // FileOff is not used
		{Off: 6144, Len: 512, State: disk.Data, Depth: 1, FileOff: -1 << 40}, // joined
	}
	want := []disk.Extent{
		{Off: 0, Len: 1024, State: disk.Data, File: f, FileOff: 4096},
		in[3], in[4], in[5],
		{Off: 2560, Len: 1024, State: disk.Unallocated},
		in[8], in[9],
		{Off: 5632, Len: 1024, State: disk.Data, Depth: 1, FileOff: 1 << 40},
	}
	var got []disk.Extent
	merge := disk.Merger{Yield: func(e disk.Extent, err error) bool {
		got = append(got, e)
		return err == nil
	}}
	for _, e := range in {
		if !merge.Add(e) {
			t.Fatal("the merger stopped")
		}
	}
	for range 2 { // the second Flush yields nothing
		if !merge.Flush() {
			t.Fatal("the merger stopped")
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	// The pending extent is yielded before an error.
	broken := errors.New("broken")
	var log []string
	merge.Yield = func(e disk.Extent, err error) bool {
		if err != nil {
			log = append(log, err.Error())
		} else {
			log = append(log, e.State.String())
		}
		return true
	}
	merge.Add(disk.Extent{Len: 512, State: disk.Zero})
	merge.Fail(broken)
	if !slices.Equal(log, []string{"zero", "broken"}) {
		t.Errorf("got %q, want zero, broken", log)
	}
}

func TestClip(t *testing.T) {
	f := &memory{}
	e := disk.Extent{Off: 1000, Len: 1000, State: disk.Data, File: f, FileOff: 50}
	for _, c := range []struct {
		off, end int64
		want     disk.Extent
	}{
		{0, 5000, e},
		{1000, 2000, e},
		{1100, 5000, disk.Extent{Off: 1100, Len: 900, State: disk.Data, File: f, FileOff: 150}},
		{0, 1500, disk.Extent{Off: 1000, Len: 500, State: disk.Data, File: f, FileOff: 50}},
		{1999, 2000, disk.Extent{Off: 1999, Len: 1, State: disk.Data, File: f, FileOff: 1049}},
	} {
		if got := e.Clip(c.off, c.end); got != c.want {
			t.Errorf("Clip(%d, %d) = %+v, want %+v", c.off, c.end, got, c.want)
		}
	}
	if got := (disk.Extent{Off: 0, Len: 100, State: disk.Zero}).Clip(50, 60); got.FileOff != 0 || got.Off != 50 || got.Len != 10 {
		t.Errorf("an extent without a file: %+v", got)
	}
}

// One format has a mark, and one accepts every other file.
var errDamaged = errors.New("damaged")

var (
	marked = &disk.Format{
		Name: "marked", Aliases: []string{"mk"}, Suffixes: []string{".mk", ".marked"},
		Probe: func(r io.ReaderAt, size int64) error {
			b := make([]byte, 4)
			_, _ = r.ReadAt(b, 0)
			switch {
			case string(b) == "MARK":
				return nil
			case string(b[:2]) == "MA":
				return errDamaged
			}
			return disk.ErrNotThisFormat
		},
		Open: func(r io.ReaderAt, size int64, o *disk.OpenOptions) (disk.Disk, error) {
			if o.Options["refuse"] != "" {
				return nil, errDamaged
			}
			return openPlain(r, size, o)
		},
	}
	plain   = &disk.Format{Name: "plain", Open: openPlain}
	formats = disk.Formats{marked, plain}
)

func openPlain(r io.ReaderAt, size int64, o *disk.OpenOptions) (disk.Disk, error) {
	return &file{r, size, o.Closer}, nil
}

type file struct {
	io.ReaderAt
	size   int64
	closer io.Closer
}

func (f *file) Size() int64 { return f.size }

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	return f.ReaderAt.(io.WriterAt).WriteAt(p, off)
}

func (f *file) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

func (f *file) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	return func(func(disk.Extent, error) bool) {}
}

func TestFormats(t *testing.T) {
	for name, want := range map[string]*disk.Format{"marked": marked, "mk": marked, "plain": plain, "raw": nil, "": nil, "Marked": nil} {
		if got, err := formats.ByName(name); got != want || (err != nil) != (want == nil) || err != nil && !errors.Is(err, disk.ErrUnknownFormat) {
			t.Errorf("ByName(%q) = %v, %v", name, got, err)
		}
	}
	for name, want := range map[string]*disk.Format{
		"a.mk": marked, "a.MK": marked, "dir.x/a.Marked": marked, "mk": nil, "a.mk/b": nil, "a.mk.gz": nil, "": nil, ".mk": marked,
	} {
		if got := formats.BySuffix(name); got != want {
			t.Errorf("BySuffix(%q) = %v", name, got)
		}
	}
	for contents, want := range map[string]struct {
		format *disk.Format
		err    error
	}{"MARK": {marked, nil}, "MA": {marked, errDamaged}, "other": {plain, nil}, "": {plain, nil}} {
		got, err := formats.Probe(bytes.NewReader([]byte(contents)), int64(len(contents)))
		if got != want.format || !errors.Is(err, want.err) {
			t.Errorf("Probe of %q: %v, %v", contents, got, err)
		}
	}
	if f, err := (disk.Formats{marked}).Probe(bytes.NewReader(nil), 0); f != nil || !errors.Is(err, disk.ErrUnknownFormat) {
		t.Errorf("Probe without a fallback: %v, %v", f, err)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	put := func(name, contents string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(contents), 0o666); err != nil {
			t.Fatal(err)
		}
		return name
	}
	good, damaged, other := put("good", "MARK"), put("damaged", "MA"), put("other", "other")
	for _, c := range []struct {
		name   string
		o      *disk.OpenOptions
		format *disk.Format
		err    error
	}{
		{good, nil, marked, nil},
		{other, nil, plain, nil},
		{damaged, nil, nil, errDamaged},
		{damaged, &disk.OpenOptions{Format: "plain"}, plain, nil},
		{good, &disk.OpenOptions{Format: "plain"}, plain, nil},
		{other, &disk.OpenOptions{Format: "mk"}, marked, nil},
		{good, &disk.OpenOptions{Format: "zz"}, nil, disk.ErrUnknownFormat},
		{good, &disk.OpenOptions{Options: disk.Options{"refuse": "on"}}, nil, errDamaged},
		{filepath.Join(dir, "missing"), nil, nil, os.ErrNotExist},
	} {
		d, f, err := disk.Open(c.name, formats, c.o)
		if !errors.Is(err, c.err) || err == nil && f != c.format {
			t.Errorf("Open(%s, %+v): %v, %v; want %v, %v", c.name, c.o, f, err, c.format, c.err)
		}
		if err != nil {
			continue
		}
		_, werr := d.(io.WriterAt).WriteAt([]byte("M"), 0)
		if werr == nil {
			t.Errorf("%s was opened for reading, and could be written", c.name)
		}
		d.Close()
	}
	d, _, err := disk.Open(good, formats, &disk.OpenOptions{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.(io.WriterAt).WriteAt([]byte("x"), 4); err != nil {
		t.Error(err)
	}
	d.Close()
	if _, size, err := disk.OpenFile(good, false, nil); size != 5 || err != nil {
		t.Errorf("OpenFile: %d bytes, %v; want 5", size, err)
	}
}

// TestOpenFileRefuses: a file without random access is refused without waiting for it.
func TestOpenFileRefuses(t *testing.T) {
	names := []string{t.TempDir()}
	if runtime.GOOS != "windows" {
		names = append(names, "/dev/null", "/dev/zero")
	}
	for _, name := range names {
		var pe *os.PathError
		if f, _, err := disk.OpenFile(name, false, nil); !errors.As(err, &pe) || pe.Path != name {
			t.Errorf("OpenFile(%s): %v, %v; want an error that names it", name, f, err)
		}
	}
}
