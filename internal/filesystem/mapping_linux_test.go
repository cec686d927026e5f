//go:build linux && !portable

package filesystem

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

const (
	windowSize = 8 << 20
	longest    = 1 << 20 // view
)

// mappedFile creates a mapped file. It skips the test if files are not mapped here.
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
	if NewMapping(f, windowSize, longest) == nil {
		t.Skip("files are not mapped on this file system")
	}
	return f
}

// Views show the file, also across the ends of windows and of the file. Windows without users are
// closed.
func TestView(t *testing.T) {
	data := make([]byte, 3*windowSize+12345)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	m := NewMapping(mappedFile(t, data), windowSize, longest)
	size := int64(len(data))
	for _, c := range []struct{ off, n int64 }{
		{0, longest},
		{512, 1},
		{windowSize - 1, longest},
		{windowSize - longest, longest},
		{2*windowSize - 4097, 2 * 4097},
		{size - 12345, 12345},
		{size - 1, 1},
		{3 * windowSize, 100},
	} {
		v, ok := m.View(c.off, c.n)
		if !ok || !bytes.Equal(v.B, data[c.off:c.off+c.n]) {
			t.Errorf("%d bytes at %d: %t, or other bytes", c.n, c.off, ok)
			continue
		}
		v.Close()
		if len(m.windows) != 1 {
			t.Errorf("%d windows, want the last one", len(m.windows))
		}
	}
	for _, c := range []struct{ off, n int64 }{{size, 1}, {size - 1, 2}, {4 * windowSize, 1}} {
		if _, ok := m.View(c.off, c.n); ok {
			t.Errorf("%d bytes at %d, past the end at %d: a view", c.n, c.off, size)
		}
	}
	m.Close()
}

// Reading mapped bytes that were cut off the file is an error. A nil pointer is not.
func TestGuarded(t *testing.T) {
	f := mappedFile(t, make([]byte, longest))
	m := NewMapping(f, windowSize, longest)
	defer m.Close()
	v, ok := m.View(0, longest)
	if !ok {
		t.Fatal("no view")
	}
	defer v.Close()
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	look := func() error {
		if !bytes.Equal(v.B, make([]byte, longest)) {
			return errors.New("not zeros")
		}
		return nil
	}
	if err := Guarded(look); !errors.Is(err, ErrFault) {
		t.Errorf("reading past the file's end: %v, want %v", err, ErrFault)
	}
	defer func() {
		if recover() == nil {
			t.Error("a nil pointer counts as a fault of the file")
		}
	}()
	var p *View
	_ = Guarded(func() error { p.B = nil; return nil })
}
