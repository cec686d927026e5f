package vhd_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// Data that a disk loses does not reappear when it grows again.
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
						if err := img.Resize(context.Background(), n, nil); err != nil {
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

// A new image without writes can have any size.
func TestResizeNewImage(t *testing.T) {
	for _, size := range []int64{0, 4 * kib, mib, gib, 2 * gib} {
		m := newMemFile(nil)
		img, err := vhd.CreateIn(m, &vhd.CreateOptions{Size: gib, Exact: true, BlockSize: 64 * kib})
		if err != nil {
			t.Fatal(err)
		}
		if err := img.Resize(context.Background(), size, nil); err != nil {
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

// A refused size leaves the disk unchanged.
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
			if err := img.Resize(context.Background(), size, nil); err == nil {
				t.Fatalf("in place: %t: Resize to %d: no error", inPlace, size)
			}
			sameBytes(t, fmt.Sprintf("in place: %t: contents after a refused size of %d", inPlace, size), readAll(t, img), data)
		}
	}
}

// An error of the file ends a resize. The old data can be read, by this image and by others,
// and the next try succeeds. If a flush failed, the image must be opened again first.
func TestResizeFails(t *testing.T) {
	const size = 64 * kib
	data := pattern(size, 3)
	full := errors.New("no space")
	for _, c := range []struct {
		name string
		typ  vhd.DiskType
		to   int64
	}{
		{"fixed, larger", vhd.Fixed, 2 * size},
		{"fixed, smaller", vhd.Fixed, size / 2},
		{"dynamic, larger within the space of the BAT", vhd.Dynamic, size + 8*kib},
		{"dynamic, larger than the space of the BAT", vhd.Dynamic, 8 * mib},
		{"dynamic, smaller", vhd.Dynamic, size / 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := newMemFile(nil)
			o := &vhd.CreateOptions{Type: c.typ, Size: size, Exact: true}
			if c.typ == vhd.Dynamic {
				o.BlockSize = 4 * kib
			}
			img, err := vhd.CreateIn(start, o)
			if err != nil {
				t.Fatal(err)
			}
			write(t, img, data, 0)
			syncImage(t, img)
			kept := data[:min(size, c.to)]
			for k, done := 0, false; !done; k++ {
				m := newMemFile(start.bytes())
				img := openMem(t, m)
				n, unflushed := 0, false
				m.before = func(ch change) (int, error) {
					if n++; n > k {
						unflushed = unflushed || ch.op == "sync"
						return 0, full
					}
					return len(ch.data), nil
				}
				err := img.Resize(context.Background(), c.to, nil)
				m.before = nil
				if done = err == nil; !done && !errors.Is(err, full) {
					t.Fatalf("change %d fails: %v", k, err)
				}
				failed := hasFailed(t, img)
				if unflushed && !failed {
					t.Fatalf("flushing failed before change %d, and the image can be used", k)
				}
				if !failed {
					sameBytes(t, fmt.Sprintf("change %d failed, this image", k), readAll(t, img)[:len(kept)], kept)
				}
				sameBytes(t, fmt.Sprintf("change %d failed, another reader", k), readAll(t, openBytes(t, m.bytes(), nil))[:len(kept)], kept)
				if err = img.Resize(context.Background(), c.to, nil); failed {
					if !errors.Is(err, vhd.ErrFailed) || unflushed && !errors.Is(err, vhd.ErrNotDurable) {
						t.Fatalf("change %d failed, and the next try: %v", k, err)
					}
					img = openMem(t, m)
					err = img.Resize(context.Background(), c.to, nil)
				}
				if err != nil {
					t.Fatalf("change %d failed, and the next try: %v", k, err)
				}
				if err := img.Close(); err != nil {
					t.Fatal(err)
				}
				again := openBytes(t, m.bytes(), nil)
				if again.Size() != c.to {
					t.Fatalf("change %d failed: after the next try the size is %d, want %d", k, again.Size(), c.to)
				}
				got := readAll(t, again)
				if failed && c.typ == vhd.Fixed && c.to > size && string(got[size:][:8]) == "conectix" {
					// As after a crash: the old footer was there, and an image that was opened
					// again does not know.
					clear(got[size:][:sector])
				}
				sameBytes(t, fmt.Sprintf("change %d failed, after the next try", k), got[:len(kept)], kept)
				sameBytes(t, fmt.Sprintf("change %d failed, what was gained", k), got[len(kept):], make([]byte, len(got)-len(kept)))
				noErrors(t, m.bytes())
			}
		})
	}
}

