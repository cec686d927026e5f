package vhd

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Resize changes the virtual size in place. New bytes read as zeros, and bytes past a smaller
// size are lost. The size is rounded up to a whole sector. If the size of the image is that of
// its geometry (creators "qemu" and "vpc "), it is also rounded up to the next geometry.
//
// The current size may be larger than the geometry that is the size. Then a larger disk shows
// the bytes between the two as they are, unless ZeroBeyondSize is called before. The original
// size does not change. A new image that is not complete gets the size as if created with it.
//
// Each step is durable before the next, in an order that is safe against crashes: afterwards
// the image has the old size or the new one. A fixed disk has no copy of its footer. If the
// file system makes the longer file durable before the new footer, the old footer is still at
// its offset.
//
// A differencing image cannot be smaller than its parent. Nothing else may use the image
// meanwhile.
//
// When ctx ends, a shrink that moves blocks ends early. Then the disk has its new size, and the
// file keeps unused space, as after a crash. progress counts the bytes that are moved.
func (img *Image) Resize(ctx context.Context, size int64, progress disk.Progress) error {
	return img.resize(ctx, size, false, progress)
}

// ResizeExact is Resize without rounding to a geometry. An image sized by its geometry gets the
// largest geometry, with which every reader uses the current size.
func (img *Image) ResizeExact(ctx context.Context, size int64, progress disk.Progress) error {
	return img.resize(ctx, size, true, progress)
}

func (img *Image) resize(ctx context.Context, size int64, exact bool, progress disk.Progress) error {
	if err := img.state.writable(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if img.state.phase() == phaseCreating {
		return img.resizeNew(size)
	}
	if img.twoIDs {
		return ErrTwoIDs
	}
	footer, err := img.ResizedFooter(size, exact)
	if err != nil {
		return err
	}
	if img.differencing() {
		if err := img.fitsParent(int64(footer.CurrentSize)); err != nil {
			return err
		}
	}
	if err := img.Sync(); err != nil {
		return err
	}
	if img.dynamic() {
		return img.resizeDynamic(ctx, footer, progress)
	}
	return img.resizeFixed(footer)
}

// ZeroBeyondSize zeroes, durably, the bytes of the file past the end of the disk. If the
// geometry is the size, the current size may be larger, and Resize would show those bytes.
func (img *Image) ZeroBeyondSize() error {
	if err := img.state.writable(); err != nil {
		return err
	}
	n := int64(min(img.footer.CurrentSize, math.MaxInt64)) - img.size
	if img.dynamic() {
		n = min(n, img.bat.len()*img.lay.blockSize-img.size)
	}
	if n <= 0 {
		return nil
	}
	img.unsynced.Store(true)
	if err := img.zero(img.size, n); err != nil {
		return err
	}
	return img.Sync()
}

// allZero reports whether all bytes are zero.
func allZero(b []byte) bool { return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }

// fitsParent checks that a differencing image can have that size: it must be at least as large
// as its parent, and new bytes must not show the parent's.
func (img *Image) fitsParent(size int64) error {
	if img.parent == nil {
		return ErrNoParent
	}
	n := img.parent.Size()
	if size < n {
		return fmt.Errorf("disk of %d bytes: %w: smaller than its parent, which has %d", size, ErrUnsupported, n)
	}
	buf := make([]byte, 64<<10)
	for off := img.size; off < n && !img.inheritsZeros(off, n-off); off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), n-off)]
		if err := img.readInherited(buf, off); err != nil {
			return err
		}
		if !allZero(buf) {
			return fmt.Errorf("%w: enlarging a disk over data that its parent stores past its end", ErrUnsupported)
		}
	}
	return nil
}

// ResizedFooter returns the footer that the image has after [Image.ResizeExact] to that size,
// or, if exact is false, after [Image.Resize]. It changes nothing.
func (img *Image) ResizedFooter(size int64, exact bool) (Footer, error) {
	f := img.footer
	if err := checkSize(size, f.Type); err != nil {
		return f, err
	}
	sectors := (size + SectorSize - 1) / SectorSize
	if !exact && SizeAuto.resolve(&f) == SizeFromGeometry {
		f.Geometry, sectors = RoundToGeometry(sectors)
	} else {
		f.Geometry = exactGeometry(sectors, f.Creator)
	}
	f.CurrentSize = uint64(sectors) * SectorSize
	return f, nil
}

// hiddenFrom returns the offset from which no size rule shows the bytes of the file. They
// become zeros when the disk grows over them.
func (img *Image) hiddenFrom() int64 { return max(img.size, int64(img.footer.CurrentSize)) }

