package vhdx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhdx"
)

func newSparse() *sparse { return &sparse{pages: map[int64]*[4096]byte{}} }

// clean reports an error if the check has findings.
func clean(t testing.TB, s *sparse) {
	t.Helper()
	if found := findings(t, s); len(found) != 0 {
		t.Errorf("findings %v, want none", found)
	}
}

// TestModel compares a new disk with a byte slice while it is written, and when it is opened.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSparse()
		o := &vhdx.CreateOptions{
			Size:              int64(rapid.IntRange(0, 9*mib).Draw(t, "size")),
			Fixed:             rapid.Bool().Draw(t, "fixed"),
			Growing:           rapid.Bool().Draw(t, "growing"),
			BlockSize:         int64(rapid.SampledFrom([]int{mib, 2 * mib, 8 * mib}).Draw(t, "block size")),
			LogSize:           int64(rapid.SampledFrom([]int{mib, 3 * mib}).Draw(t, "log size")),
			LogicalSectorSize: rapid.SampledFrom([]int64{512, 4096}).Draw(t, "sector size"),
		}
		d, err := vhdx.CreateIn(s, o)
		if err != nil {
			t.Fatal(err)
		}
		size, err := o.VirtualSize()
		if err != nil || d.Size() != size || size < o.Size || size%o.LogicalSectorSize != 0 {
			t.Fatalf("size %d, %v; the disk has %d, want at least %d", size, err, d.Size(), o.Size)
		}
		want := make([]byte, size)
		rnd := rand.NewChaCha8([32]byte{1})
		for range rapid.IntRange(0, 12).Draw(t, "steps") {
			off := rapid.Int64Range(0, size).Draw(t, "off")
			n := rapid.Int64Range(0, min(size-off, 3*mib)).Draw(t, "n")
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0, 1:
				p := make([]byte, n)
				_, _ = rnd.Read(p)
				if k, err := d.WriteAt(p, off); int64(k) != n || err != nil {
					t.Fatalf("write: %d, %v", k, err)
				}
				copy(want[off:], p)
			case 2:
				if err := d.WriteZeroes(off, n); err != nil {
					t.Fatal(err)
				}
				clear(want[off : off+n])
			case 3:
				if err := d.Reserve(off, n); err != nil {
					t.Fatal(err)
				}
			case 4:
				if err := d.Sync(); err != nil {
					t.Fatal(err)
				}
			case 5:
				if !o.Growing {
					break
				}
				if err := d.Resize(context.Background(), size+n, nil); err != nil {
					t.Fatal(err)
				}
				want = append(want, make([]byte, d.Size()-size)...)
				size = d.Size()
			}
			p := bytes.Repeat([]byte{0xaa}, int(min(size-off, 2*mib)))
			if k, err := d.ReadAt(p, off); k != len(p) || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(p, want[off:off+int64(k)]) {
				t.Fatalf("read of %d bytes at %d: %d, %v", len(p), off, k, err)
			}
		}
		compare(t, d, want)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		img, err := vhdx.NewImage(s, s.size, nil)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, img, want)
		if got := img.Subformat() == "fixed"; got != o.Fixed || img.BlockSize() != o.BlockSize || img.LogicalSectorSize() != o.LogicalSectorSize {
			t.Fatalf("%s, block size %d, sector size %d", img.Subformat(), img.BlockSize(), img.LogicalSectorSize())
		}
		for f, err := range vhdx.NewChecker(s, s.size, nil).Findings(context.Background()) {
			t.Fatalf("finding %v, %v", f, err)
		}
	})
}

// compare compares a disk and its extents with want.
func compare(t *rapid.T, d disk.Disk, want []byte) {
	got := bytes.Repeat([]byte{0xaa}, int(d.Size()))
	if n, err := d.ReadAt(got, 0); n != len(got) || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, want) {
		t.Fatalf("the contents are wrong: %d of %d bytes, %v", n, len(want), err)
	}
	next := int64(0)
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil || e.Off != next {
			t.Fatalf("extent at %d, want %d; %v", e.Off, next, err)
		}
		next = e.End()
		b := make([]byte, e.Len)
		if e.State == disk.Data {
			if err := readAll(e.File, b, e.FileOff); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(b, want[e.Off:e.End()]) {
			t.Fatalf("extent %d+%d (%v) differs from the disk", e.Off, e.Len, e.State)
		}
	}
	if next != int64(len(want)) {
		t.Fatalf("the extents end at %d, want %d", next, len(want))
	}
}

