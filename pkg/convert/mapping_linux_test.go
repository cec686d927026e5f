//go:build linux && !portable

package convert

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

const windowSize = 8 << 20

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
	if filesystem.NewMapping(f, windowSize, chunk) == nil {
		t.Skip("files are not mapped on this file system")
	}
	return f
}

// The mapped bytes are bounded, for any number of workers.
func TestMappedMemory(t *testing.T) {
	f := mappedFile(t, make([]byte, chunk))
	for workers := 1; workers <= maxWorkers; workers++ {
		all := mappings{workers: workers}
		m := all.of(f)
		switch {
		case workers <= 8 && m == nil:
			t.Errorf("%d workers: nothing is mapped", workers)
		case m != nil && (m.Window()*int64(workers) > maxMapped || m.Window()%chunk != 0 || m.Window() == 0):
			t.Errorf("%d workers: windows of %d bytes", workers, m.Window())
		}
		all.close()
	}
}

// A file that is truncated during the copy is a read error, and does not crash the program.
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

// Comparing mapped files finds each difference, and reports the first one.
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
	// Each difference is before the ones already made.
	for _, at := range []int64{size - 1, windowSize, windowSize - 1, chunk, 5, 0} {
		if _, err := g.WriteAt([]byte{data[at] + 1}, at); err != nil {
			t.Fatal(err)
		}
		compare(at / 512 * 512)
	}
}

// countedReads is a disk that counts the reads of its contents. Its extents are the disk's
// own, so that it can be mapped.
type countedReads struct {
	disk.Disk
	n atomic.Int64
}

func (c *countedReads) ReadAt(p []byte, off int64) (int, error) {
	c.n.Add(1)
	return c.Disk.ReadAt(p, off)
}

// TestZerosAreMapped: zeros that a file stores are found in mapped memory. Each worker reads
// one chunk before the first zeros are known, and nothing after that.
func TestZerosAreMapped(t *testing.T) {
	const size, workers = 64 << 20, 2
	f := mappedFile(t, make([]byte, size))
	src := &countedReads{Disk: raw.Open(f, size)}
	to, err := os.Create(filepath.Join(t.TempDir(), "to"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	dst, err := raw.Create(to, size)
	if err != nil {
		t.Fatal(err)
	}
	if err := Copy(context.Background(), dst, src, &Options{Workers: workers}); err != nil {
		t.Fatal(err)
	}
	if n := src.n.Load(); n < 1 || n > workers {
		t.Errorf("%d of %d chunks were read, want 1 to %d", n, size/chunk, workers)
	}
}
