package vhd

import (
	"cmp"
	"context"
	"hash/maphash"
	"slices"

	"github.com/vhdtool/vhdtool/internal/filesystem"
)

// orphanSearch looks for data that BAT entries may have referred to before they were
// lost.
type orphanSearch struct {
	*Image
	ctx   context.Context
	holes *filesystem.HoleMap

	over []overlap // before the repair
	// byData has all blocks by their first sector that is not zero. It is nil until it is
	// needed.
	byData map[firstSector][]int64
	seed   maphash.Seed

	slots int64 // room for blocks in the spaces before the one that is searched
	// fromEnd has the blocks by their offset, the last one first. It is nil until it is
	// needed.
	fromEnd []int64
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
// copies, whole or begun, of blocks: those are what moving blocks leaves when it is
// interrupted. over are the overlaps before the repair.
func (img *Image) orphans(ctx context.Context, over []overlap) (bool, error) {
	x := &orphanSearch{Image: img, ctx: ctx, holes: filesystem.NewHoleMap(img.r), over: over, seed: maphash.MakeSeed()}
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
	first, each := x.lay.nextBlockOffset(start), x.lay.blockSize+roundUp(x.lay.bitmapSize, x.lay.align)
	defer func() { x.slots += max(1, (end-first)/each) }()
	for off := start; off < end; {
		at, err := x.dataFrom(off, end)
		if err != nil || at < 0 {
			return false, err
		}
		// Copies have the alignment of new blocks, one behind the other.
		place := x.lay.nextBlockOffset(off)
		if at >= place {
			place += (at - place) / each * each
		}
		if at < place || place+stored > end {
			return true, nil
		}
		copied, err := x.copyOfAny(place, x.slots+(place-first)/each)
		if err != nil || !copied {
			return err == nil, err
		}
		off = place + stored
	}
	return false, nil
}

// copyOfAny reports whether a copy of a block is at byte place of the file. Of blocks
// that overlap others the first is copied first, and the last blocks of the file are
// moved into the first spaces, of which place is number slot: of those any part of the
// copy may be missing. Others are found by how they begin.
func (x *orphanSearch) copyOfAny(place, slot int64) (bool, error) {
	if x.byData == nil {
		if err := x.index(); err != nil {
			return false, err
		}
	}
	key, ok, err := x.firstSector(place)
	if err != nil {
		return false, err
	}
	alike := x.likely(slot)
	if ok {
		alike = append(slices.Clone(x.byData[key]), alike...)
	}
	for _, block := range alike {
		if same, err := x.copyOf(place, block); same || err != nil {
			return same, err
		}
	}
	return false, nil
}

// likely returns the blocks that a repair may have begun to copy to space number slot.
func (x *orphanSearch) likely(slot int64) []int64 {
	if x.fromEnd == nil {
		var blocks []placedBlock
		p := x.lay.placement()
		for i, e := range x.bat.usedOnce() {
			if !p.fits(e) {
				continue
			}
			blocks = append(blocks, placedBlock{i, int64(e)})
		}
		slices.SortFunc(blocks, func(a, b placedBlock) int { return cmp.Compare(b.start, a.start) })
		x.fromEnd = make([]int64, 0, len(blocks))
		for _, b := range blocks {
			x.fromEnd = append(x.fromEnd, b.block)
		}
	}
	n := int64(len(x.fromEnd))
	blocks := x.fromEnd[min(n, max(0, slot-1)):min(n, slot+2)]
	if len(x.over) > 0 {
		blocks = append([]int64{x.over[0].block}, blocks...)
	}
	return blocks
}

// index fills byData.
func (x *orphanSearch) index() error {
	x.byData = map[firstSector][]int64{}
	p := x.lay.placement()
	for block, e := range x.bat.usedOnce() {
		if !p.fits(e) {
			continue
		}
		key, ok, err := x.firstSector(int64(e) * SectorSize)
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

// subset reports whether all bits that are set in a are set in b.
func subset(a, b []byte) bool {
	for i := range a {
		if a[i]&^b[i] != 0 {
			return false
		}
	}
	return true
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
			if off+int64(i) < place+x.lay.bitmapSize { // bits may have been set since
				same = same || subset(s[:], original[i:])
			}
		}
		return same
	})
	return same, cmp.Or(err, failed)
}
