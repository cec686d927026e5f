package interop

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// resize changes the size of an image and returns its new size.
func resize(t *testing.T, image string, size int64) int64 {
	t.Helper()
	img, err := vhd.Open(image, &vhd.OpenOptions{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	err = img.Resize(context.Background(), size, nil)
	size = img.Size()
	if cerr := img.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// TestResizeTakeTurns resizes images of vhdtool and qemu at random. In between, qemu-io and the
// engine write to them.
func TestResizeTakeTurns(t *testing.T) {
	makers := qemuMakers(t)
	for _, creator := range []vhd.Creator{vhd.CreatorQEMU, vhd.CreatorWindows, vhd.CreatorVirtualBox} {
		for _, block := range []int64{0, 4 * kib, 64 * kib, 2 * mib} { // 0: fixed
			o := vhd.CreateOptions{Exact: creator != vhd.CreatorQEMU, BlockSize: block, Creator: creator}
			if block == 0 {
				o.Type = vhd.Fixed
			}
			makers[fmt.Sprintf("ours/%v/block=%d", creator, block)] = ourMaker(o)
		}
	}
	for name, make := range makers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resizeTakeTurns(t, name, make)
		})
	}
}

func resizeTakeTurns(t *testing.T, name string, create maker) {
	image := filepath.Join(t.TempDir(), "image.vhd")
	r, _ := newRand(400 + uint64(len(name)))
	create(t, image, 2*mib+r.Int64N(3*mib))
	m := make(model, sizeTheirs(t, image))
	for turn := range 4 {
		ws := randomWrites(r, int64(len(m)), 1+r.IntN(6))
		if turn%2 == 0 {
			theirs(t, image, ws)
		} else {
			ours(t, image, ws)
		}
		m.apply(ws)

		asked := 1 + r.Int64N(9*mib)
		got := resize(t, image, asked)
		if got < asked || got > asked+4079*512 {
			t.Fatalf("turn %d: a disk of %d bytes, asked for %d", turn, got, asked)
		}
		if got <= int64(len(m)) {
			m = m[:got:got]
		} else {
			m = append(m, bytes.Repeat([]byte{0}, int(got)-len(m))...)
		}
		what := fmt.Sprintf("turn %d, resized to %d", turn, got)
		if n := sizeTheirs(t, image); n != got {
			t.Fatalf("%s: qemu sees %d bytes", what, n)
		}
		same(t, what+", read by qemu", readTheirs(t, image), m)
		same(t, what+", read by us", readOurs(t, image), m)
		checkClean(t, image)
	}
}

// TestResizeFar grows a disk with scattered data several times, so far that its BAT must move,
// and shrinks it again.
func TestResizeFar(t *testing.T) {
	oracle.Need(t, "qemu-img", "qemu-io")
	for _, block := range []int64{4 * kib, 2 * mib} {
		t.Run(fmt.Sprint(block), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			source, image := filepath.Join(dir, "source.raw"), filepath.Join(dir, "image.vhd")
			_, r := newRand(6)
			writeFile(t, source, 3*mib, map[int64][]byte{0: fill(r, 5000), 3*mib - 512: fill(r, 512)})
			create(t, image, source, vhd.CreateOptions{Exact: true, BlockSize: block})
			writeBoth := func(by func(*testing.T, string, []write), w write) {
				t.Helper()
				by(t, image, []write{w})
				f, err := os.OpenFile(source, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt(bytes.Repeat([]byte{w.value}, int(w.n)), w.off); err != nil {
					t.Fatal(err)
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
			}
			for _, size := range []int64{100 * mib, 3 << 30, 8 << 30, 200 * mib, 40 << 30, 5 * mib} {
				if size > 8<<30 && block < mib {
					continue // a BAT of 40 MiB makes it slow
				}
				if got := resize(t, image, size); got != size {
					t.Fatalf("a disk of %d bytes, asked for %d", got, size)
				}
				if err := os.Truncate(source, size); err != nil {
					t.Fatal(err)
				}
				compareTheirs(t, image, source)
				compareOurs(t, image, source)
				checkClean(t, image)
				writeBoth(theirs, write{off: size - 700, n: 700, value: 3})
				writeBoth(ours, write{off: size/2 - 100, n: 5000, value: 4})
				writeBoth(theirs, write{off: size / 3, n: 512, value: 5})
				compareTheirs(t, image, source)
				compareOurs(t, image, source)
				checkClean(t, image)
			}
		})
	}
}
