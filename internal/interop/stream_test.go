package interop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// onlyReader hides that a file can seek.
type onlyReader struct{ io.Reader }

// streamIn makes an image of what comes through a pipe from a raw file.
func streamIn(t *testing.T, image, source string, o vhd.CreateOptions) {
	t.Helper()
	f, err := os.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o.Growing = true
	img, err := vhd.Create(image, &o)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Discard()
	if _, err := convert.ReadFrom(context.Background(), img, onlyReader{f}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
}

// streamOut writes an image of a raw file in order.
func streamOut(t *testing.T, image, source string, o vhd.CreateOptions) {
	t.Helper()
	f, n, err := disk.OpenFile(source, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	src := raw.Open(f, n)
	defer src.Close()
	o.Size = src.Size()
	_, blockSize, err := o.BlockLayout()
	if err != nil {
		t.Fatal(err)
	}
	var used []int64
	if blockSize > 0 {
		if used, err = convert.UsedBlocks(context.Background(), src, blockSize, nil); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := vhd.WriteStream(context.Background(), &b, &o, src, used, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
}

// TestPeersReadStreams has qemu and vhdiinfo read images that came from a pipe,
// and images that went into one.
func TestPeersReadStreams(t *testing.T) {
	oracle.Need(t, "qemu-img", "vhdiinfo")
	type maker func(t *testing.T, image, source string, o vhd.CreateOptions)
	for way, make := range map[string]maker{"in": streamIn, "out": streamOut} {
		for name, source := range sources(t) {
			for _, block := range []int64{0, 4 * kib, 512 * kib, 2 * mib} { // 0: fixed
				for _, exact := range []bool{false, true} {
					o := vhd.CreateOptions{Type: vhd.Dynamic, Exact: exact, BlockSize: block}
					if block == 0 {
						o.Type = vhd.Fixed
					}
					t.Run(fmt.Sprintf("%s/%s/block=%d/exact=%v", way, name, block, exact), func(t *testing.T) {
						t.Parallel()
						image := filepath.Join(t.TempDir(), "image.vhd")
						make(t, image, source, o)
						want, err := os.ReadFile(source)
						if err != nil {
							t.Fatal(err)
						}
						size := sizeTheirs(t, image)
						if size < int64(len(want)) || exact && size != (int64(len(want))+511)/512*512 {
							t.Errorf("qemu sees %d bytes of a source of %d", size, len(want))
						}
						want = append(want, bytes.Repeat([]byte{0}, int(size)-len(want))...)
						same(t, "read by qemu", readTheirs(t, image), want)
						same(t, "read by us", readOurs(t, image), want)
						if n := oracle.VHDInfoSize(t, image); n != size {
							t.Errorf("vhdiinfo sees %d bytes, want %d", n, size)
						}
						checkClean(t, image)
					})
				}
			}
		}
	}
}

// TestPeersReadLongStream has a stream with more blocks than there is room for
// their table in front of them, which then stands behind them; qemu-io writes
// into the image, and so do we.
func TestPeersReadLongStream(t *testing.T) {
	oracle.Need(t, "qemu-img", "qemu-io")
	_, r := newRand(5)
	dir := t.TempDir()
	// The room is for 65536 blocks: 256 MiB.
	for _, size := range []int64{256*mib - 4*kib, 256 * mib, 256*mib + 512, 300 * mib} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			source, image := filepath.Join(dir, "source.raw"), filepath.Join(dir, "image.vhd")
			writeFile(t, source, size, map[int64][]byte{0: fill(r, 5000), 100 * mib: fill(r, 300_000), size - 700: fill(r, 700)})
			streamIn(t, image, source, vhd.CreateOptions{Exact: true, BlockSize: 4 * kib})
			compareTheirs(t, image, source)
			checkClean(t, image)

			ws := []write{{off: 50 * mib, n: 10_000, value: 7}, {off: size - 512, n: 512, value: 8}}
			theirs(t, image, ws)
			ours(t, image, []write{{off: 60 * mib, n: 10_000, value: 9}})
			f, err := os.OpenFile(source, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range append(ws, write{60 * mib, 10_000, 9}) {
				if _, err := f.WriteAt(bytes.Repeat([]byte{w.value}, int(w.n)), w.off); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			compareTheirs(t, image, source)
			compareOurs(t, image, source)
			checkClean(t, image)
		})
	}
}

// compareOurs compares a VHD with a raw disk of the same size.
func compareOurs(t *testing.T, image, source string) {
	t.Helper()
	img, err := vhd.Open(image, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	f, n, err := disk.OpenFile(source, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	src := raw.Open(f, n)
	defer src.Close()
	if at, err := convert.Compare(context.Background(), img, src, nil); at >= 0 || err != nil || img.Size() != src.Size() {
		t.Errorf("the image of %d bytes differs from the disk of %d at %d (%v)", img.Size(), src.Size(), at, err)
	}
}
