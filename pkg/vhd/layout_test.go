package vhd_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// The BAT of a new image whose size is set late precedes the blocks, however large it is.
func TestGrowingImageHasBATFirst(t *testing.T) {
	const blockSize = 4 * kib
	for _, o := range []vhd.CreateOptions{{BlockSize: blockSize}, {BlockSize: blockSize, DataAlign: 512}, {Creator: vhd.CreatorXenServer}} {
		for _, blocks := range []int64{40, 2000, 70_000, 200_000} {
			t.Run(fmt.Sprintf("%v blocks of %v, %d", blocks, o.BlockSize, o.DataAlign), func(t *testing.T) {
				o := o
				o.Growing, o.Exact = true, true
				m := newMemFile(nil)
				img, err := vhd.CreateIn(m, &o)
				must(t, err)
				size := int64(max(o.BlockSize, 2*mib/512))
				if o.BlockSize == 0 {
					size = 2 * mib
				}
				data := pattern(int(20*size), 3)
				must(t, img.Resize(context.Background(), int64(len(data)), nil))
				write(t, img, data, 0)
				must(t, img.Resize(context.Background(), blocks*size, nil))
				must(t, img.Close())
				b := m.bytes()
				got := openBytes(t, b, nil)
				if !got.MetadataFirst() || got.Header().TableOffset != 1536 {
					t.Errorf("the BAT is at %d; all metadata before the blocks: %t", got.Header().TableOffset, got.MetadataFirst())
				}
				if o.DataAlign == 512 && !got.Packed() {
					t.Error("the file is not packed")
				}
				head := make([]byte, len(data))
				must(t, second(got.ReadAt(head, 0)))
				sameBytes(t, "contents", head, data)
				noErrors(t, b)
			})
		}
	}
}

// Another parent of a XenServer image is recorded before its first block, which moves if
// necessary.
func TestRebasedXenImageHasMetadataFirst(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"base.vhd", "a rather long name, for which the text of the locator needs more space.vhd"} {
		p, err := vhd.Create(filepath.Join(dir, name), &vhd.CreateOptions{Size: 40 * 1024 * mib, Exact: true, Creator: vhd.CreatorXenServer, UniqueID: [16]byte{byte(len(name))}})
		must(t, err)
		must(t, p.Close())
		parent, err := vhd.Open(filepath.Join(dir, name), nil)
		must(t, err)
		child := filepath.Join(dir, "child.vhd")
		record, err := vhd.ParentRecordOf(child, filepath.Join(dir, name), parent, vhd.PathsXen)
		must(t, err)
		if name == "base.vhd" {
			img, err := vhd.Create(child, &vhd.CreateOptions{Parent: parent, ParentRecord: record})
			must(t, err)
			write(t, img, pattern(2*mib, 5), 0)
			must(t, img.Close())
			continue
		}
		img, err := vhd.Open(child, &vhd.OpenOptions{Write: true})
		must(t, err)
		for range 5 { // each time the old locators become a gap
			must(t, img.SetParent(nil, record))
			if !img.MetadataFirst() {
				t.Errorf("a locator follows a block")
			}
		}
		must(t, img.SetParent(parent, record))
		must(t, img.Close())
		img, err = vhd.Open(child, nil)
		must(t, err)
		got := make([]byte, 2*mib)
		must(t, second(img.ReadAt(got, 0)))
		sameBytes(t, "contents", got, pattern(2*mib, 5))
		if !img.MetadataFirst() {
			t.Errorf("a locator follows a block")
		}
		must(t, img.Close())
	}
}

func TestPacked(t *testing.T) {
	at := func(starts ...int64) []byte {
		c := craft{size: 32 * kib}
		for i, s := range starts {
			c.blocks = append(c.blocks, block{i, s, nil, pattern(4*kib, byte(i))})
		}
		return c.bytes()
	}
	for name, c := range map[string]struct {
		file []byte
		want bool
	}{
		"no block":       {at(), true},
		"one block":      {at(7), true},
		"in order":       {at(4, 13, 22), true},
		"in other order": {at(22, 4, 13), true},
		"behind a gap":   {at(7, 16, 25), true},
		"aligned":        {at(7, 23, 39), false},
		"gap of a block": {at(4, 13, 31), false},
		"uneven":         {at(4, 14, 23), false},
	} {
		if got := openBytes(t, c.file, nil).Packed(); got != c.want {
			t.Errorf("%s: packed %t, want %t", name, got, c.want)
		}
	}
}