// resizeFixed moves the footer, of which there is no copy: the new one is durable before the
// old one is overwritten. An error restores the old contents, or the image has failed.
func (img *Image) resizeFixed(f Footer) error {
	if img.trailer.onDevice() {
		return fmt.Errorf("resizing a fixed disk on a device: %w", ErrUnsupported)
	}
	if img.footerAt%SectorSize != 0 {
		return fmt.Errorf("resizing a fixed disk whose file is not in whole sectors: %w", ErrUnsupported)
	}
	old, end := img.footerAt, int64(f.CurrentSize)
	// Bytes that the disk gains are zero before a footer shows them. These are the space before
	// the old footer, and a partial sector after it.
	for _, part := range [][2]int64{{img.hiddenFrom(), min(old, end)}, {old + footerSize, min(img.alloc.length, end)}} {
		if part[0] >= part[1] {
			continue
		}
		if err := filesystem.Zero(img.f, part[0], part[1]-part[0]); err != nil {
			return err
		}
		if err := img.flush(); err != nil {
			return err
		}
	}
	switch {
	case end > old:
		return img.growFixed(f, old, end)
	case end < old:
		return img.shrinkFixed(f, old, end)
	}
	return img.state.change(func() error { return img.writeFixedFooter(f) })
}

// writeFixedFooter rewrites the footer of a fixed disk in place.
func (img *Image) writeFixedFooter(f Footer) error {
	b := f.Encode()
	if _, err := img.f.WriteAt(b[:], img.footerAt); err != nil {
		return fmt.Errorf("footer: %w", err)
	}
	img.footer = f
	img.size = min(img.footerAt, int64(f.CurrentSize))
	return img.flush()
}

// growFixed moves the footer from old up to end. Its former sector becomes zeros of the disk.
func (img *Image) growFixed(f Footer, old, end int64) error {
	a := &img.alloc
	was, is := img.footer.Encode(), f.Encode()
	undo := func(err error) error {
		if img.state.phase() == phaseFailed {
			return err
		}
		if _, werr := img.f.WriteAt(was[:], old); werr != nil {
			return img.state.fail(fmt.Errorf("%w; then footer: %w", err, werr))
		}
		return img.cutBack(err)
	}
	if _, err := img.f.WriteAt(is[:], end); err != nil {
		return img.cutBack(fmt.Errorf("footer: %w", err))
	}
	if err := img.flush(); err != nil {
		return err
	}
	if err := filesystem.Zero(img.f, old, min(footerSize, end-old)); err != nil {
		return undo(err)
	}
	img.footer, img.footerAt, img.size, a.length = f, end, end, end+footerSize
	return img.flush()
}

// shrinkFixed moves the footer from old down to end, and truncates the file after it.
func (img *Image) shrinkFixed(f Footer, old, end int64) error {
	a := &img.alloc
	var lost [footerSize]byte // contents of the disk under the new footer
	if err := readFull(img.r, lost[:min(footerSize, old-end)], end); err != nil {
		return err
	}
	was, is := img.footer.Encode(), f.Encode()
	copy(lost[min(footerSize, old-end):], was[:])
	undo := func(err error) error {
		if _, werr := img.f.WriteAt(lost[:], end); werr != nil {
			return img.state.fail(fmt.Errorf("%w; then putting back: %w", err, werr))
		}
		return err
	}
	if _, err := img.f.WriteAt(is[:], end); err != nil {
		return undo(fmt.Errorf("footer: %w", err))
	}
	if err := img.flush(); err != nil {
		return err
	}
	if err := img.f.Truncate(end + footerSize); err != nil {
		return undo(err)
	}
	img.footer, img.footerAt, img.size, a.length = f, end, end, end+footerSize
	return img.flush()
}

func (img *Image) resizeDynamic(ctx context.Context, f Footer, progress disk.Progress) error {
	size := int64(f.CurrentSize)
	blocks := (size + img.lay.blockSize - 1) / img.lay.blockSize
	if size < img.size || blocks < img.bat.len() {
		return img.state.change(func() error { return img.shrink(ctx, f, blocks, progress) })
	}
	if err := img.zeroHidden(size); err != nil {
		return err
	}
	var former region // the former range of the BAT
	if blocks > img.bat.len() {
		var err error
		if former, err = img.growBAT(ctx, blocks, progress); err != nil {
			return err
		}
	}
	return img.state.change(func() error {
		if err := img.writeFooters(f); err != nil {
			return err
		}
		img.size = size
		if former.end == 0 {
			return nil
		}
		return img.refill(ctx, former, progress)
	})
}

