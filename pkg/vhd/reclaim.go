package vhd

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/vhdtool/vhdtool/internal/sparse"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// reclaimBatch is how many blocks are moved between two flushes.
const reclaimBatch = 16

// reclaim gives space that no block uses back to the file system: blocks from
// the end of the file move into free places before them, as does the BAT, and
// then the file is cut. A block's old place stays as it is until its entry points to the new
// one durably; so a crash leaves the image as it was, or leaks.
func (img *Image) reclaim() error {
	if img.alloc.device {
		return nil
	}
	if err := img.moveBATDown(); err != nil {
		return err
	}
	free := img.freePlaces()
	type placed struct{ block, start int64 }
	var blocks []placed
	for i, e := range img.bat.used() {
		blocks = append(blocks, placed{i, int64(e) * SectorSize})
	}
	slices.SortFunc(blocks, func(a, b placed) int { return cmp.Compare(b.start, a.start) })
	for len(free) > 0 && len(blocks) > 0 && free[0] < blocks[0].start {
		var moved []int64
		var entries []uint32
		for len(moved) < reclaimBatch && len(free) > 0 && len(blocks) > 0 && free[0] < blocks[0].start {
			if err := img.copyBlock(free[0], blocks[0].start); err != nil {
				return fmt.Errorf("moving block %d: %w", blocks[0].block, err)
			}
			moved = append(moved, blocks[0].block)
			entries = append(entries, uint32(free[0]/SectorSize))
			free, blocks = free[1:], blocks[1:]
		}
		if err := img.flush(); err != nil {
			return err
		}
		for i, block := range moved {
			img.bat.store(block, entries[i])
		}
		if err := img.writeEntries(moved); err != nil {
			return err
		}
		if err := img.flush(); err != nil {
			return err
		}
	}
	if err := img.closeGapBeforeBAT(); err != nil {
		return err
	}
	return img.cutFile()
}

// closeGapBeforeBAT moves the BAT down into a gap that blocks have left in front
// of it; where it would stand over itself there, by way of the end of the file.
func (img *Image) closeGapBeforeBAT() error {
	for _, g := range img.gaps() {
		if g[1] != img.lay.batOff || g[1]-g[0] < img.lay.stored() {
			continue
		}
		if g[1]-g[0] < img.tableBytes() {
			if err := img.moveBATUp(); err != nil {
				return err
			}
		}
		return img.moveBATDown()
	}
	return nil
}

// moveBATUp moves the BAT to the end of the file.
func (img *Image) moveBATUp() error {
	a := &img.alloc
	at := roundUp(a.end+footerSize, dataAlign)
	end := at + img.tableBytes()
	if err := a.moveFooter(img, end); err != nil {
		return err
	}
	a.leaveFooter()
	a.end = end
	if err := img.writeBATAt(at); err != nil {
		return err
	}
	old := a.syncedFooterAt
	a.syncedFooterAt = -1
	return img.zeroFooter(old)
}

// gaps returns the spaces [start, end) of the file that nothing uses, in order.
func (img *Image) gaps() [][2]int64 {
	var gaps [][2]int64
	end := int64(0)
	used := func(start, stop int64) {
		// An entry that is wrong may lead anywhere, and a torn end is not in whole
		// sectors.
		start = min(start, img.alloc.end, img.alloc.length/SectorSize*SectorSize)
		if start > end {
			gaps = append(gaps, [2]int64{end, start})
		}
		end = max(end, stop)
	}
	for start, stop := range img.bat.spans(&img.lay) {
		used(start, stop)
	}
	used(img.alloc.end, img.alloc.end)
	return gaps
}

// freePlaces returns where blocks fit in the gaps, from the start of the file
// on: aligned, unless the gap is too tight for that.
func (img *Image) freePlaces() []int64 {
	var free []int64
	for _, g := range img.gaps() {
		for at := g[0]; ; at += img.lay.stored() {
			aligned := roundUp(at+img.lay.bitmapSize, dataAlign) - img.lay.bitmapSize
			if aligned+img.lay.stored() <= g[1] {
				at = aligned
			} else if at+img.lay.stored() > g[1] {
				break
			}
			free = append(free, at)
		}
	}
	return free
}

