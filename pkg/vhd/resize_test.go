package vhd_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// What a disk lost does not come back when it grows again.
func TestResizeShowsNoOldData(t *testing.T) {
	const size = 4 * kib
	data := pattern(size, 1)
	for _, typ := range []vhd.DiskType{vhd.Fixed, vhd.Dynamic} {
		for _, inPlace := range []bool{false, true} {
			for _, less := range []int64{0, 512, 1024, size - 512} {
				t.Run(fmt.Sprintf("%v, in place: %t, to %d bytes", typ, inPlace, less), func(t *testing.T) {
					o := &vhd.CreateOptions{Type: typ, Size: size, Exact: true}
					if typ == vhd.Dynamic {
						o.BlockSize = size
					}
					m := newMemFile(nil)
					img, err := vhd.CreateIn(m, o)
					if err != nil {
						t.Fatal(err)
					}
					write(t, img, data, 0)
					if inPlace {
						syncImage(t, img)
						img = openMem(t, m)
					} else if typ == vhd.Dynamic && less == 0 {
						t.Skip("a new image keeps the blocks that were written")
					}
					for _, n := range []int64{less, 2 * size} {
						if err := img.Resize(n); err != nil {
							t.Fatal(err)
						}
					}
					want := append(slices.Clone(data[:less]), make([]byte, 2*size-less)...)
					sameBytes(t, "contents", readAll(t, img), want)
					if err := img.Close(); err != nil {
						t.Fatal(err)
					}
					sameBytes(t, "contents for another reader", readAll(t, openBytes(t, m.bytes(), nil)), want)
					noErrors(t, m.bytes())
				})
			}
		}
	}
}

// A new image that nothing was written to can have any size.
func TestResizeNewImage(t *testing.T) {
	for _, size := range []int64{0, 4 * kib, mib, gib, 2 * gib} {
		m := newMemFile(nil)
		img, err := vhd.CreateIn(m, &vhd.CreateOptions{Size: gib, Exact: true, BlockSize: 64 * kib})
		if err != nil {
			t.Fatal(err)
		}
		if err := img.Resize(size); err != nil {
			t.Fatal(err)
		}
		if err := img.Close(); err != nil {
			t.Fatal(err)
		}
		want := create(t, &vhd.CreateOptions{
			Size: size, Exact: true, BlockSize: 64 * kib, UniqueID: img.Footer().UniqueID, Time: img.Footer().Timestamp.Time(),
		})
		sameBytes(t, fmt.Sprintf("image resized to %d bytes", size), m.bytes(), want.bytes())
	}
}

// A size that is refused leaves the disk as it is.
func TestRefusedResizeChangesNothing(t *testing.T) {
	const blockSize = 4 * kib
	data := pattern(2*blockSize, 1)
	for _, inPlace := range []bool{false, true} {
		m := newMemFile(nil)
		img, err := vhd.CreateIn(m, &vhd.CreateOptions{Size: 2 * blockSize, Exact: true, BlockSize: blockSize})
		if err != nil {
			t.Fatal(err)
		}
		write(t, img, data, 0)
		refused := []int64{-1, 2040*gib + 1}
		if inPlace {
			syncImage(t, img)
			img = openMem(t, m)
		} else {
			refused = append(refused, 512, 0) // a new image keeps its blocks
		}
		for _, size := range refused {
			if err := img.Resize(size); err == nil {
				t.Fatalf("in place: %t: Resize to %d: no error", inPlace, size)
			}
			sameBytes(t, fmt.Sprintf("in place: %t: contents after a refused size of %d", inPlace, size), readAll(t, img), data)
		}
	}
}
