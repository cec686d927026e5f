package vhd_test

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

func BenchmarkRoundToGeometry(b *testing.B) {
	b.ReportAllocs()
	for i := range b.N {
		vhd.RoundToGeometry(int64(i) * 7919 % vhd.MaxSectors)
	}
}

// BenchmarkReadAt and BenchmarkWriteAt transfer 4 KiB at random offsets in allocated blocks, in
// memory.
func BenchmarkReadAt(b *testing.B) {
	benchmarkAt(b, func(img *vhd.Image, p []byte, off int64) error {
		_, err := img.ReadAt(p, off)
		return err
	})
}

func BenchmarkWriteAt(b *testing.B) {
	benchmarkAt(b, func(img *vhd.Image, p []byte, off int64) error {
		_, err := img.WriteAt(p, off)
		return err
	})
}

func benchmarkAt(b *testing.B, do func(img *vhd.Image, p []byte, off int64) error) {
	const size = 16 * mib
	for _, blockSize := range []int64{64 * kib, 512 * kib, 2 * mib} {
		b.Run(fmt.Sprintf("block=%d", blockSize), func(b *testing.B) {
			img, err := vhd.CreateIn(newMemFile(nil), &vhd.CreateOptions{Size: size, Exact: true, BlockSize: blockSize})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := img.WriteAt(make([]byte, size), 0); err != nil {
				b.Fatal(err)
			}
			rnd := rand.New(rand.NewSource(1))
			p := make([]byte, 4096)
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				if err := do(img, p, rnd.Int63n(size/4096)*4096); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBitmapRun finds the end of a run over the bitmap of a block of 2 MiB.
func BenchmarkBitmapRun(b *testing.B) {
	bits := make([]byte, 512)
	vhd.SetBits(bits, 0, 4000)
	b.ReportAllocs()
	for b.Loop() {
		if end, set := vhd.BitmapRun(bits, 1, 4096); end != 4000 || !set {
			b.Fatal(end, set)
		}
	}
}

// The code on the path of each request allocates no memory.
func TestHotPathsDoNotAllocate(t *testing.T) {
	const size = 4 * mib
	img, err := vhd.CreateIn(newMemFile(nil), &vhd.CreateOptions{Size: size, Exact: true})
	must(t, err)
	write(t, img, make([]byte, size), 0)
	p, bits := make([]byte, 4096), make([]byte, 512)
	off := int64(0)
	for name, f := range map[string]func(){
		"RoundToGeometry": func() { vhd.RoundToGeometry(off) },
		"BitmapRun":       func() { vhd.BitmapRun(bits, off%4096, 4096) },
		"SetBits":         func() { vhd.SetBits(bits, 1, 4000) },
		"ReadAt":          func() { _, _ = img.ReadAt(p, off%size) },
		"WriteAt":         func() { _, _ = img.WriteAt(p, off%size) },
	} {
		if n := testing.AllocsPerRun(100, func() { f(); off += 4096 }); n != 0 {
			t.Errorf("%s: %v allocations each time, want none", name, n)
		}
	}
}

// BenchmarkInPlace writes into a dynamic image of 64 GiB in a file. The first write to each
// block allocates it; later writes find it allocated. Nothing is flushed during the
// measurement.
func BenchmarkInPlace(b *testing.B) {
	const size = 64 << 30
	const blocks = size / (2 * mib)
	for _, n := range []int{4 << 10, 64 << 10} {
		for _, second := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dKiB/second=%v", n>>10, second), func(b *testing.B) {
				name := filepath.Join(b.TempDir(), "disk.vhd")
				open := func() *vhd.Image {
					img, err := vhd.Create(name, &vhd.CreateOptions{Size: size, Exact: true})
					if err == nil {
						err = img.Close()
					}
					if err == nil {
						img, err = vhd.Open(name, &vhd.OpenOptions{Write: true})
					}
					if err != nil {
						b.Fatal(err)
					}
					return img
				}
				p := make([]byte, n)
				img := open()
				write := func(i int) {
					block := int64(i) * 12345 % blocks // an odd factor visits each block once
					if _, err := img.WriteAt(p, block*2*mib+int64(i)*7919*4096%(2*mib-64<<10)); err != nil {
						b.Fatal(err)
					}
				}
				touched := blocks / 16
				if second {
					for i := range touched {
						write(i)
					}
				}
				b.SetBytes(int64(n))
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					switch {
					case second:
						i %= touched
					case i == blocks:
						b.StopTimer()
						img.Close()
						img, i = open(), 0
						b.StartTimer()
					}
					write(i)
					i++
				}
				b.StopTimer()
				img.Close()
			})
		}
	}
}

// BenchmarkCheck checks images of 2040 GiB with all blocks allocated, in the order of the disk
// and in another order. The data of the blocks is a hole.
func BenchmarkCheck(b *testing.B) {
	for _, order := range []string{"disk", "shuffled"} {
		b.Run("order="+order, func(b *testing.B) {
			name := fullImage(b, order == "shuffled")
			f, size, err := disk.OpenFile(name, false, nil)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := checkImage(f, size, nil, func(x vhd.Finding) { b.Fatal(x) }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen opens the same images.
func BenchmarkOpen(b *testing.B) {
	for _, order := range []string{"disk", "shuffled"} {
		b.Run("order="+order, func(b *testing.B) {
			name := fullImage(b, order == "shuffled")
			b.ReportAllocs()
			for b.Loop() {
				img, err := vhd.Open(name, nil)
				if err != nil {
					b.Fatal(err)
				}
				img.Close()
			}
		})
	}
}

// fullImage makes an image of 2040 GiB with all blocks allocated.
func fullImage(b *testing.B, shuffled bool) string {
	const blocks, stored = 2040 * gib / (2 * mib), 2*mib + 512
	c := craft{size: 2040 * gib, blockSize: 2 * mib, bat: map[int]uint32{}}
	order := rand.New(rand.NewSource(1)).Perm(blocks)
	start := int64(1536 + blocks*4)
	for i := range blocks {
		k := i
		if shuffled {
			k = order[i]
		}
		c.bat[i] = uint32((start + int64(k)*stored) / sector)
	}
	file := c.bytes()
	footer := file[len(file)-sector:]
	name := filepath.Join(b.TempDir(), "full.vhd")
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(file[:len(file)-sector], 0); err != nil {
		b.Fatal(err)
	}
	if _, err := f.WriteAt(footer, start+blocks*stored); err != nil {
		b.Fatal(err)
	}
	return name
}
