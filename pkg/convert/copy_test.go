package convert_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

const mib = 1 << 20

// memory is a disk in memory that tells its extents, and keeps count.
type memory struct {
	b       []byte
	extents []disk.Extent
	readErr func(off, n int64) error // nil: no error

	zeroErr bool // reading what is not Data is an error: nobody may

	mu sync.Mutex
}

func (m *memory) Size() int64 { return int64(len(m.b)) }

func (m *memory) Close() error { return nil }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if m.readErr != nil {
		if err := m.readErr(off, int64(len(p))); err != nil {
			return 0, err
		}
	}
	if m.zeroErr {
		for _, e := range m.extents {
			if e.State != disk.Data && e.Off < off+int64(len(p)) && off < e.End() {
				return 0, fmt.Errorf("read of zeros at %d", off)
			}
		}
	}
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		for _, e := range m.extents {
			if e.Off < off+n && off < e.End() && !yield(e.Clip(off, off+n), nil) {
				return
			}
		}
	}
}

// target is a disk in memory that notes what is written.
type target struct {
	memory
	zeroed   bool                     // claims to be all zeros
	writeErr func(off, n int64) error // nil: no error
	written  int64
}

func (t *target) ReadsZero() bool { return t.zeroed }

func (t *target) WriteAt(p []byte, off int64) (int, error) {
	if t.writeErr != nil {
		if err := t.writeErr(off, int64(len(p))); err != nil {
			return 0, err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.written += int64(len(p))
	return copy(t.b[off:], p), nil
}

func newTarget(size int64, zeroed bool) *target {
	t := &target{memory: memory{b: make([]byte, size)}, zeroed: zeroed}
	if !zeroed {
		for i := range t.b {
			t.b[i] = 0xee
		}
	}
	t.extents = []disk.Extent{{Len: size}}
	return t
}

// source is a disk of random size with random extents. Data is random bytes,
// with runs of zeros of all lengths in it.
func source(t *rapid.T) *memory {
	sectors := rapid.Int64Range(0, 5*mib/2/512).Draw(t, "sectors")
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], rapid.Uint64().Draw(t, "seed"))
	r := rand.New(rand.NewChaCha8(key))
	m := &memory{b: make([]byte, sectors*512), zeroErr: true}
	for off := int64(0); off < sectors; {
		n := min(1+r.Int64N([]int64{2, 20, 5000}[r.IntN(3)]), sectors-off)
		e := disk.Extent{Off: off * 512, Len: n * 512, State: disk.State(r.IntN(3))}
		if e.State == disk.Data {
			b := m.b[e.Off:e.End()]
			for len(b) > 0 {
				k := min(1+r.IntN([]int{300, 5000, 100_000}[r.IntN(3)]), len(b))
				if r.IntN(2) == 0 {
					for i := range b[:k] {
						b[i] = byte(1 + r.IntN(255))
					}
				}
				b = b[k:]
			}
		}
		if l := len(m.extents); l > 0 && e.Follows(m.extents[l-1]) {
			m.extents[l-1].Len += e.Len
		} else {
			m.extents = append(m.extents, e)
		}
		off += n
	}
	return m
}

