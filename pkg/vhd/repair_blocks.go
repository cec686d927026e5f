package vhd

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// overlap is a block that shares bytes with one before it in the file.
type overlap struct{ kept, block int64 }

// overlapping returns the blocks, in the order of the file, that share bytes with one
// before them, so that what is left without them does not overlap.
func (img *Image) overlapping() []overlap {
	p := img.lay.placement()
	var over []overlap
	img.bat.overlaps(&p, img.bat.fitting(&p), func(a, b int64) bool {
		over = append(over, overlap{a, b})
		return true
	})
	return over
}

// doubtful returns the bytes of the disk that an overlap puts in doubt: all of the block,
// whose bitmap is part of the other one, and what that has from there on.
func (img *Image) doubtful(o overlap) []disk.Range {
	shared := int64(img.bat.load(o.block)-img.bat.load(o.kept)) * SectorSize
	return []disk.Range{
		img.lay.diskRange(o.kept, max(0, shared-img.lay.bitmapSize), img.size),
		img.lay.diskRange(o.block, 0, img.size),
	}
}

// diskRange is the bytes of a block from its byte off on, of a disk of size bytes.
func (l *layout) diskRange(block, off, size int64) disk.Range {
	start := min(block*l.blockSize+off, size)
	return disk.Range{Off: start, N: min((block+1)*l.blockSize, size) - start}
}

// rangeText is "bytes 0 to 4095", or for no bytes "no byte".
func rangeText(r disk.Range) string {
	if r.N == 0 {
		return "no byte"
	}
	return fmt.Sprintf("bytes %d to %d", r.Off, r.Off+r.N-1)
}

// separate copies blocks that overlap others to the end of the file, one after the
// other in the order of overlapping. Each keeps what was read of it until then.
func (r *repairer) separate(img *Image) error {
	move := r.overlapped
	if len(move) == 0 {
		return nil
	}
	stored := img.lay.stored()
	if int64(len(move)) > max(r.size/stored, 1) {
		return nil // copies for all would be more than all that the file holds
	}
	if img.wouldReach(int64(len(move))) {
		return nil
	}
	r.work += int64(len(move)) * stored
	for _, o := range move {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		block, doubt := o.block, img.doubtful(o)
		to, err := img.moveBlock(block)
		if err != nil {
			return fmt.Errorf("moving block %d: %w", block, err)
		}
		r.did("bat-overlap", to, stored, "block %d was copied away from block %d, over which it was; one of them is wrong: %s or %s of the disk",
			block, o.kept, rangeText(doubt[0]), rangeText(doubt[1]))
		r.done[len(r.done)-1].Doubtful = doubt
		r.progress(stored)
	}
	if err := img.retireSyncedFooter(); err != nil {
		return err
	}
	img.lay.limit = img.trailingFooterAt()
	return img.flush()
}

// wouldReach reports whether n copies at the end of the file would come under a block
// that an entry has beyond the end: such an entry, which is wrong, would seem right.
func (img *Image) wouldReach(n int64) bool {
	p := img.lay.placement()
	end := img.alloc.end + n*(p.stored+dataAlign+footerSize) + footerSize
	for _, e := range img.bat.usedOnce() {
		if p.end(e) > p.limit && int64(e)*SectorSize < end {
			return true
		}
	}
	return false
}

// moveBlock copies a block to the end of the file, and then has its entry point to the
// copy, durably. It returns where that is.
func (img *Image) moveBlock(block int64) (int64, error) {
	x, err := img.extendForBlock(0)
	if err != nil {
		return 0, err
	}
	if err := img.copyBlock(x.start, int64(img.bat.load(block))*SectorSize); err != nil {
		return 0, img.giveBack(x, err)
	}
	return x.start, img.switchBlocks([]int64{block}, []uint32{uint32(x.start / SectorSize)})
}

// maxZeroExcess is how many bytes of zeros, behind the disk's end in the BAT, are
// overwritten. A table in a hole of the file has any number of them: overwriting
// them would fill the hole, and nothing reads them.
const maxZeroExcess = 1 << 20