// zeroHidden zeroes the bytes that the disk gains in its last block.
func (img *Image) zeroHidden(size int64) error {
	hidden := img.hiddenFrom()
	block := hidden / img.lay.blockSize
	end := min(size, (block+1)*img.lay.blockSize)
	if hidden >= end || block >= img.bat.len() {
		return nil
	}
	if e := img.bat.load(block); e != unused {
		at := int64(e)*SectorSize + img.lay.bitmapSize + hidden%img.lay.blockSize
		if err := filesystem.Zero(img.f, at, end-hidden); err != nil {
			return err
		}
		return img.flush()
	}
	return nil
}

// growBAT makes space for the entries of more blocks, and marks the new ones as unused. Blocks
// in that space move to the end of the file. If other metadata is in the space, the BAT moves
// there itself, and growBAT returns its former range. After an error the BAT is unchanged, or
// the image has failed.
func (img *Image) growBAT(ctx context.Context, blocks int64, progress disk.Progress) (former region, err error) {
	table := img.bat.resized(blocks)
	img.bitmaps.grow(blocks)
	if batBytes(blocks) <= img.spaceForBAT() {
		return region{}, img.growBATInPlace(table, func(err error) error { return err })
	}
	end := img.lay.batOff + img.tableBytes(blocks)
	if img.metadataAfterBAT(end) {
		former = region{"former BAT", img.lay.batOff, img.lay.batOff + img.tableBytes(img.bat.len())}
		return former, img.moveBATUp(table)
	}
	undo, err := img.reach(end)
	if err != nil {
		return region{}, err
	}
	moved, err := img.vacate(ctx, end, progress)
	if moved {
		undo = func(err error) error { return err } // blocks follow that space now
	}
	if err != nil {
		return region{}, undo(err)
	}
	return region{}, img.growBATInPlace(table, undo)
}

// metadataAfterBAT reports whether other metadata than the batmap that follows the BAT starts
// between the BAT and end.
func (img *Image) metadataAfterBAT(end int64) bool {
	for _, r := range slices.Concat(img.lay.regions, img.lay.locators) {
		if r.start > img.lay.batOff && r.start < end {
			return true
		}
	}
	if img.batmap == nil {
		return false
	}
	return img.batmap.at != img.lay.batEnd() || int64(img.batmap.offset) != img.batmap.at+SectorSize
}

// makeSpaceInFront makes n bytes of space between the metadata and the first block, if there
// are blocks.
func (img *Image) makeSpaceInFront(n int64) error {
	first := int64(math.MaxInt64)
	for _, e := range img.bat.used() {
		first = min(first, int64(e)*SectorSize)
	}
	if first == math.MaxInt64 {
		return nil
	}
	front := int64(0)
	for _, r := range img.lay.metadata() {
		if r.start < first {
			front = max(front, r.end)
		}
	}
	end := roundUp(front, SectorSize) + n
	if end <= first {
		return nil
	}
	undo, err := img.reach(end)
	if err != nil {
		return err
	}
	if moved, err := img.vacate(context.Background(), end, nil); err != nil && !moved {
		return undo(err)
	} else if err != nil {
		return err
	}
	return nil
}

// reach extends the used part of the file to end, so that blocks that move to the end of the
// file go after it. undo reverts that because of an error, which it returns.
func (img *Image) reach(end int64) (undo func(error) error, err error) {
	if end <= img.alloc.end {
		return func(err error) error { return err }, nil
	}
	x, err := img.extend(img.alloc.end, end-img.alloc.end)
	return func(err error) error { return img.undoExtension(x, err) }, err
}

// growBATInPlace writes the new entries of a larger table after those of the BAT, and switches
// to the table. Only a batmap may use that space. It passes an error to undo, which may free
// the space.
func (img *Image) growBATInPlace(table bat, undo func(error) error) error {
	n, m := img.bat.len(), img.batmap
	header := img.header
	header.MaxTableEntries = max(header.MaxTableEntries, uint32(table.len()))
	if m == nil || batBytes(table.len()) <= m.at-img.lay.batOff {
		// A shrink that a crash interrupted may have left these bits set.
		if err := img.clearBatmap(n); err != nil {
			return undo(err)
		}
		if err := table.writeTo(img.f, img.lay.batOff, n); err != nil {
			return undo(err)
		}
		if err := img.flush(); err != nil {
			return err
		}
		return img.state.change(func() error {
			if err := img.writeHeader(header); err != nil {
				return err
			}
			img.bat = table
			return nil
		})
	}
	// The entries overwrite the batmap, which follows the BAT. The image has no batmap until
	// the moved one is written after them.
	moved, b, err := img.encodeBatmap(img.lay.batOff+batBytes(table.len()), table.len())
	if err != nil {
		return undo(err)
	}
	return img.state.change(func() error {
		if _, err := img.f.WriteAt(make([]byte, SectorSize), m.at); err != nil {
			return fmt.Errorf("batmap: %w", err)
		}
		if err := img.flush(); err != nil {
			return err
		}
		if err := table.writeTo(img.f, img.lay.batOff, n); err != nil {
			return err
		}
		if _, err := img.f.WriteAt(b, moved.at); err != nil {
			return fmt.Errorf("batmap: %w", err)
		}
		if err := img.flush(); err != nil {
			return err
		}
		if err := img.writeHeader(header); err != nil {
			return err
		}
		img.bat, img.batmap, img.lay.batmap = table, moved, moved.ownRegions()
		return nil
	})
}

