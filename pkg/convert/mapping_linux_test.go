//go:build linux && !portable

package convert

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/raw"
)

const windowSize = 8 << 20

// mappedFile is a file that is mapped here; where none is, the test is skipped.
func mappedFile(t *testing.T, data []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if newMapping(f, windowSize) == nil {
		t.Skip("files are not mapped on this file system")
	}
	return f
}

// Views show the file, also over the ends of windows and of the file, and windows
// that nobody looks into are let go.
func TestView(t *testing.T) {
	data := make([]byte, 3*windowSize+12345)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	m := newMapping(mappedFile(t, data), windowSize)
	size := int64(len(data))
	for _, c := range []struct{ off, n int64 }{
		{0, chunk},
		{512, 1},
		{windowSize - 1, chunk},
		{windowSize - chunk, chunk},
		{2*windowSize - 4097, 2 * 4097},
		{size - 12345, 12345},
		{size - 1, 1},
		{3 * windowSize, 100},
	} {
		v, ok := m.view(c.off, c.n)
		if !ok || !bytes.Equal(v.b, data[c.off:c.off+c.n]) {
			t.Errorf("%d bytes at %d: %t, or other bytes", c.n, c.off, ok)
			continue
		}
		v.close()
		if len(m.windows) != 1 {
			t.Errorf("%d windows, want the last one", len(m.windows))
		}
	}
	for _, c := range []struct{ off, n int64 }{{size, 1}, {size - 1, 2}, {4 * windowSize, 1}} {
		if _, ok := m.view(c.off, c.n); ok {
			t.Errorf("%d bytes at %d, behind the end at %d: a view", c.n, c.off, size)
		}
	}
	m.close()
}

// However many workers there are, what they have mapped is bounded.
func TestMappedMemory(t *testing.T) {
	f := mappedFile(t, make([]byte, chunk))
	for workers := 1; workers <= maxWorkers; workers++ {
		all := mappings{workers: workers}
		m := all.of(f)
		switch {
		case workers <= 8 && m == nil:
			t.Errorf("%d workers: nothing is mapped", workers)
		case m != nil && (m.window*int64(workers) > maxMapped || m.window%chunk != 0 || m.window == 0):
			t.Errorf("%d workers: windows of %d bytes", workers, m.window)
		}
		all.close()
	}
}

// What is not in the file any more is an error, and nothing else is taken for one.
func TestGuarded(t *testing.T) {
	f := mappedFile(t, make([]byte, chunk))
	m := newMapping(f, windowSize)
	defer m.close()
	v, ok := m.view(0, chunk)
	if !ok {
		t.Fatal("no view")
	}
	defer v.close()
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	look := func() error {
		if !isZero(v.b) {
			return errors.New("not zeros")
		}
		return nil
	}
	if err := guarded(look); !errors.Is(err, errFault) {
		t.Errorf("looking behind the file's end: %v, want %v", err, errFault)
	}
	defer func() {
		if recover() == nil {
			t.Error("a nil pointer was taken for a fault of the file")
		}
	}()
	var p *piece
	_ = guarded(func() error { p.n++; return nil })
}

// A file that turns out to be shorter is an error of reading, and not the end of
// the program.
func TestMappedFileShrinks(t *testing.T) {
	const size = 8 << 20
	f := mappedFile(t, make([]byte, size))
	src := raw.Open(f, size)
	o := &Options{Workers: 1, Progress: func(done, _ int64) {
		if done < size/2 {
			_ = f.Truncate(size / 2)
		}
	}}
	to, err := os.Create(filepath.Join(t.TempDir(), "to"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	dst, err := raw.Create(to, size)
	if err != nil {
		t.Fatal(err)
	}
	var op *OpError
	if err := Copy(context.Background(), dst, src, o); !errors.As(err, &op) || op.Op != "reading" {
		t.Errorf("got %v, want an error of reading", err)
	}
}

// Files are compared in memory: each difference is found, and the first one told.
func TestCompareMapped(t *testing.T) {
	size := int64(windowSize + 3<<20 + 512)
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data[size/2:]) // the first half is zeros
	f, g := mappedFile(t, data), mappedFile(t, data)
	a, b := raw.Open(f, size), raw.Open(g, size)
	compare := func(want int64) {
		t.Helper()
		for _, workers := range []int{1, 3} {
			if at, err := Compare(context.Background(), a, b, &CompareOptions{Workers: workers}); at != want || err != nil {
				t.Errorf("%d workers: the first difference is at %d, %v; want %d", workers, at, err, want)
			}
		}
	}
	compare(-1)
	for _, at := range []int64{size - 1, windowSize, windowSize - 1, chunk, 5, 0} { // each before those that are there
		if _, err := g.WriteAt([]byte{data[at] + 1}, at); err != nil {
			t.Fatal(err)
		}
		compare(at / 512 * 512)
	}
}
