package raw

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// newFile creates a file with these contents.
func newFile(t testing.TB, contents []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(contents); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestReadAt: a disk has whole sectors, and the last one is padded with zeros.
func TestReadAt(t *testing.T) {
	for _, length := range []int{0, 1, 511, 512, 513, 1000, 1024, 5000} {
		contents := make([]byte, length)
		_, _ = rand.NewChaCha8([32]byte{1}).Read(contents)
		d := Open(newFile(t, contents), int64(length))
		want := append(contents, make([]byte, (512-length%512)%512)...)
		if d.Size() != int64(len(want)) {
			t.Errorf("a file of %d bytes is a disk of %d, want %d", length, d.Size(), len(want))
		}
		if d.ReadsZero() {
			t.Error("a disk that is not new reads as zeros")
		}
		r := bytes.NewReader(want)
		for off := int64(0); off <= d.Size()+1; off += 61 {
			for _, n := range []int{1, 100, 512, 6000} {
				p, q := make([]byte, n), make([]byte, n)
				k, err := d.ReadAt(p, off)
				m, wantErr := r.ReadAt(q, off)
				if k != m || err != wantErr || !bytes.Equal(p[:k], q[:m]) {
					t.Fatalf("file of %d bytes: read of %d at %d: %d, %v; want %d, %v", length, n, off, k, err, m, wantErr)
				}
			}
		}
		if _, err := d.ReadAt(make([]byte, 1), -1); err == nil {
			t.Error("a negative offset was read")
		}
	}
}

// TestShrunk: reading a file that was truncated is an error, and returns no zeros.
func TestShrunk(t *testing.T) {
	f := newFile(t, make([]byte, 4096))
	d := Open(f, 4096)
	if err := f.Truncate(1000); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, 500, 1000, 2048} {
		if n, err := d.ReadAt(make([]byte, 2048), off); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("read at %d: %d, %v; want %v", off, n, err, io.ErrUnexpectedEOF)
		}
	}
}

func TestCreate(t *testing.T) {
	for _, size := range []int64{0, 1, 512, 1000, 1 << 20, 1 << 40} {
		f := newFile(t, nil)
		d, err := Create(f, size)
		if err != nil {
			t.Fatal(err)
		}
		want := (size + 511) / 512 * 512
		st, err := f.Stat()
		if err != nil || d.Size() != want || st.Size() != want || !d.ReadsZero() {
			t.Errorf("size %d: a disk of %d bytes in a file of %d (%v), want %d", size, d.Size(), st.Size(), err, want)
		}
	}
	if _, err := Create(newFile(t, nil), -1); err == nil {
		t.Error("a disk of -1 bytes")
	}
}

// TestModel writes and zeroes random ranges, and compares contents and extents with a byte
// slice.
func TestModel(t *testing.T) {
	f := newFile(t, nil)
	rapid.Check(t, func(t *rapid.T) {
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		d, err := Create(f, rapid.Int64Range(1, 40_000).Draw(t, "size"))
		if err != nil {
			t.Fatal(err)
		}
		size := d.Size()
		want := make([]byte, size)
		bounds := func() (off, n int64) {
			off = rapid.Int64Range(0, size).Draw(t, "offset")
			return off, rapid.Int64Range(0, size-off).Draw(t, "length")
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				off, n := bounds()
				p := bytes.Repeat([]byte{rapid.Byte().Draw(t, "value")}, int(n))
				if k, err := d.WriteAt(p, off); k != len(p) || err != nil {
					t.Fatalf("write of %d bytes at %d: %d, %v", n, off, k, err)
				}
				copy(want[off:], p)
			},
			"zero": func(t *rapid.T) {
				off, n := bounds()
				if err := d.WriteZeroes(off, n); err != nil {
					t.Fatal(err)
				}
				clear(want[off : off+n])
			},
			"beyond": func(t *rapid.T) {
				off, n := bounds()
				n += size - off + 1
				if _, err := d.WriteAt(make([]byte, n), off); err == nil {
					t.Fatalf("%d bytes were written at %d of %d", n, off, size)
				}
				if err := d.WriteZeroes(off, n); err == nil {
					t.Fatalf("%d zeros were written at %d of %d", n, off, size)
				}
			},
			"": func(t *rapid.T) {
				got, err := os.ReadFile(f.Name())
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("the file differs from what was written (%v)", err)
				}
				off, n := bounds()
				next := off
				for e, err := range d.Extents(off, n+1000) {
					if err != nil {
						t.Fatal(err)
					}
					if e.Off != next || e.FileOff != e.Off || e.End() > size {
						t.Fatalf("extent %+v, want one at %d", e, next)
					}
					if e.State != disk.Data && !bytes.Equal(want[e.Off:e.End()], make([]byte, e.Len)) {
						t.Fatalf("extent %d+%d is not zeros", e.Off, e.Len)
					}
					next = e.End()
				}
				if end := min(off+n+1000, size); next != end && off < end {
					t.Fatalf("the extents end at %d, want %d", next, end)
				}
			},
		})
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestWriteNegative: offsets before the disk are errors.
func TestWriteNegative(t *testing.T) {
	d, err := Create(newFile(t, nil), 512)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt([]byte{1}, -1); err == nil {
		t.Error("a byte was written at -1")
	}
	if err := d.WriteZeroes(-1, 1); err == nil {
		t.Error("a zero was written at -1")
	}
	if err := d.WriteZeroes(0, -1); err == nil {
		t.Error("-1 zeros were written")
	}
}

// TestConcurrent writes and reads from many goroutines.
func TestConcurrent(t *testing.T) {
	const parts, size = 8, 64 << 10
	d, err := Create(newFile(t, nil), parts*size)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range int64(parts) {
		wg.Go(func() {
			want := bytes.Repeat([]byte{byte(i + 1)}, size)
			got := make([]byte, size)
			if _, err := d.WriteAt(want, i*size); err != nil {
				t.Error(err)
			}
			if n, err := d.ReadAt(got, i*size); n != size || !bytes.Equal(got, want) {
				t.Errorf("part %d: %d, %v", i, n, err)
			}
		})
	}
	wg.Wait()
}

// A raw disk of an io.ReaderAt can only be read.
func TestReadOnly(t *testing.T) {
	d := Open(bytes.NewReader([]byte("contents")), 8)
	b := make([]byte, 512)
	if n, err := d.ReadAt(b, 0); n != 512 || err != nil || string(b[:9]) != "contents\x00" {
		t.Errorf("%d, %v, %q", n, err, b[:9])
	}
	_, err := d.WriteAt([]byte("x"), 0)
	for _, err := range []error{err, d.WriteZeroes(0, 1), d.Resize(t.Context(), 512, nil)} {
		if !errors.Is(err, disk.ErrReadOnly) {
			t.Errorf("%v; want ErrReadOnly", err)
		}
	}
	if f, _, n := d.Place(0, 1); f != nil || n != 0 {
		t.Errorf("Place: %v, %d", f, n)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		t.Error(err)
	}
}