// excess marks BAT entries behind the disk's end as unused, and writes only where
// there are used ones. If one of them refers to a block that no other entry refers to,
// the size of the disk is in doubt, and all stay as they are, unless what they refer
// to may be given up.
func (r *repairer) excess(img *Image) error {
	off, blocks, entries := img.lay.batOff, img.bat.len(), int64(img.header.MaxTableEntries)
	found, err := scanExcess(r.ctx, r.f, off, blocks, entries, nil)
	if err != nil || found.used == 0 {
		return err
	}
	if !r.o.Saved && !r.o.DiscardOrphans || !img.bat.sane(&img.lay) {
		if own, err := r.excessOwnsBlocks(img); err != nil || own {
			return err
		}
	}
	ones := bytes.Repeat([]byte{0xff}, 64<<10)
	first, end := int64(-1), int64(0)
	zerosToo := found.zeros*4 <= maxZeroExcess
	_, err = scanExcess(r.ctx, r.f, off, blocks, entries, func(off, n int64, _ []byte, zeros bool) error {
		if zeros && !zerosToo {
			return nil
		}
		if first < 0 {
			first = off
		}
		for end = off + n; off < end; {
			w, err := r.f.WriteAt(ones[:min(int64(len(ones)), end-off)], off)
			if err != nil {
				return fmt.Errorf("BAT: %w", err)
			}
			off += int64(w)
		}
		return nil
	})
	if first < 0 {
		return err
	}
	if serr := r.f.Sync(); err == nil {
		err = serr
	}
	if err != nil {
		return err
	}
	if !zerosToo {
		found.used -= found.zeros
	}
	r.did("bat-excess", first, end-first, "%d BAT entries behind the disk's end were marked as unused", found.used)
	return nil
}

// excessOwnsBlocks reports whether an entry behind the disk's end refers to a block in
// space that nothing else refers to.
func (r *repairer) excessOwnsBlocks(img *Image) (bool, error) {
	off, blocks, entries := img.lay.batOff, img.bat.len(), int64(img.header.MaxTableEntries)
	gaps, stored := img.gaps(), img.lay.stored()
	own := false
	_, err := scanExcess(r.ctx, r.f, off, blocks, entries, func(_, _ int64, b []byte, zeros bool) error {
		for ; !zeros && !own && len(b) > 0; b = b[4:] {
			start := int64(binary.BigEndian.Uint32(b)) * SectorSize
			i, _ := slices.BinarySearchFunc(gaps, start+1, func(g [2]int64, at int64) int { return cmp.Compare(g[0], at) })
			own = i > 0 && start+stored <= gaps[i-1][1]
		}
		return nil
	})
	return own, err
}

// batmap clears bits of XenServer's map that must not be set.
func (r *repairer) batmap(img *Image) error {
	bits, changed, err := img.mendedBatmap()
	if err != nil || !changed {
		return err
	}
	if err := img.batmap.write(r.f, bits); err != nil {
		return err
	}
	if err := r.f.Sync(); err != nil {
		return err
	}
	r.did("batmap-bit", int64(img.batmap.offset), int64(len(bits)), "the batmap was made to say what the blocks' bitmaps say")
	return nil
}

// setBits sets the bits of sectors that hold data, so that it is read. It does nothing
// while BAT entries are wrong.
func (r *repairer) setBits(img *Image) error {
	if !img.bat.sane(&img.lay) {
		return nil
	}
	holes := filesystem.NewHoleMap(r.f)
	r.work += img.bat.count() * img.lay.blockSize
	for block, e := range img.bat.used() {
		bm, err := img.bitmap(block, e)
		if err != nil {
			return err
		}
		if bm != nil {
			if err := r.setBitsOf(block, bm.bits, int64(e)*SectorSize, img, holes); err != nil {
				return err
			}
		}
		r.progress(img.lay.blockSize)
	}
	return nil
}

// setBitsOf sets the bits of a block, which starts at byte start of the file.
func (r *repairer) setBitsOf(block int64, bits []byte, start int64, img *Image, holes *filesystem.HoleMap) error {
	changed := false
	err := hiddenData(r.ctx, r.f, holes, bytes.Clone(bits), start+img.lay.bitmapSize, img.lay.blockSize, func(s int64) bool {
		setBits(bits, s, s+1)
		changed = true
		return true
	})
	if err != nil || !changed {
		return err
	}
	if err := r.write(bits, start); err != nil {
		return err
	}
	r.did("bitmap-data", start, int64(len(bits)), "block %d: the bits of sectors that hold data were set", block)
	return nil
}
