package vhd_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/internal/atomicfile"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// uncutFile is a file that can grow, but not be truncated, not even to its own length.
type uncutFile struct {
	*os.File
	t *testing.T
}

func (f uncutFile) Size() (int64, error) { return disk.FileSize(f.File) }

func (f uncutFile) Truncate(n int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if n <= st.Size() {
		f.t.Errorf("truncated to %d bytes, and has %d", n, st.Size())
	}
	return f.File.Truncate(n)
}

// TestNewFileGrows: the file of a new image grows as it is written, and bytes past its end read
// as zeros until then.
func TestNewFileGrows(t *testing.T) {
	const block = 1 << 20
	for name, o := range map[string]vhd.CreateOptions{
		"dynamic": {Size: 8 * block, Exact: true, BlockSize: block},
		"fixed":   {Size: 8 * block, Exact: true, Type: vhd.Fixed},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.vhd")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			img, err := vhd.CreateIn(uncutFile{f, t}, &o)
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, o.Size)
			same := func(img *vhd.Image) {
				t.Helper()
				got := make([]byte, o.Size)
				if _, err := img.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("other bytes than were written, %v", err)
				}
				checkExtents(t, img, want, 0, len(want))
			}
			// The last one in an allocated block.
			for i, off := range []int{5*block + 1000, 2 * block, 3*block - 5} {
				k := copy(want[off:], bytes.Repeat([]byte{byte(i + 1)}, 600))
				if _, err := img.WriteAt(want[off:off+k], int64(off)); err != nil {
					t.Fatal(err)
				}
				same(img)
			}
			if err := img.Close(); err != nil {
				t.Fatal(err)
			}
			img, err = vhd.Open(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			same(img)
		})
	}
}

// The name of a new image is durable if Sync is called before Close. Otherwise it costs no
// flush.
func TestCreateFlushesDirectory(t *testing.T) {
	t.Cleanup(func() { atomicfile.Flushing = nil })
	for _, synced := range []bool{false, true} {
		dir := t.TempDir()
		img, err := vhd.Create(filepath.Join(dir, "disk.vhd"), &vhd.CreateOptions{Size: mib})
		must(t, err)
		if synced {
			syncImage(t, img)
		}
		write(t, img, []byte("data"), 0)
		var flushed []string
		atomicfile.Flushing = func(dir string) { flushed = append(flushed, dir) }
		must(t, img.Close())
		if want := map[bool][]string{true: {dir}}[synced]; !slices.Equal(flushed, want) {
			t.Errorf("synced %t: directories flushed: %q, want %q", synced, flushed, want)
		}
	}
}

// The BAT of a new image that grows as it is written stays before the blocks, and the disk has
// the written contents.
func TestGrowingBATInFront(t *testing.T) {
	const blockSize = 4 * kib
	for _, align := range []int64{512, 4096} {
		m := newMemFile(nil)
		img, err := vhd.CreateIn(m, &vhd.CreateOptions{Exact: true, BlockSize: blockSize, Growing: true, DataAlign: align})
		must(t, err)
		var want []byte
		for i := range 40 {
			must(t, img.Resize(context.Background(), int64(len(want))+100*blockSize, nil))
			want = append(want, make([]byte, 100*blockSize)...)
			for _, off := range []int{len(want) - 90*blockSize + 300, len(want) - 20*blockSize - 1000} {
				copy(want[off:], pattern(2*blockSize, byte(i)))
				write(t, img, want[off:off+2*blockSize], int64(off))
			}
		}
		sameBytes(t, "contents", readAll(t, img), want)
		must(t, img.Close())
		b := m.bytes()
		sameBytes(t, "contents when closed", readAll(t, openBytes(t, b, nil)), want)
		fs, n := findings(t, b)
		if at := be.Uint64(b[512+16:]); at != 1536 || n.Errors > 0 {
			t.Errorf("alignment %d: the BAT is at %d, want 1536; %v", align, at, fs)
		}
	}
}