// TestCopyModel copies random disks to targets in memory, new and used.
func TestCopyModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := source(t)
		extra := rapid.Int64Range(0, 3).Draw(t, "extra") * 512
		dst := newTarget(src.Size()+extra, rapid.Bool().Draw(t, "zeroed"))
		tail := bytes.Clone(dst.b[src.Size():])
		o := convert.Options{
			Workers:    rapid.SampledFrom([]int{0, 1, 2, 8}).Draw(t, "workers"),
			SparseSize: rapid.SampledFrom([]int64{0, 512, 4096, 65536, mib, 16 * mib}).Draw(t, "sparse size"),
			Allocate:   rapid.Bool().Draw(t, "allocate"),
		}
		src.zeroErr = !o.Allocate
		progress(t, &o, src.Size())
		if err := convert.Copy(context.Background(), dst, src, &o); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(dst.b[:src.Size()], src.b) {
			t.Fatal("the target differs from the source")
		}
		if !bytes.Equal(dst.b[src.Size():], tail) {
			t.Fatal("what is behind the source's end was changed")
		}
		// A zeroed target is not written where there are only zeros.
		if want := dataBytes(src.b, o.SparseSize); !o.Allocate && dst.zeroed && dst.written > want {
			t.Fatalf("%d bytes written, want at most %d", dst.written, want)
		}
		if o.Allocate && dst.written != src.Size() {
			t.Fatalf("%d bytes written, want all %d", dst.written, src.Size())
		}
	})
}

// dataBytes is how much of b is not in whole, aligned steps of zeros.
func dataBytes(b []byte, step int64) int64 {
	if step == 0 {
		step = convert.DefaultSparseSize
	}
	step = min(step, mib)
	var n int64
	for chunk := range slices.Chunk(b, int(step)) {
		if !bytes.Equal(chunk, make([]byte, len(chunk))) {
			n += int64(len(chunk))
		}
	}
	return n
}

// progress demands that progress is told in order, and to the end.
func progress(t interface {
	Errorf(string, ...any)
	Cleanup(func())
}, o *convert.Options, size int64,
) {
	last := int64(0)
	var busy atomic.Bool
	o.Progress = func(done, total int64) {
		if !busy.CompareAndSwap(false, true) {
			t.Errorf("progress is told by two goroutines at a time")
		}
		if done < last || done > size || total != size {
			t.Errorf("progress %d of %d after %d; the source has %d", done, total, last, size)
		}
		last = done
		busy.Store(false)
	}
	t.Cleanup(func() {
		if last != size {
			t.Errorf("the last progress was %d, want %d", last, size)
		}
	})
}

// TestCopyToFiles copies random disks to files of all kinds, with any number of
// workers: the file is the same, reads as the source, and has no blocks for
// zeros.
func TestCopyToFiles(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		src := source(t)
		block := rapid.SampledFrom([]int64{4 << 10, 64 << 10, 512 << 10, 2 * mib}).Draw(t, "block size")
		step := rapid.SampledFrom([]int64{0, 512, 64 << 10}).Draw(t, "sparse size")
		kind := rapid.SampledFrom([]string{"raw", "fixed", "dynamic"}).Draw(t, "kind")
		var first []byte
		for _, workers := range []int{1, 2, 8} {
			name := filepath.Join(dir, kind)
			dst := newImage(t, name, kind, src.Size(), block)
			if err := convert.Copy(context.Background(), dst, src, &convert.Options{Workers: workers, SparseSize: step}); err != nil {
				t.Fatal(err)
			}
			if err := dst.Close(); err != nil {
				t.Fatal(err)
			}
			file, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = file
				checkImage(t, name, kind, src.b, block, step)
			} else if !bytes.Equal(file, first) {
				t.Fatalf("%s: the file depends on the number of workers", kind)
			}
		}
	})
}

// rawFile is a raw disk that closes its file.
type rawFile struct {
	*raw.Disk
	f *os.File
}

func (r rawFile) Close() error { return r.f.Close() }

func createRaw(name string, size int64) (rawFile, error) {
	f, err := os.Create(name)
	if err != nil {
		return rawFile{}, err
	}
	d, err := raw.Create(f, size)
	return rawFile{d, f}, err
}

