package convert_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// growing is a target in memory whose size is set as it is written.
type growing struct {
	target
	resizeErr func(size int64) error
	resized   int64 // the last size asked for
}

func (g *growing) Resize(_ context.Context, size int64, _ disk.Progress) error {
	if g.resizeErr != nil {
		if err := g.resizeErr(size); err != nil {
			return err
		}
	}
	g.resized = size
	size = (size + 511) / 512 * 512
	if size <= int64(len(g.b)) {
		g.b = g.b[:size]
	} else {
		g.b = append(g.b, make([]byte, size-int64(len(g.b)))...)
	}
	return nil
}

// uneven is a reader that returns b in pieces of random size, including 0. Then it returns the
// error, sometimes together with the last bytes.
type uneven struct {
	b   []byte
	r   *rand.Rand
	err error
}

func (u *uneven) Read(p []byte) (int, error) {
	n := min(u.r.IntN([]int{2, 700, 70_000, 3 << 20}[u.r.IntN(4)]), len(p), len(u.b))
	n = copy(p, u.b[:n])
	u.b = u.b[n:]
	if len(u.b) == 0 && (n == 0 || u.r.IntN(2) == 0) {
		return n, u.err
	}
	return n, nil
}

// padded returns b with zeros up to the next sector.
func padded(b []byte) []byte {
	return append(bytes.Clone(b), make([]byte, (512-len(b)%512)%512)...)
}

// streamLengths are near the borders of sectors, pages, chunks, and of the bytes that are held
// back at the end.
var streamLengths = []int{
	0, 1, 511, 512, 513, 1023, 1024, 1025, 4096, 64<<10 - 513, 64<<10 - 512, 64<<10 - 511, 64<<10 - 1, 64 << 10, 64<<10 + 1, 64<<10 + 512,
	mib - 513, mib - 512, mib - 511, mib - 1, mib, mib + 1, mib + 511, mib + 512, mib + 513, 2 * mib, 2*mib - 512, 3*mib + 700,
}

// mark is the footer of these tests.
var mark = bytes.Repeat([]byte("mark"), 128)

// isMark recognises mark after exactly the given number of bytes.
func isMark(before int) func([]byte, int64) bool {
	return func(b []byte, n int64) bool { return bytes.Equal(b, mark) && n == int64(before) }
}

// TestReadFrom reads streams of random contents and pieces.
func TestReadFrom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := source(t).b
		if extra := rapid.IntRange(0, 511).Draw(t, "odd bytes"); extra > 0 {
			data = append(data, bytes.Repeat([]byte{0xaa}, extra)...)
		}
		stream := bytes.Clone(data)
		var trailer func([]byte, int64) bool
		switch rapid.SampledFrom([]string{"none", "there", "not there", "elsewhere"}).Draw(t, "footer") {
		case "there":
			stream = append(stream, mark...)
			trailer = isMark(len(data))
		case "not there":
			trailer = isMark(len(data))
		case "elsewhere":
			stream = append(stream, mark...)
			data = stream
			trailer = isMark(len(stream) - 511)
		}
		dst := &growing{target: target{zeroed: rapid.Bool().Draw(t, "zeroed")}}
		o := &convert.Options{
			SparseSize: rapid.SampledFrom([]int64{0, 512, 64 << 10, 16 * mib}).Draw(t, "sparse size"),
			Allocate:   rapid.Bool().Draw(t, "allocate"),
		}
		last := int64(0)
		o.Progress = func(done, total int64) {
			if done < last || total != 0 {
				t.Errorf("progress %d of %d after %d", done, total, last)
			}
			last = done
		}
		n, err := convert.ReadFrom(context.Background(), dst, &uneven{stream, seeded(t), io.EOF}, trailer, o)
		if err != nil || n != int64(len(data)) {
			t.Fatalf("got %d, %v; want %d", n, err, len(data))
		}
		if !bytes.Equal(dst.b, padded(data)) || dst.resized != n {
			t.Fatalf("the target of %d bytes, last resized to %d, differs from the stream of %d", len(dst.b), dst.resized, len(data))
		}
		if last != n {
			t.Errorf("the last progress was %d, want %d", last, n)
		}
		if want := dataBytes(data, o.SparseSize); dst.zeroed && !o.Allocate && dst.written > want {
			t.Errorf("%d bytes written, want at most %d", dst.written, want)
		}
		if (!dst.zeroed || o.Allocate) && dst.written != n {
			t.Errorf("%d bytes written, want all %d", dst.written, n)
		}
	})
}

