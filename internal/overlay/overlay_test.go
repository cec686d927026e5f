package overlay

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/filesystem"
)

// model is a slice of bytes with the same changes.
type model struct{ b []byte }

func (m *model) write(p []byte, off int) {
	if n := off + len(p); n > len(m.b) {
		m.b = append(m.b, make([]byte, n-len(m.b))...)
	}
	copy(m.b[off:], p)
}

func (m *model) truncate(n int) {
	if n > len(m.b) {
		m.b = append(m.b, make([]byte, n-len(m.b))...)
	}
	m.b = append([]byte(nil), m.b[:n]...)
}

// A File reads as if each change were made, and reports holes only where zeros are. The file below
// does not change.
func TestChanges(t *testing.T) {
	name := filepath.Join(t.TempDir(), "base")
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		original := make([]byte, rnd.IntN(40000))
		for range 3 {
			if n := len(original); n > 0 {
				at := rnd.IntN(n)
				copy(original[at:], bytes.Repeat([]byte{byte(1 + rnd.IntN(255))}, rnd.IntN(9000)))
			}
		}
		if err := os.WriteFile(name, original, 0o600); err != nil {
			t.Fatal(err)
		}
		base, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		f, m := New(base, int64(len(original))), &model{bytes.Clone(original)}
		for step := range 40 {
			switch rnd.IntN(5) {
			case 0:
				n := rnd.IntN(60000)
				if err := f.Truncate(int64(n)); err != nil {
					t.Fatal(err)
				}
				m.truncate(n)
			default:
				p := bytes.Repeat([]byte{byte(rnd.IntN(3) * rnd.IntN(256))}, rnd.IntN(10000))
				off := rnd.IntN(50000)
				if n, err := f.WriteAt(p, int64(off)); n != len(p) || err != nil {
					t.Fatalf("WriteAt of %d bytes: %d, %v", len(p), n, err)
				}
				if len(p) > 0 {
					m.write(p, off)
				}
			}
			compare(t, seed, step, f, m.b)
		}
		if now, err := os.ReadFile(name); err != nil || !bytes.Equal(now, original) {
			t.Fatalf("seed %d: the file below has changed (%v)", seed, err)
		}
		if err := errors.Join(f.Close(), base.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func compare(t *testing.T, seed uint64, step int, f *File, want []byte) {
	t.Helper()
	if size, _ := f.Size(); size != int64(len(want)) {
		t.Fatalf("seed %d, step %d: %d bytes, want %d", seed, step, size, len(want))
	}
	got := make([]byte, len(want)+10)
	if n, err := f.ReadAt(got, 0); n != len(want) || !errors.Is(err, io.EOF) {
		t.Fatalf("seed %d, step %d: ReadAt: %d, %v; want %d and EOF", seed, step, n, err, len(want))
	}
	if !bytes.Equal(got[:len(want)], want) {
		t.Fatalf("seed %d, step %d: the contents differ", seed, step)
	}
	holes := filesystem.NewHoleMap(f)
	for off := int64(0); off < int64(len(want)); {
		end, data, err := holes.At(off, int64(len(want)))
		if err != nil || end <= off {
			t.Fatalf("seed %d, step %d: the run at %d ends at %d (%v)", seed, step, off, end, err)
		}
		if !data && len(bytes.Trim(want[off:end], "\x00")) > 0 {
			t.Fatalf("seed %d, step %d: a hole from %d to %d, where data is", seed, step, off, end)
		}
		off = end
	}
}

// Changes that exceed the memory limit are kept in a temporary file, which is removed.
func TestManyChanges(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("TMP", dir)
	f := New(bytes.NewReader(nil), 0)
	page := func(i int) []byte { return bytes.Repeat([]byte{byte(1 + i%255)}, pageSize) }
	const pages = memoryPages + 100
	for i := range pages {
		if _, err := f.WriteAt(page(i), int64(i)*pageSize); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.memory) > memoryPages || f.spill == nil {
		t.Errorf("%d pages are in memory, want at most %d", len(f.memory), memoryPages)
	}
	b := make([]byte, pageSize)
	for i := range pages {
		if _, err := f.ReadAt(b, int64(i)*pageSize); err != nil || !bytes.Equal(b, page(i)) {
			t.Fatalf("page %d differs (%v)", i, err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v is left (%v)", left, err)
	}
}

// fixedLength is a device.
type fixedLength struct{ *bytes.Reader }

func (fixedLength) FixedLength() bool { return true }

// A device does not change its length.
func TestDevice(t *testing.T) {
	f := New(fixedLength{bytes.NewReader(make([]byte, 1024))}, 1024)
	if _, err := f.WriteAt(make([]byte, 512), 1000); err == nil {
		t.Error("a write beyond the end of a device succeeds")
	}
	if err := f.Truncate(512); err == nil {
		t.Error("a device is truncated")
	}
	if n, err := f.WriteAt(make([]byte, 512), 512); n != 512 || err != nil {
		t.Errorf("WriteAt at the end: %d, %v", n, err)
	}
}