// newImage makes an empty file of the kind; the same each time.
func newImage(t *rapid.T, name, kind string, size, block int64) convert.Target {
	var dst convert.Target
	var err error
	if kind == "raw" {
		dst, err = createRaw(name, size)
	} else {
		o := &vhd.CreateOptions{Type: vhd.Fixed, Size: size, Exact: true, UniqueID: uuid.UUID{1}, Time: time.Unix(1_600_000_000, 0)}
		if kind == "dynamic" {
			o.Type, o.BlockSize = vhd.Dynamic, block
		}
		dst, err = vhd.Create(name, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dst
}

// checkImage reads a file back without the engine where it is plain, and by the
// engine where it is not.
func checkImage(t *rapid.T, name, kind string, want []byte, block, step int64) {
	if kind != "dynamic" {
		file, err := os.ReadFile(name)
		if err != nil || len(file) < len(want) || !bytes.Equal(file[:len(want)], want) {
			t.Fatalf("%s: the file differs from the source (%v)", kind, err)
		}
		return
	}
	if len(want) == 0 {
		return // an image without a size cannot be opened
	}
	img, err := vhd.Open(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	got := make([]byte, len(want))
	if n, err := img.ReadAt(got, 0); n != len(got) {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("dynamic: the image differs from the source")
	}
	// Blocks that are smaller than a step may be zeros beside data.
	least, most := dataBlocks(want, block, block), dataBlocks(want, max(block, step), block)
	if _, allocated := img.BlockCounts(); allocated < least || allocated > most {
		t.Fatalf("dynamic: %d blocks allocated, want %d to %d", allocated, least, most)
	}
}

// dataBlocks is the number of blocks in those steps that are not all zeros.
func dataBlocks(b []byte, step, block int64) int64 {
	var n int64
	for chunk := range slices.Chunk(b, int(step)) {
		if !bytes.Equal(chunk, make([]byte, len(chunk))) {
			n += (int64(len(chunk)) + block - 1) / block
		}
	}
	return n
}

// plain is a source of random bytes.
func plain(size int) *memory {
	m := &memory{b: make([]byte, size), extents: []disk.Extent{{Len: int64(size)}}}
	_, _ = rand.NewChaCha8([32]byte{}).Read(m.b)
	return m
}

func TestCopyTooSmall(t *testing.T) {
	err := convert.Copy(context.Background(), newTarget(1024, true), plain(1536), nil)
	if !errors.Is(err, convert.ErrTooSmall) {
		t.Errorf("got %v, want ErrTooSmall", err)
	}
}

// TestCopyErrors has one read or write fail: the error tells which, and all
// goroutines end.
func TestCopyErrors(t *testing.T) {
	broken := errors.New("broken")
	const size = 20 * mib
	for _, workers := range []int{1, 2, 8} {
		for _, bad := range []int64{0, 5*mib + 512, size - 512} {
			failing := func(off, n int64) error {
				if off <= bad && bad < off+n {
					return broken
				}
				return nil
			}
			for _, op := range []string{"reading", "writing"} {
				t.Run(fmt.Sprintf("%s/workers=%d/%d", op, workers, bad), func(t *testing.T) {
					src, dst := plain(size), newTarget(size, true)
					if op == "reading" {
						src.readErr = failing
					} else {
						dst.writeErr = failing
					}
					before := runtime.NumGoroutine()
					err := convert.Copy(context.Background(), dst, src, &convert.Options{Workers: workers})
					var oe *convert.OpError
					if !errors.As(err, &oe) || !errors.Is(err, broken) {
						t.Fatalf("got %v, want an OpError of a broken disk", err)
					}
					if oe.Op != op || oe.Off != bad/mib*mib {
						t.Errorf("got %s at %d, want %s at %d", oe.Op, oe.Off, op, bad/mib*mib)
					}
					// One that is left over makes the test time out, and shows there.
					for runtime.NumGoroutine() > before {
						runtime.Gosched()
					}
				})
			}
		}
	}
}

// TestCopyShortRead has the source end before its size.
func TestCopyShortRead(t *testing.T) {
	src := plain(3 * mib)
	short := &shrunk{memory: src, at: 2*mib + 700}
	err := convert.Copy(context.Background(), newTarget(3*mib, true), short, nil)
	var oe *convert.OpError
	if !errors.As(err, &oe) || oe.Op != "reading" || oe.Off != short.at || !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want an OpError of reading at %d", err, short.at)
	}
}

// shrunk is a disk whose file was cut since.
type shrunk struct {
	*memory
	at int64
}

func (s *shrunk) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(s.b[:s.at]).ReadAt(p, off)
}

// TestCopyExtentError has the source not tell its extents.
func TestCopyExtentError(t *testing.T) {
	broken := errors.New("broken")
	src := &untold{memory: plain(4 * mib), err: broken}
	dst := newTarget(4*mib, true)
	err := convert.Copy(context.Background(), dst, src, &convert.Options{Workers: 2})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

// untold is a disk that tells one extent and then fails.
type untold struct {
	*memory
	err error
}

func (u *untold) Extents(int64, int64) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		if yield(disk.Extent{Len: mib}, nil) {
			yield(disk.Extent{}, u.err)
		}
	}
}

