package interop

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// newRand returns random numbers that depend only on the seed.
func newRand(seed uint64) (*rand.Rand, io.Reader) {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	c := rand.NewChaCha8(key)
	return rand.New(c), c
}

// fill returns n random bytes.
func fill(r io.Reader, n int) []byte {
	b := make([]byte, n)
	_, _ = io.ReadFull(r, b)
	return b
}

// write fills a range with one value, as qemu-io does.
type write struct {
	off, n int64
	value  byte
}

// command returns the write as a command of qemu-io.
func (w write) command() string {
	if w.value == 0 {
		return fmt.Sprintf("write -z %d %d", w.off, w.n)
	}
	return fmt.Sprintf("write -P %d %d %d", w.value, w.off, w.n)
}

// model has the bytes that a disk must return.
type model []byte

func (m model) apply(ws []write) {
	for _, w := range ws {
		b := m[w.off : w.off+w.n]
		for i := range b {
			b[i] = w.value
		}
	}
}

// randomWrites returns writes of all sizes. Some write zeros, some cross borders of blocks, and
// one writes the last bytes of the disk.
func randomWrites(r *rand.Rand, size int64, count int) []write {
	var ws []write
	for i := range count {
		n := 1 + r.Int64N([]int64{700, 5000, 70_000, 3 * mib}[r.IntN(4)])
		n = min(n, size)
		off := r.Int64N(size - n + 1)
		switch r.IntN(4) {
		case 0: // whole sectors
			off, n = off/512*512, max(n/512*512, 512)
			n = min(n, size-off)
		case 1: // over a border
			border := (off + 2*mib - 1) / (2 * mib) * (2 * mib)
			if border-n/2 >= 0 && border+n <= size {
				off = border - n/2
			}
		}
		if i == 0 {
			off = size - n
		}
		value := byte(1 + r.IntN(255))
		if r.IntN(5) == 0 {
			value = 0
		}
		ws = append(ws, write{off, n, value})
	}
	return ws
}

// ours writes with the engine, in place.
func ours(t *testing.T, image string, ws []write) {
	t.Helper()
	img, err := vhd.Open(image, &vhd.OpenOptions{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range ws {
		if w.value == 0 {
			err = img.WriteZeroes(w.off, w.n)
		} else {
			_, err = img.WriteAt(bytes.Repeat([]byte{w.value}, int(w.n)), w.off)
		}
		if err == nil && i == len(ws)/2 { // both Close alone and a Sync in between must work
			err = img.Sync()
		}
		if err != nil {
			t.Fatalf("%s: %+v: %v", image, w, err)
		}
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
}

// same compares bytes and reports the first difference.
func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("%s: byte %d (sector %d) of %d is %#x, want %#x", what, i, i/512, len(want), got[i], want[i])
		}
	}
	t.Fatalf("%s: %d bytes, want %d", what, len(got), len(want))
}

// readOurs returns the disk as the engine reads it.
func readOurs(t *testing.T, image string) []byte {
	t.Helper()
	img, err := vhd.Open(image, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	b := make([]byte, img.Size())
	if n, err := img.ReadAt(b, 0); n != len(b) || err != nil && err != io.EOF {
		t.Fatalf("%s: read of %d bytes: %d, %v", image, len(b), n, err)
	}
	return b
}

// checkClean fails the test if Check finds anything, including warnings.
func checkClean(t *testing.T, image string, allowed ...string) vhd.Counts {
	t.Helper()
	f, size, err := disk.OpenFile(image, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := vhd.NewChecker(f, size, nil)
	for x, err := range c.Findings(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(allowed, x.ID) {
			t.Errorf("%s: %v: %v", image, x.Severity, x)
		}
	}
	return c.Counts()
}

// create creates an image with the contents of a raw file.
func create(t *testing.T, image, source string, o vhd.CreateOptions) (size int64) {
	t.Helper()
	f, n, err := disk.OpenFile(source, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	src := raw.Open(f, n)
	defer src.Close()
	o.Size = src.Size()
	img, err := vhd.Create(image, &o)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Discard()
	if err := convert.Copy(context.Background(), img, src, nil); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	return img.Size()
}

// writeFile creates a file of n bytes that is a hole except for the pieces.
func writeFile(t *testing.T, name string, n int64, pieces map[int64][]byte) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(n); err != nil {
		t.Fatal(err)
	}
	for off, b := range pieces {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
}