// TestReadFromFiles reads streams into new files of all kinds. They equal the files that Copy
// writes, except that a dynamic image has its BAT at another offset.
func TestReadFromFiles(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		src := source(t)
		block := rapid.SampledFrom([]int64{4 << 10, 64 << 10, 2 * mib}).Draw(t, "block size")
		kind := rapid.SampledFrom([]string{"raw", "fixed", "dynamic"}).Draw(t, "kind")
		grown, whole := filepath.Join(dir, "grown"), filepath.Join(dir, "whole")
		dst := newGrowing(t, grown, kind, block)
		if _, err := convert.ReadFrom(context.Background(), dst, &uneven{src.b, seeded(t), io.EOF}, nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := dst.Close(); err != nil {
			t.Fatal(err)
		}
		checkImage(t, grown, kind, src.b, block, 0)
		if kind == "dynamic" {
			return
		}
		other := newImage(t, whole, kind, src.Size(), block)
		if err := convert.Copy(context.Background(), other, src, nil); err != nil {
			t.Fatal(err)
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(grown)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(whole)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%s: the file differs from the one that Copy makes", kind)
		}
	})
}

// newGrowing is newImage for an unknown size.
func newGrowing(t *rapid.T, name, kind string, block int64) convert.GrowingTarget {
	if kind == "raw" {
		d, err := createRaw(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	o := &vhd.CreateOptions{Type: vhd.Fixed, Growing: true, Exact: true, UniqueID: uuid.UUID{1}, Time: time.Unix(1_600_000_000, 0)}
	if kind == "dynamic" {
		o.Type, o.BlockSize = vhd.Dynamic, block
	}
	img, err := vhd.Create(name, o)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestTrailer reads streams of critical lengths with a footer, in pieces of all kinds.
func TestTrailer(t *testing.T) {
	all := plain(3*mib + 700).b
	readers := map[string]func(io.Reader) io.Reader{
		"whole":       func(r io.Reader) io.Reader { return r },
		"halves":      iotest.HalfReader,
		"EOF at once": iotest.DataErrReader,
		"uneven": func(r io.Reader) io.Reader {
			b, _ := io.ReadAll(r)
			return &uneven{b, rand.New(rand.NewPCG(1, 2)), io.EOF}
		},
	}
	for _, n := range streamLengths {
		for name, reader := range readers {
			for _, footer := range []bool{true, false} {
				t.Run(fmt.Sprintf("%d/%s/footer=%v", n, name, footer), func(t *testing.T) {
					data := all[:n]
					stream := bytes.Clone(data)
					asked := 0
					trailer := func(b []byte, before int64) bool {
						asked++
						if len(b) != 512 || before != int64(n) && footer {
							t.Errorf("shown %d bytes after %d, want 512 after %d", len(b), before, n)
						}
						return isMark(n)(b, before)
					}
					if footer {
						stream = append(stream, mark...)
					}
					dst := &growing{target: target{zeroed: true}}
					got, err := convert.ReadFrom(context.Background(), dst, reader(bytes.NewReader(stream)), trailer, nil)
					if err != nil || got != int64(n) || !bytes.Equal(dst.b, padded(data)) {
						t.Errorf("ReadFrom: %d bytes, %v; want the %d", got, err, n)
					}
					if want := min(len(stream)/512, 1); asked != want {
						t.Errorf("asked %d times, want %d", asked, want)
					}
					var out bytes.Buffer
					got, err = convert.CopyStream(context.Background(), &out, reader(bytes.NewReader(stream)), trailer, nil)
					if err != nil || got != int64(n) || !bytes.Equal(out.Bytes(), data) {
						t.Errorf("CopyStream: %d bytes, %v; want the %d", got, err, n)
					}
				})
			}
		}
	}
}

// TestStreamErrors: the error of a stream is wrapped unchanged, with its offset.
func TestStreamErrors(t *testing.T) {
	broken := errors.New("broken")
	all := plain(3*mib + 700).b
	for _, failure := range []error{broken, io.ErrUnexpectedEOF} {
		for _, n := range []int{0, 1, 600, mib, 2*mib + 700} {
			for _, trailer := range []func([]byte, int64) bool{nil, func([]byte, int64) bool { return true }} {
				t.Run(fmt.Sprintf("%v/%d/trailer=%v", failure, n, trailer != nil), func(t *testing.T) {
					check := func(what string, err error) {
						var oe *convert.OpError
						if !errors.As(err, &oe) || oe.Op != "reading" || !errors.Is(err, failure) {
							t.Fatalf("%s: got %v, want an OpError of reading: %v", what, err, failure)
						}
						// Bytes that are held back are not counted.
						if oe.Off > int64(n) || oe.Off < int64(n)-512 {
							t.Errorf("%s: at %d, want %d", what, oe.Off, n)
						}
					}
					stream := func() io.Reader { return &uneven{all[:n], rand.New(rand.NewPCG(1, uint64(n))), failure} }
					dst := &growing{target: target{zeroed: true}}
					_, err := convert.ReadFrom(context.Background(), dst, stream(), trailer, nil)
					check("ReadFrom", err)
					_, err = convert.CopyStream(context.Background(), io.Discard, stream(), trailer, nil)
					check("CopyStream", err)
				})
			}
		}
	}
}

// TestStreamWriteErrors: if the target fails, all goroutines end.
func TestStreamWriteErrors(t *testing.T) {
	broken := errors.New("broken")
	all := plain(5 * mib).b
	failing := func(off, n int64) error {
		if off <= 3*mib && 3*mib < off+n {
			return broken
		}
		return nil
	}
	check := func(what string, err error) {
		t.Helper()
		var oe *convert.OpError
		if !errors.As(err, &oe) || oe.Op != "writing" || oe.Off != 3*mib || !errors.Is(err, broken) {
			t.Errorf("%s: got %v, want an OpError of writing at %d", what, err, 3*mib)
		}
	}
	before := runtime.NumGoroutine()
	_, err := convert.ReadFrom(context.Background(), &growing{target: target{writeErr: failing}}, bytes.NewReader(all), nil, nil)
	check("ReadFrom", err)
	_, err = convert.ReadFrom(context.Background(), &growing{resizeErr: func(size int64) error { return failing(0, size) }}, bytes.NewReader(all), nil, nil)
	check("ReadFrom that cannot grow", err)
	_, err = convert.CopyStream(context.Background(), &limited{3 * mib, broken}, bytes.NewReader(all), nil, nil)
	check("CopyStream", err)
	err = convert.WriteTo(context.Background(), &limited{3 * mib, broken}, plain(5*mib), nil)
	check("WriteTo", err)
	for runtime.NumGoroutine() > before { // a leaked goroutine makes the test time out
		runtime.Gosched()
	}
	// The final size cannot be set.
	dst := &growing{resizeErr: func(size int64) error {
		if size%512 != 0 {
			return broken
		}
		return nil
	}}
	dst.b = make([]byte, 1024)
	if _, err := convert.ReadFrom(context.Background(), dst, bytes.NewReader(all[:700]), nil, nil); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

// limited is a writer that fails after a number of bytes.
type limited struct {
	n   int
	err error
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.n {
		return l.n, l.err
	}
	l.n -= len(p)
	return len(p), nil
}

// TestStreamCancel cancels while ReadFrom waits for data, and before anything was read.
func TestStreamCancel(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = w.Write([]byte("a little"))
		cancel()
	}()
	if _, err := convert.ReadFrom(ctx, &growing{}, r, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting: got %v, want %v", err, context.Canceled)
	}
	if _, err := convert.CopyStream(ctx, io.Discard, bytes.NewReader(mark), nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("CopyStream: got %v, want %v", err, context.Canceled)
	}
	if err := convert.WriteTo(ctx, io.Discard, plain(mib), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("WriteTo: got %v, want %v", err, context.Canceled)
	}
}

// TestWriteTo writes random disks. Known zeros are written without a read.
func TestWriteTo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := source(t)
		var o convert.Options
		progress(t, &o, src.Size())
		var out bytes.Buffer
		if err := convert.WriteTo(context.Background(), &out, src, &o); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), src.b) {
			t.Fatalf("%d bytes that differ from the disk of %d", out.Len(), src.Size())
		}
	})
	broken := errors.New("broken")
	src := plain(4 * mib)
	src.readErr = func(off, n int64) error {
		if off+n > 2*mib {
			return broken
		}
		return nil
	}
	var oe *convert.OpError
	var out bytes.Buffer
	if err := convert.WriteTo(context.Background(), &out, src, nil); !errors.As(err, &oe) || oe.Op != "reading" || oe.Off != 2*mib || !errors.Is(err, broken) {
		t.Errorf("got %v, want an OpError of reading at %d", err, 2*mib)
	}
	if !bytes.Equal(out.Bytes(), src.b[:2*mib]) {
		t.Errorf("%d bytes were written, want the %d that can be read", out.Len(), 2*mib)
	}
	if err := convert.WriteTo(context.Background(), io.Discard, &brokenExtents{memory: plain(4 * mib), err: broken}, nil); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}
