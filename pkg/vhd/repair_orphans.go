package vhd

import (
	"cmp"
	"context"
	"hash/maphash"

	"github.com/vhdtool/vhdtool/internal/sparse"
)

// orphanSearch looks for data that BAT entries, which are wrong now, may have pointed
// to.
type orphanSearch struct {
	*Image
	ctx   context.Context
	holes *sparse.Map

	over []int64 // the blocks that overlap others
	// byData has those by their first sector that is not zero. It is nil until it is
	// needed.
	byData map[firstSector][]int64
	seed   maphash.Seed
}

// firstSector is the first sector of a block's data that is not zero.
type firstSector struct {
	sector int64
	hash   uint64
}

// maxAlike is how many blocks that begin alike a copy is compared with. It bounds what
// is read of a file that has many of them.
const maxAlike = 4

// orphans reports whether there is data in spaces that nothing refers to, other than
// copies, whole or begun, of blocks that overlap others: those are what separate
// leaves when it is cut short.
func (img *Image) orphans(ctx context.Context) (bool, error) {
	x := &orphanSearch{Image: img, ctx: ctx, holes: sparse.NewMap(img.r), over: img.overlapping(), seed: maphash.MakeSeed()}
	for start, end := range img.spaces {
		if found, err := x.in(start, end); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// in reports whether there is data in [start, end) of the file that is no copy.
func (x *orphanSearch) in(start, end int64) (bool, error) {
	stored := x.lay.stored()
	for off := start; off < end; {
		at, err := x.dataFrom(off, end)
		if err != nil || at < 0 {
			return false, err
		}
		// Copies have the alignment of new blocks, one behind the other.
		place := x.lay.nextBlockOffset(off)
		if each := x.lay.blockSize + roundUp(x.lay.bitmapSize, x.lay.align); at >= place {
			place += (at - place) / each * each
		}
		if at < place || place+stored > end {
			return true, nil
		}
		copied, err := x.copyOfAny(place)
		if err != nil || !copied {
			return err == nil, err
		}
		off = place + stored
	}
	return false, nil
}

// copyOfAny reports whether a copy of an overlapping block is at byte place of the
// file. The last one that was begun is that of the first of them, which is copied
// first; of it any part may be missing. Others are found by how they begin.
func (x *orphanSearch) copyOfAny(place int64) (bool, error) {
	if len(x.over) == 0 {
		return false, nil
	}
	if same, err := x.copyOf(place, x.over[0]); same || err != nil {
		return same, err
	}
	if x.byData == nil {
		if err := x.index(); err != nil {
			return false, err
		}
	}
	key, ok, err := x.firstSector(place)
	if err != nil || !ok {
		return false, err
	}
	for _, block := range x.byData[key] {
		if same, err := x.copyOf(place, block); same || err != nil {
			return same, err
		}
	}
	return false, nil
}

// index fills byData.
func (x *orphanSearch) index() error {
	x.byData = map[firstSector][]int64{}
	if int64(len(x.over)) > x.lay.limit/x.lay.stored() {
		return nil // so many are not copied
	}
	for _, block := range x.over {
		key, ok, err := x.firstSector(int64(x.bat.load(block)) * SectorSize)
		if err != nil {
			return err
		}
		if alike := x.byData[key]; ok && len(alike) < maxAlike {
			x.byData[key] = append(alike, block)
		}
	}
	return nil
}

// firstSector is the key of the block at byte place of the file; ok is false if all
// its data is zero.
func (x *orphanSearch) firstSector(place int64) (key firstSector, ok bool, err error) {
	data := place + x.lay.bitmapSize
	at, err := x.dataFrom(data, place+x.lay.stored())
	if err != nil || at < 0 {
		return key, false, err
	}
	var b [SectorSize]byte
	if err := readFull(x.r, b[:], at); err != nil {
		return key, false, err
	}
	return firstSector{(at - data) / SectorSize, maphash.Bytes(x.seed, b[:])}, true, nil
}

// dataFrom returns the offset of the first sector in [off, end) of the file that is
// neither zero nor a footer of this image that others have followed, or -1.
func (x *orphanSearch) dataFrom(off, end int64) (int64, error) {
	found := int64(-1)
	footer := x.footer.Encode()
	err := scanData(x.ctx, x.r, x.holes, off, end, func(b []byte, off int64) bool {
		for ; len(b) >= SectorSize; b, off = b[SectorSize:], off+SectorSize {
			if s := [SectorSize]byte(b); s != [SectorSize]byte{} && s != footer {
				found = off
				return false
			}
		}
		return true
	})
	return found, err
}

// copyOf reports whether each sector of the block at byte place of the file is zero,
// or the same as that of the block given. In a packed file the trailing footer was where
// the copy begins.
func (x *orphanSearch) copyOf(place, block int64) (bool, error) {
	from := int64(x.bat.load(block)) * SectorSize
	same := true
	footer := x.footer.Encode()
	var original []byte
	var failed error
	err := scanData(x.ctx, x.r, x.holes, place, place+x.lay.stored(), func(b []byte, off int64) bool {
		original = append(original[:0], b...)
		if failed = readFull(x.r, original, from+off-place); failed != nil {
			return false
		}
		for i := 0; i < len(b) && same; i += SectorSize {
			s := [SectorSize]byte(b[i:])
			same = s == [SectorSize]byte{} || s == [SectorSize]byte(original[i:]) || s == footer
		}
		return same
	})
	return same, cmp.Or(err, failed)
}
