package vhd_test

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// FuzzRepair repairs any file. The repair ends, and the file stays small. A second repair finds
// nothing to do, and a dry run reports the same. Overwritten bytes can be restored, and
// readable data stays readable.
func FuzzRepair(f *testing.F) {
	for _, b := range [][]byte{
		twoBlocksLeaked(), differencingWithLocator(), fixedImage(pattern(kib, 1), u64(16, 0)),
	} {
		f.Add(b, byte(1))
	}
	for _, d := range dynamicDamages(4 * kib) {
		f.Add(d.file, byte(1))
	}
	for _, d := range append(trailingMetadata(), fixedDamages()...) {
		f.Add(d.file, byte(7))
	}
	undoName := filepath.Join(f.TempDir(), "undo")
	f.Fuzz(func(t *testing.T, file []byte, how byte) {
		if len(file) > mib {
			return
		}
		o := vhd.RepairOptions{All: how&1 != 0, Saved: how&2 != 0, Force: how&4 != 0, Deep: how&8 != 0, DiscardOrphans: how&16 != 0, DiscardLost: how&32 != 0}
		repairAny(t, file, o, undoName)
		repairAny(t, summed(file), o, undoName)
	})
}

// twoBlocksLeaked is a small image in which one of three blocks is leaked.
func twoBlocksLeaked() []byte {
	c := craft{size: 3 * 4 * kib}
	for i := range 3 {
		c.blocks = append(c.blocks, block{i, int64(4 + 9*i), nil, pattern(4*kib, byte(i))})
	}
	c.bat = map[int]uint32{1: unused}
	return c.bytes()
}

// head returns the first bytes of a disk that the test examines.
func head(t *testing.T, img *vhd.Image) []byte {
	t.Helper()
	b := make([]byte, min(img.Size(), 4*mib))
	if n, err := img.ReadAt(b, 0); n != len(b) || err != nil && err != io.EOF {
		t.Fatalf("ReadAt of %d bytes: %d, %v", len(b), n, err)
	}
	return b
}

func repairAny(t *testing.T, file []byte, o vhd.RepairOptions, undoName string) {
	// Deep makes data readable that was not readable before.
	open := func(b []byte) *vhd.Image {
		img, err := vhd.NewImage(bytes.NewReader(b), int64(len(b)), nil)
		if err != nil {
			return nil
		}
		return img
	}
	var want []byte
	before := open(file)
	if before != nil {
		want = head(t, before)
	}
	m := newMemFile(file)
	first := repairFile(m, &o)
	mended := m.bytes()
	if first != nil && !slices.ContainsFunc([]error{
		vhd.ErrNotVHD, vhd.ErrBeyondRepair, vhd.ErrSavedState, errOrphans, vhd.ErrTooLarge, vhd.ErrTwoIDs, vhd.ErrTwoImages, vhd.ErrShifted,
	}, func(err error) bool { return errors.Is(first, err) }) {
		t.Fatalf("Repair: %v", first)
	}
	// Each overlapping block is copied to its own range, aligned, and their number does not
	// exceed what the file held.
	blockSize := 4 * kib
	if before := blockSizeOf(mended); before > 0 {
		blockSize = before
	}
	stored := blockSize + int(bitmapBytes(int64(blockSize)))
	most := len(file) + (len(file)/stored+1)*((stored+512+4095)/4096*4096) + blockSize + 1024
	if len(mended) > most {
		t.Fatalf("the file has grown from %d to %d bytes, want at most %d", len(file), len(mended), most)
	}
	if before != nil {
		after := open(mended)
		if after == nil {
			_, err := vhd.NewImage(bytes.NewReader(mended), int64(len(mended)), nil)
			t.Fatalf("the image opened before the repair, and now: %v", err)
		}
		if after.Size() != before.Size() {
			t.Fatalf("the disk had %d bytes, and now %d", before.Size(), after.Size())
		}
		if !o.Deep {
			sameBytes(t, "contents after the repair", head(t, after), want)
		}
	}

	promised(t, file, o, undoName)
}

// blockSizeOf returns the block size in the header that the first footer points to.
func blockSizeOf(b []byte) int {
	if len(b) < 1024 {
		return 0
	}
	at := be.Uint64(b[16:])
	if at > uint64(len(b)-1024) {
		return 0
	}
	n := int(be.Uint32(b[at+32:]))
	if n > 256*mib {
		return 0
	}
	return n
}
