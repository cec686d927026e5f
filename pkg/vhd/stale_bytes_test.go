package vhd_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// Stale bytes of a file or a device must neither be read as contents of the disk nor be
// recognised as a footer.

// After Sync the file has a trailing footer, its copy at the start, and no other, however many
// blocks were allocated since the last Sync.
func TestSyncLeavesNoOtherFooter(t *testing.T) {
	for _, blockSize := range []int64{4 * kib, 64 * kib} {
		for _, perSync := range []int{1, 2, 3, 7} {
			t.Run(fmt.Sprintf("blocks of %d bytes, %d at a time", blockSize, perSync), func(t *testing.T) {
				const blocks = 22
				m := create(t, &vhd.CreateOptions{Size: blocks * blockSize, Exact: true, BlockSize: blockSize})
				img := openMem(t, m)
				footers := func() (at []int) {
					b := m.bytes()
					for off := 0; off < len(b); off += sector {
						if bytes.HasPrefix(b[off:], []byte("conectix")) {
							at = append(at, off)
						}
					}
					return at
				}
				for b := range blocks {
					write(t, img, pattern(100, byte(b)), int64(b)*blockSize)
					if b%perSync != perSync-1 {
						continue
					}
					syncImage(t, img)
					if at := footers(); len(at) != 2 || at[0] != 0 || at[1] != int(m.size())-sector {
						t.Fatalf("after %d blocks there are footers at %d in a file of %d bytes, want one at 0 and one at the end", b+1, at, m.size())
					}
				}
				must(t, img.Close())
				if at := footers(); len(at) != 2 {
					t.Errorf("after Close there are footers at %d", at)
				}
			})
		}
	}
}

// Unwritten parts of a block on a device read as zeros, or as the parent, whatever the device
// held.
func TestNewBlocksOnUsedDevice(t *testing.T) {
	const blockSize, blocks = 8 * kib, 12
	parent := pattern(blocks*blockSize, 9)
	for _, c := range []struct {
		name    string
		child   bool
		inPlace bool
	}{
		{"new", false, false},
		{"in place", false, true},
		{"new child", true, false},
		{"child in place", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemFile(bytes.Repeat([]byte("what was here before"), 2*blocks*blockSize/20))
			m.mode = fs.ModeDevice
			o := &vhd.CreateOptions{Size: blocks * blockSize, Exact: true, BlockSize: blockSize}
			want := make([]byte, blocks*blockSize)
			if c.child {
				o.Parent = withParent(parent, false).Parent
				copy(want, parent)
			}
			img, err := vhd.CreateIn(m, o)
			must(t, err)
			reopen := func(write bool) {
				t.Helper()
				must(t, img.Close())
				oo := &vhd.OpenOptions{Write: write}
				if c.child {
					oo = withParent(parent, write)
				}
				img, err = vhd.NewImage(m, m.size(), oo)
				must(t, err)
			}
			if c.inPlace {
				reopen(true)
			}
			for i, do := range []func(off int){
				func(off int) { write(t, img, []byte("x"), int64(off)); want[off] = 'x' },
				func(off int) {
					write(t, img, pattern(700, 1), int64(off+sector))
					copy(want[off+sector:], pattern(700, 1))
				},
				func(off int) {
					write(t, img, pattern(100, 2), int64(off+blockSize-100))
					copy(want[off+blockSize-100:], pattern(100, 2))
				},
				func(off int) { must(t, img.Reserve(int64(off), blockSize)) },
				func(off int) {
					must(t, img.WriteZeroes(int64(off+1000), 3000))
					clear(want[off+1000 : off+4000])
				},
			} {
				do(2 * i * blockSize)
				sameBytes(t, fmt.Sprintf("contents after write %d", i), readAll(t, img), want)
			}
			syncImage(t, img)
			sameBytes(t, "contents after Sync", readAll(t, img), want)
			reopen(true)
			sameBytes(t, "contents, opened again", readAll(t, img), want)
			// The same without the bitmaps, which qemu does not read.
			if !c.child {
				for e, err := range img.Extents(0, img.Size()) {
					must(t, err)
					if e.State != disk.Data || e.File == nil {
						continue
					}
					b := make([]byte, e.Len)
					_, err := e.File.ReadAt(b, e.FileOff)
					must(t, err)
					sameBytes(t, "the bytes on the device", b, want[e.Off:e.End()])
				}
			}
			must(t, img.Close())
		})
	}
}

// New bytes of a disk read as zeros, even if its file held other bytes: between the disk and
// the footer, in the footer's sector, and after it.
func TestGrownFixedDiskReadsZero(t *testing.T) {
	const size = 8 * kib
	data := pattern(size, 1)
	for _, c := range []struct {
		name string
		file []byte
	}{
		{"plain", fixedImage(data)},
		{"space before the footer", append(append(bytes.Clone(data), pattern(5*kib, 2)...), footerBytes(fixed, size)...)},
		{"torn tail", append(fixedImage(data), pattern(300, 3)...)},
		{"space and tail", append(append(append(bytes.Clone(data), pattern(5*kib, 2)...), footerBytes(fixed, size)...), pattern(300, 3)...)},
	} {
		for _, gain := range []int64{sector, 2 * sector, 5*kib - sector, 5 * kib, 5*kib + sector, 5*kib + 2*sector, 20 * kib} {
			t.Run(fmt.Sprintf("%s, by %d bytes", c.name, gain), func(t *testing.T) {
				m := newMemFile(c.file)
				img := openMem(t, m)
				want := append(bytes.Clone(data), make([]byte, gain)...)
				must(t, img.Resize(context.Background(), size+gain, nil))
				sameBytes(t, "contents", readAll(t, img), want)
				must(t, img.Close())
				sameBytes(t, "contents, opened again", readAll(t, openBytes(t, m.bytes(), nil)), want)
				noErrors(t, m.bytes())
			})
		}
	}
}
