package vhd

import (
	"cmp"
	"context"
	"hash/maphash"
	"slices"

	"github.com/vhdtool/vhdtool/internal/filesystem"
)

// orphanSearch searches for data that BAT entries may have pointed to before they were lost.
type orphanSearch struct {
	*Image
	ctx   context.Context
	holes *filesystem.HoleMap

	over []overlap // before the repair
	// byData has all blocks by their first sector that is not zero. It is nil until it is
	// needed.
	byData map[firstSector][]int64
	seed   maphash.Seed

	slots int64 // number of blocks that fit into the spaces before the current one
	// fromEnd has the blocks by their offset, the last one first. It is nil until it is needed.
	fromEnd []int64
}

// firstSector identifies a block by the first sector of its data that is not zero.
type firstSector struct {
	sector int64
	hash   uint64
}

// maxAlike is the most blocks with the same first sector that a copy is compared with. It
// bounds the reads of a file with many of them.
const maxAlike = 4

// orphans reports whether unreferenced space holds data, other than complete or partial copies
// of blocks. An interrupted move of blocks leaves such copies. over are the overlaps before the
// repair.
func (img *Image) orphans(ctx context.Context, over []overlap) (bool, error) {
	x := &orphanSearch{Image: img, ctx: ctx, holes: filesystem.NewHoleMap(img.r), over: over, seed: maphash.MakeSeed()}
	for start, end := range img.spaces {
		if found, err := x.in(start, end); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// in reports whether [start, end) of the file holds data that is not a copy.
func (x *orphanSearch) in(start, end int64) (bool, error) {
	stored := x.lay.stored()
	first, each := x.lay.nextBlockOffset(start), x.lay.blockSize+roundUp(x.lay.bitmapSize, x.lay.align)
	defer func() { x.slots += max(1, (end-first)/each) }()
	for off := start; off < end; {
		at, err := x.dataFrom(off, end)
		if err != nil || at < 0 {
			return false, err
		}
		// Copies have the alignment of new blocks, one after the other.
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

// copyOfAny reports whether the file has a copy of a block at offset place. place is slot
// number slot in the spaces. A repair copies blocks that overlap others, the first one first,
// and moves the last blocks of the file into the first spaces. Copies of these blocks may miss
// any part. Copies of other blocks are recognised by their first sector.
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

// likely returns the blocks of which a repair may have a partial copy in slot number slot.
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

// firstSector returns the key of the block at offset place; ok is false if all its data is
// zero.
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

// dataFrom returns the offset of the first data in [off, end) of the file, or -1. A sector is
// data if it is neither zero nor a stale footer of this image.
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

// copyOf reports whether the file may have a copy of the block at offset place: each sector is
// zero, or equal to that of the block. In a packed file the trailing footer was at the start of
// the copy.
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