// TestDerived: equal options give equal bytes, and each option gives another id.
func TestDerived(t *testing.T) {
	create := func(change func(o *vhdx.CreateOptions)) (*sparse, uuid.UUID) {
		o := vhdx.CreateOptions{Size: 5 * mib, BlockSize: mib, DeriveID: true}
		change(&o)
		s := newSparse()
		d, err := vhdx.CreateIn(s, &o)
		if err == nil {
			err = d.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		img := mustOpen(t, s)
		if got := img.Header().Sequence; got != 2 {
			t.Errorf("sequence number %d, want that of the second header", got)
		}
		return s, img.Metadata().DiskID
	}
	seen := map[uuid.UUID]string{}
	for name, change := range map[string]func(o *vhdx.CreateOptions){
		"nothing":             func(*vhdx.CreateOptions) {},
		"size":                func(o *vhdx.CreateOptions) { o.Size = 6 * mib },
		"fixed":               func(o *vhdx.CreateOptions) { o.Fixed = true },
		"block size":          func(o *vhdx.CreateOptions) { o.BlockSize = 2 * mib },
		"log size":            func(o *vhdx.CreateOptions) { o.LogSize = 2 * mib },
		"logical sector size": func(o *vhdx.CreateOptions) { o.LogicalSectorSize = 4096 },
		"creator":             func(o *vhdx.CreateOptions) { o.Creator = "other" },
	} {
		a, id := create(change)
		b, _ := create(change)
		if !same(a, b) {
			t.Errorf("%s: two images differ", name)
		}
		if other, twice := seen[id]; twice {
			t.Errorf("%s and %s have the same id", name, other)
		}
		seen[id] = name
	}
	id := uuid.MustParse("0f2c3e5a-6b1d-4c8e-9a57-3d2b1e0f4c6d")
	if _, got := create(func(o *vhdx.CreateOptions) { o.DiskID = id }); got != id {
		t.Errorf("id %v, want %v", got, id)
	}
	_, a := create(func(o *vhdx.CreateOptions) { o.DeriveID = false })
	_, b := create(func(o *vhdx.CreateOptions) { o.DeriveID = false })
	if a == b || a == uuid.Nil {
		t.Errorf("random ids %v and %v", a, b)
	}
}

// TestStream: a stream has the bytes of the file, and the length that FileLength returns.
func TestStream(t *testing.T) {
	for _, fixed := range []bool{false, true} {
		for _, size := range []int64{0, 512, 5*mib - 512, 7 * mib} {
			o := &vhdx.CreateOptions{Size: size, BlockSize: 2 * mib, Fixed: fixed, DeriveID: true}
			src := make([]byte, size)
			var blocks []int64
			for b := int64(1); b*2*mib < size; b += 2 {
				for i := b * 2 * mib; i < min(size, b*2*mib+mib); i++ {
					src[i] = byte(i>>9) | 1
				}
				if !fixed {
					blocks = append(blocks, b)
				}
			}
			s := newSparse()
			d, err := vhdx.CreateIn(s, o)
			if err != nil {
				t.Fatal(err)
			}
			for b := int64(1); b*2*mib < size; b += 2 {
				if _, err := d.WriteAt(src[b*2*mib:min(size, (b+1)*2*mib)], b*2*mib); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			want := make([]byte, s.size)
			_, _ = s.ReadAt(want, 0)
			var got bytes.Buffer
			var last, total int64
			if err := vhdx.WriteStream(t.Context(), &got, o, bytes.NewReader(src), blocks, func(d, n int64) { last, total = d, n }); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("fixed %v, %d bytes: the stream differs from the file", fixed, size)
			}
			if last != total || total != s.size {
				t.Errorf("progress %d of %d, want %d", last, total, s.size)
			}
			if n, err := o.FileLength(int64(len(blocks))); n != s.size || err != nil {
				t.Errorf("FileLength %d, %v; want %d", n, err, s.size)
			}
		}
	}
}

// TestStreamErrors: wrong arguments are refused, and errors of the source end the stream.
func TestStreamErrors(t *testing.T) {
	o := &vhdx.CreateOptions{Size: 4 * mib, BlockSize: mib}
	src := bytes.NewReader(make([]byte, 4*mib))
	for name, blocks := range map[string][]int64{"twice": {1, 1}, "descending": {2, 1}, "after the end": {4}, "negative": {-1}} {
		var w bytes.Buffer
		if err := vhdx.WriteStream(t.Context(), &w, o, src, blocks, nil); err == nil || w.Len() > 0 {
			t.Errorf("%s: %v, and %d bytes are written", name, err, w.Len())
		}
	}
	if err := vhdx.WriteStream(t.Context(), io.Discard, &vhdx.CreateOptions{Growing: true}, src, nil, nil); !errors.Is(err, vhdx.ErrUnsupported) {
		t.Errorf("unknown size: %v", err)
	}
	if err := vhdx.WriteStream(t.Context(), io.Discard, o, bytes.NewReader(make([]byte, mib)), []int64{0, 1}, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short source: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := vhdx.WriteStream(ctx, io.Discard, o, src, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestCreateErrors: options that no image can have.
func TestCreateErrors(t *testing.T) {
	for name, o := range map[string]vhdx.CreateOptions{
		"negative size":       {Size: -1},
		"block size":          {BlockSize: 3 * mib},
		"small block size":    {BlockSize: mib / 2},
		"large block size":    {BlockSize: 512 * mib},
		"log size":            {LogSize: mib + 1},
		"sector size":         {LogicalSectorSize: 1024},
		"creator":             {Creator: string(bytes.Repeat([]byte{'x'}, 256))},
		"creator with a zero": {Creator: "a\x00b"},
		"more than 64 TiB":    {Size: 64<<40 + 1},
	} {
		d, err := vhdx.CreateIn(newSparse(), &o)
		if d != nil || err == nil {
			t.Errorf("%s: %v, %v; want an error", name, d, err)
		}
		if name == "more than 64 TiB" && !errors.Is(err, vhdx.ErrTooLarge) {
			t.Errorf("%s: %v, want ErrTooLarge", name, err)
		}
	}
	for _, o := range []disk.Options{
		{"subformat": "sparse"}, {"block_size": "3M"}, {"log_size": "x"}, {"uuid": "x"}, {"uuid": uuid.Nil.String()}, {"colour": "red"}, {"logical_sector_size": "1k"},
	} {
		if d, err := vhdx.Format.Create(newSparse(), mib, o); d != nil || err == nil {
			t.Errorf("%v: %v, %v; want an error", o, d, err)
		}
		if err := vhdx.Format.CheckOptions(o); err == nil {
			t.Errorf("%v: no error of CheckOptions", o)
		}
	}
}

// TestHugeDisk: the largest disk needs little memory and a short file.
func TestHugeDisk(t *testing.T) {
	s := newSparse()
	d, err := vhdx.CreateIn(s, &vhdx.CreateOptions{Size: 64 << 40})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt([]byte("end"), 64<<40-3); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if len(s.pages) > 200 {
		t.Errorf("%d pages are written", len(s.pages))
	}
	img := mustOpen(t, s)
	var extents []string
	for e, err := range img.Extents(0, img.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		extents = append(extents, fmt.Sprint(e.State, e.Len))
	}
	if len(extents) != 2 || extents[1] != fmt.Sprint(disk.Data, 32*mib) {
		t.Errorf("extents %q", extents)
	}
	clean(t, s)
}

// device is a file of fixed length with stale contents.
type device struct{ *sparse }

func (device) FixedLength() bool      { return true }
func (d device) Truncate(int64) error { return errors.New("a device") }

// TestDevice: stale contents of a device do not become contents of the disk, and the end of the
// device is an error.
func TestDevice(t *testing.T) {
	s := newSparse()
	s.fill(0, 12*mib, 0xee)
	d, err := vhdx.CreateIn(device{s}, &vhdx.CreateOptions{Size: 20 * mib, BlockSize: mib})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt([]byte("x"), 7*mib+5); err != nil {
		t.Fatal(err)
	}
	for off := int64(8 * mib); ; off += mib {
		if _, err = d.WriteAt([]byte("x"), off); err != nil {
			break
		}
	}
	if err == nil || s.size != 12*mib {
		t.Errorf("%v, and the device has %d bytes", err, s.size)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	img := mustOpen(t, s)
	want := make([]byte, 20*mib)
	want[7*mib+5] = 'x'
	for off := 8 * mib; off < 15*mib; off += mib {
		want[off] = 'x'
	}
	if !bytes.Equal(contents(t, img), want) {
		t.Error("the contents are wrong")
	}
}

// TestMisuse: writes outside of the disk and after Close are errors.
func TestMisuse(t *testing.T) {
	d, err := vhdx.CreateIn(newSparse(), &vhdx.CreateOptions{Size: mib})
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{-1, mib - 1, mib, 1 << 62} {
		if n, err := d.WriteAt([]byte("ab"), off); n != 0 || err == nil {
			t.Errorf("write at %d: %d, %v", off, n, err)
		}
	}
	if !d.ReadsZero() {
		t.Error("a disk that was not written does not read as zeros")
	}
	if err := d.Resize(t.Context(), 1<<45, nil); !errors.Is(err, vhdx.ErrUnsupported) {
		t.Errorf("resize: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt([]byte("a"), 0); !errors.Is(err, vhdx.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, vhdx.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if err := d.Sync(); !errors.Is(err, vhdx.ErrClosed) {
		t.Errorf("sync: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}
