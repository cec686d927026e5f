package vhd_test

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

func BenchmarkRoundToGeometry(b *testing.B) {
	b.ReportAllocs()
	for i := range b.N {
		vhd.RoundToGeometry(int64(i) * 7919 % vhd.MaxSectors)
	}
}

// BenchmarkReadAt and BenchmarkWriteAt move 4 KiB at random places of allocated
// blocks, in memory.
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