// TestCancel cancels from the inside, at any progress: Copy says so, and a new
// image that is given up leaves the older one, and nothing beside it.
func TestCancel(t *testing.T) {
	src := plain(24 * mib)
	for _, workers := range []int{1, 2, 8} {
		for _, after := range []int64{1, 12 * mib} {
			t.Run(fmt.Sprintf("workers=%d/%d", workers, after), func(t *testing.T) {
				dir := t.TempDir()
				name := filepath.Join(dir, "disk.vhd")
				if err := os.WriteFile(name, []byte("older"), 0o666); err != nil {
					t.Fatal(err)
				}
				img, err := vhd.Create(name, &vhd.CreateOptions{Size: src.Size()})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				err = convert.Copy(ctx, img, src, &convert.Options{Workers: workers, Progress: func(done, total int64) {
					if done >= after {
						cancel()
					}
				}})
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want %v", err, context.Canceled)
				}
				img.Discard()
				entries, err := os.ReadDir(dir)
				if err != nil {
					t.Fatal(err)
				}
				old, err := os.ReadFile(name)
				if len(entries) != 1 || err != nil || string(old) != "older" {
					t.Errorf("%d files, the older one is %.20q (%v)", len(entries), old, err)
				}
			})
		}
	}
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		dst := newTarget(src.Size(), true)
		if err := convert.Copy(ctx, dst, src, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
}

// TestFileHoles copies a disk in blocks: a hole of the file is not read, although
// the disk over it calls it data.
func TestFileHoles(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := plain(mib).b
	if err := f.Truncate(64 * mib); err != nil {
		t.Fatal(err)
	}
	if _, data, err := filesystem.NewHoleMap(f).At(0, mib); data || err != nil {
		t.Skipf("holes are not found here (%v)", err)
	}
	if _, err := f.WriteAt(data, 32*mib); err != nil {
		t.Fatal(err)
	}
	src := &overFile{File: f, start: 4096, size: 60 * mib}
	dst := newTarget(src.size, true)
	if err := convert.Copy(context.Background(), dst, src, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(dst.b[32*mib-4096:][:mib], data) || dst.written != mib {
		t.Errorf("%d bytes written, want the %d of data", dst.written, mib)
	}
	if n := src.read.Load(); n > 2*mib {
		t.Errorf("%d bytes read of %d of data", n, mib)
	}
}

// overFile is a disk of one block that stands in a file from start on.
type overFile struct {
	*os.File
	start, size int64
	read        atomic.Int64
}

func (d *overFile) Size() int64 { return d.size }

func (d *overFile) BlockSize() int64 { return 64 * mib }

func (d *overFile) ReadAt(p []byte, off int64) (int, error) {
	d.read.Add(int64(len(p)))
	return d.File.ReadAt(p, d.start+off)
}

func (d *overFile) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		yield(disk.Extent{Off: off, Len: n, File: d.File, FileOff: d.start + off}, nil)
	}
}