// The BAT of a growing disk stays before the blocks, with XenServer's batmap after it.
// XenServer's tools refuse an image whose blocks start before the end of its metadata.
func TestGrownBATStaysInFront(t *testing.T) {
	const blockSize = 4 * kib
	c := craft{size: 20 * blockSize}
	for i := range 10 {
		c.blocks = append(c.blocks, block{19 - 2*i, int64(4 + 9*i), nil, pattern(blockSize, byte(i))})
	}
	for name, start := range map[string][]byte{"dynamic": c.bytes(), "with a batmap": xenImage(c)} {
		for _, blocks := range []int64{129, 300, 3000, 20000} {
			t.Run(fmt.Sprintf("%s, %d blocks", name, blocks), func(t *testing.T) {
				m := newMemFile(start)
				img := openMem(t, m)
				want := append(readAll(t, img), make([]byte, (blocks-20)*blockSize)...)
				must(t, img.Resize(context.Background(), blocks*blockSize, nil))
				must(t, img.Close())
				b := m.bytes()
				sameBytes(t, "contents", readAll(t, openBytes(t, b, nil)), want)
				at := int64(be.Uint64(b[512+16:]))
				end := at + (blocks*4+511)/512*512
				if name != "dynamic" {
					if string(b[end:end+8]) != "tdbatmap" {
						t.Fatalf("no batmap after the BAT")
					}
					end = int64(be.Uint64(b[end+8:])) + int64(be.Uint32(b[end+16:]))*512
				}
				for i := range blocks {
					if e := be.Uint32(b[at+4*i:]); at != 1536 || e != unused && int64(e)*512 < end {
						t.Errorf("the BAT is at %d, block %d at %d, and the metadata ends at %d", at, i, int64(e)*512, end)
					}
				}
				fs, n := findings(t, b)
				if n.Errors > 0 || n.Leaked > 0 {
					t.Errorf("%+v, %v", n, fs)
				}
			})
		}
	}
}

// A shrink whose context ends while blocks move leaves the new size, with all its data, and a
// usable image.
func TestShrinkInterrupted(t *testing.T) {
	const blockSize, blocks = 512 * kib, 200
	m := newMemFile(nil)
	img, err := vhd.CreateIn(m, &vhd.CreateOptions{Size: blocks * blockSize, Exact: true, BlockSize: blockSize})
	must(t, err)
	for i := int64(blocks) - 1; i >= 0; i-- { // the remaining blocks are at the end of the file
		write(t, img, pattern(blockSize, byte(i)), i*blockSize)
	}
	must(t, img.Close())
	const kept = blocks / 2 * blockSize
	want := readAll(t, openBytes(t, m.bytes(), nil))[:kept]
	img = openMem(t, m)
	ctx, cancel := context.WithCancel(context.Background())
	calls := 0
	err = img.Resize(ctx, kept, func(done, total int64) {
		if calls++; calls == 3 {
			cancel()
		}
		if done <= 0 || done > total || total != kept/blockSize*(blockSize+512) {
			t.Errorf("progress: %d of %d", done, total)
		}
	})
	if !errors.Is(err, context.Canceled) || calls != 3 {
		t.Fatalf("%v after %d blocks; want that of the context after 3", err, calls)
	}
	if img.Size() != kept {
		t.Fatalf("the disk has %d bytes, want %d", img.Size(), kept)
	}
	sameBytes(t, "contents", readAll(t, img), want)
	write(t, img, []byte("more"), 5)
	must(t, img.Close())
	copy(want[5:], "more")
	sameBytes(t, "contents when closed", readAll(t, openBytes(t, m.bytes(), nil)), want)
	noErrors(t, m.bytes())
}

// In a packed file with an aligned length the next block goes where the padding before the
// footer is. Data of former blocks does not show.
func TestEmptiedPackedPages(t *testing.T) {
	const blockSize, blocks = 4 * kib, 10
	m := newMemFile(nil)
	img, err := vhd.CreateIn(m, &vhd.CreateOptions{Size: blocks * blockSize, Exact: true, BlockSize: blockSize, DataAlign: 512, FileAlign: 4096})
	must(t, err)
	write(t, img, pattern(blocks*blockSize, 3), 0)
	must(t, img.Close())
	img = openMem(t, m)
	must(t, img.Empty(context.Background(), nil))
	want := make([]byte, blocks*blockSize)
	for _, off := range []int{5*blockSize + 700, 2*blockSize + 100} {
		copy(want[off:], "new")
		write(t, img, []byte("new"), int64(off))
	}
	sameBytes(t, "contents", readAll(t, img), want)
	must(t, img.Close())
	sameBytes(t, "contents when closed", readAll(t, openBytes(t, m.bytes(), nil)), want)
}