// moveBATDown moves the BAT into the first gap before it that it fits.
func (img *Image) moveBATDown() error {
	n := img.tableBytes()
	for _, g := range img.gaps() {
		if g[0] >= img.lay.batOff {
			break
		}
		if g[1]-g[0] >= n {
			return img.writeBATAt(g[0])
		}
	}
	return nil
}

// tableBytes is what the BAT takes in the file, with XenServer's batmap, which must
// follow it.
func (img *Image) tableBytes() int64 {
	n := batBytes(img.bat.len())
	if img.batmap != nil {
		n += img.batmap.room(img.bat.len())
	}
	return n
}

// writeBATAt writes the BAT in a place that nothing uses, and switches to it
// with one write of the header's first sector. XenServer's batmap moves with it.
func (img *Image) writeBATAt(at int64) error {
	if err := img.bat.writeTo(img.f, at, 0); err != nil {
		return err
	}
	m := img.batmap
	if m != nil {
		var err error
		if m, err = img.copyBatmap(at + batBytes(img.bat.len())); err != nil {
			return err
		}
	}
	if err := img.flush(); err != nil {
		return err
	}
	header := img.header
	header.TableOffset = uint64(at)
	header.MaxTableEntries = uint32(img.bat.len())
	if err := img.writeHeader(header); err != nil {
		return err
	}
	if m != nil {
		img.batmap, img.lay.batmap = m, m.ownRegions()
	}
	return nil
}

// copyBlock copies a block as it is stored to a place that nothing uses. Holes
// stay holes.
func (img *Image) copyBlock(to, from int64) error {
	stored := img.lay.stored()
	if err := sparse.Zero(img.f, to, stored); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	holes := sparse.NewMap(img.r)
	for off := int64(0); off < stored; {
		end, data, err := holes.At(from+off, from+stored)
		if err != nil {
			return err
		}
		n := end - from - off
		if !data {
			off += n
			continue
		}
		n = min(n, int64(len(buf)))
		if err := readFull(img.r, buf[:n], from+off); err != nil {
			return err
		}
		if _, err := img.f.WriteAt(buf[:n], to+off); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// cutFile ends the file behind what is in use.
func (img *Image) cutFile() error {
	a := &img.alloc
	end := img.bat.end(img.lay.stored())
	for _, r := range img.lay.metadata() {
		end = max(end, r.end)
	}
	if end >= a.end {
		return nil
	}
	footer := img.footer.Encode()
	if end+footerSize > a.end {
		return nil // the two would overlap, for less than a sector's gain
	}
	if _, err := img.f.WriteAt(footer[:], end); err != nil {
		return fmt.Errorf("footer: %w", err)
	}
	if err := img.flush(); err != nil {
		return err
	}
	if err := img.f.Truncate(end + footerSize); err != nil {
		return err
	}
	a.end, a.length, a.syncedFooterAt = end, end+footerSize, -1
	img.footerAt = end
	return img.flush()
}

// Empty takes all blocks out of an image: a dynamic disk reads as zeros then, and a
// differencing one as its parent. After a crash any of the blocks may still be
// there. Nothing else may use the image meanwhile.
func (img *Image) Empty(ctx context.Context, progress disk.Progress) error {
	switch {
	case img.f == nil:
		return ErrReadOnly
	case !img.dynamic() || img.alloc.fresh:
		return fmt.Errorf("%w: emptying a disk that is %v, or new", ErrUnsupported, img.footer.Type)
	}
	if err := img.Sync(); err != nil {
		return err
	}
	if err := img.clearBatmap(0); err != nil {
		return err
	}
	var lost []int64
	var places []uint32
	for block, e := range img.bat.used() {
		lost, places = append(lost, block), append(places, e)
	}
	for _, block := range lost {
		img.bat.store(block, unused)
	}
	err := img.writeEntries(slices.Clone(lost))
	if err == nil {
		err = img.flush()
	}
	if err != nil {
		for i, block := range lost { // the next try starts from the beginning
			img.bat.store(block, places[i])
		}
		return err
	}
	img.bitmaps.forgetFrom(0)
	return img.reclaim()
}