// vacate moves the blocks that start before end to the end of the file. end must not exceed the
// end of everything in use. It reports whether it moved any. When ctx ends, or after an error,
// the moved blocks stay at their new offsets, and the image remains as usable as before.
func (img *Image) vacate(ctx context.Context, end int64, progress disk.Progress) (any bool, err error) {
	var blocks []placedBlock
	for i, e := range img.bat.used() {
		if start := int64(e) * SectorSize; start < end {
			blocks = append(blocks, placedBlock{i, start})
		}
	}
	slices.SortFunc(blocks, func(a, b placedBlock) int { return cmp.Compare(a.start, b.start) })
	total := int64(len(blocks)) * img.lay.stored()
	for len(blocks) > 0 {
		batch := blocks[:min(len(blocks), img.moveBatch())]
		blocks = blocks[len(batch):]
		var moved []int64
		var entries []uint32
		var stop error
		for i, b := range batch {
			if stop = ctx.Err(); stop != nil {
				break
			}
			x, err := img.extendForBlock(int64(len(batch) - i - 1))
			if err == nil {
				if err = img.copyBlock(x.start, b.start); err != nil {
					err = img.undoExtension(x, err)
				}
			}
			if stop = err; err != nil {
				break
			}
			moved, entries = append(moved, b.block), append(entries, uint32(x.start/SectorSize))
		}
		any = any || len(moved) > 0
		if err := img.switchBlocks(moved, entries); err != nil {
			return any, err
		}
		if err := img.trim(); err != nil {
			return any, err
		}
		if stop != nil {
			return any, stop
		}
		if progress != nil {
			progress(total-int64(len(blocks))*img.lay.stored(), total)
		}
	}
	return any, nil
}

// refill moves blocks into the former range of the BAT, if it is large enough, and the BAT into
// their range. If the file has other unused space, which is not its to reclaim, it does
// nothing.
func (img *Image) refill(ctx context.Context, former region, progress disk.Progress) error {
	for _, g := range img.gaps() {
		if g[1]-g[0] >= img.lay.stored() && (g[0] > former.start || g[1] < former.end) {
			return nil
		}
	}
	return img.reclaim(ctx, progress)
}

// spaceForBAT returns the number of bytes that the BAT can use at its offset.
func (img *Image) spaceForBAT() int64 {
	end := img.alloc.end
	closer := func(start int64) {
		if start > img.lay.batOff && start < end {
			end = start
		}
	}
	for _, r := range img.lay.metadata() {
		closer(r.start)
	}
	for _, e := range img.bat.used() {
		closer(int64(e) * SectorSize)
	}
	return end - img.lay.batOff
}

// shrink reduces the disk to that many blocks: first the footers, then the lost entries, and
// last the space of their blocks.
func (img *Image) shrink(ctx context.Context, f Footer, blocks int64, progress disk.Progress) error {
	if err := img.writeFooters(f); err != nil {
		return err
	}
	img.size = int64(f.CurrentSize)
	if err := img.clearBatmap(blocks); err != nil {
		return err
	}
	if err := img.dropBlocks(blocks); err != nil {
		return err
	}
	h := img.header
	if img.batmap == nil { // without the batmap that must follow the BAT
		h.MaxTableEntries = uint32(blocks)
	}
	if err := img.writeHeader(h); err != nil {
		return err
	}
	img.bat = img.bat.resized(blocks)
	return img.reclaim(ctx, progress)
}

// dropBlocks deallocates the blocks from first on, durably.
func (img *Image) dropBlocks(first int64) error {
	var lost []int64
	for i := range img.bat.used() {
		if i >= first {
			lost = append(lost, i)
		}
	}
	for _, i := range lost {
		img.bat.store(i, unused)
	}
	if err := img.writeEntries(lost); err != nil {
		return err
	}
	img.bitmaps.forgetFrom(first)
	return img.flush()
}
