package vhd

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// trailer is where the trailing footer of an image is stored.
type trailer uint8

const (
	trailerMoves        trailer = iota // after everything in use; allocation moves it
	trailerMissing                     // missing or invalid
	trailerFixed                       // in the last sector of a device
	trailerFixedMissing                // missing or invalid
)

// onDevice reports whether the file is a device, whose length is fixed.
func (t trailer) onDevice() bool { return t == trailerFixed || t == trailerFixedMissing }

// present reports whether the trailing footer is valid.
func (t trailer) present() bool { return t == trailerMoves || t == trailerFixed }

// written returns the trailer after the footer is written.
func (t trailer) written() trailer {
	if t.onDevice() {
		return trailerFixed
	}
	return trailerMoves
}

// trailerOf returns the trailer of the image in f. valid says that the trailing footer is
// valid.
func trailerOf(f any, valid bool) trailer {
	switch device := disk.IsDevice(f); {
	case device && valid:
		return trailerFixed
	case device:
		return trailerFixedMissing
	case valid:
		return trailerMoves
	}
	return trailerMissing
}

// allocator extends the file for blocks and metadata, and undoes extensions that fail.
type allocator struct {
	mu sync.Mutex

	end            int64 // end of everything in use
	footerAt       int64 // offset of the trailing footer in a regular file; end or more
	length         int64 // length of the file
	deviceFooterAt int64 // offset of the last sector of a device

	batSpace int64 // bytes reserved before the blocks of a new image for the BAT and its batmap
	ahead    int64 // number of blocks for which the next extension of a packed file reserves space

	gapAndBitmap []byte // buffer for the bytes before a block's data

	// unwrittenBitmaps are the blocks of a new image whose bitmaps, all ones, are
	// not in the file yet. A write at the start of a block writes its bitmap, too;
	// complete writes the remaining ones.
	unwrittenBitmaps map[int64]bool
	unwrittenCount   atomic.Int64

	newBlocks      []int64 // blocks allocated since the last Sync
	changedBitmaps []int64 // blocks with a changed bitmap since the last Sync

	// syncedFooterAt is the offset of the trailing footer of the last Sync if a newer footer
	// follows it; else -1.
	syncedFooterAt int64
	// repairLeading says that the copy at offset 0 differs from the footer in use. The copy is
	// rewritten before the first allocation, because a crash during an allocation may leave no
	// other footer.
	repairLeading bool
}

// open prepares to allocate in an existing image, in a file of size bytes.
func (a *allocator) open(img *Image, fs *footers, size int64) {
	a.syncedFooterAt = -1
	a.length = size
	a.deviceFooterAt = lastSector(size)
	a.repairLeading = !fs.leading.valid() || !fs.leading.same(&img.footer)
	switch img.trailer {
	case trailerMoves:
		a.end = roundUp(img.footerAt, SectorSize)
	case trailerMissing:
		a.end = roundUp(size, SectorSize) // keep the partial sector at the end
	default:
		a.end = img.endOfUse() // a device is longer than its image
	}
	a.footerAt = a.end
	img.lay.align, img.lay.fileAlign = img.foundAlignment(size)
}

// endOfUse returns the offset after the last metadata and the last block.
func (img *Image) endOfUse() int64 {
	end := img.bat.end(img.lay.stored())
	for _, r := range img.lay.metadata() {
		end = max(end, r.end)
	}
	return end
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// lastSector returns the offset of the last whole sector of a file.
func lastSector(size int64) int64 { return size/SectorSize*SectorSize - SectorSize }

// trailingFooterAt returns the offset of the trailing footer.
func (img *Image) trailingFooterAt() int64 {
	if img.trailer.onDevice() {
		return img.alloc.deviceFooterAt
	}
	return img.alloc.footerAt
}

// An extension is the range [start, end) at the end of the file, which one call has allocated.
type extension struct {
	start, end int64

	// The state of the allocator before the extension.
	endBefore, footerBefore, lengthBefore, syncedFooterBefore int64
	trailerBefore                                             trailer
}

// freeFrom returns the least offset of an extension: after everything in use and, unless the
// file is packed, after the trailing footer. That footer stays where it is.
func (img *Image) freeFrom() int64 {
	if img.state.phase() == phaseCreating || img.trailer.onDevice() || img.lay.packed() {
		return img.alloc.end
	}
	return img.alloc.footerAt + footerSize
}

// extend allocates n bytes from start on, at the end of the file, and writes the trailing
// footer after them. All allocations use it. The caller has locked the allocator or is alone,
// and calls undoExtension if it cannot write the contents of the extension.
//
// The footer of the last Sync stays valid until retireSyncedFooter. If the extension overwrites
// that footer, extend first makes the new one durable. After an error nothing is allocated.
func (img *Image) extend(start, n int64) (extension, error) {
	return img.extendAhead(start, n, 0)
}

// extendAhead is extend with ahead bytes of free space before the footer. The next extensions
// use that space without writing a footer.
func (img *Image) extendAhead(start, n, ahead int64) (extension, error) {
	a := &img.alloc
	x := extension{start, start + n, a.end, a.footerAt, a.length, a.syncedFooterAt, img.trailer}
	if img.trailer.onDevice() && x.end > a.deviceFooterAt {
		return x, fmt.Errorf("%w: the device ends at byte %d", errNoSpace, a.deviceFooterAt+footerSize)
	}
	if img.state.phase() == phaseCreating {
		a.end = x.end
		return x, nil
	}
	if img.twoIDs {
		return x, ErrTwoIDs
	}
	footer := img.footer.Encode()
	if a.repairLeading {
		if _, err := img.f.WriteAt(footer[:], 0); err != nil {
			return x, fmt.Errorf("leading footer copy: %w", err)
		}
		if err := img.flush(); err != nil {
			return x, err
		}
		a.repairLeading = false
	}
	if img.trailer.onDevice() || x.end <= a.footerAt {
		a.end = x.end
		return x, nil
	}
	footerAt := img.lay.footerOffset(x.end + ahead)
	if _, err := img.f.WriteAt(footer[:], footerAt); err != nil {
		return x, img.cutBack(fmt.Errorf("footer: %w", err))
	}
	a.end, a.footerAt, a.length, img.trailer = x.end, footerAt, footerAt+footerSize, trailerMoves
	switch {
	case start < x.footerBefore+footerSize: // the extension overwrites the former footer
		if err := img.flush(); err != nil {
			return x, err
		}
		a.syncedFooterAt = -1
		// A partial sector may follow the footer.
		if _, err := img.f.WriteAt(make([]byte, max(footerSize, x.lengthBefore-x.footerBefore)), x.footerBefore); err != nil {
			return x, img.undoExtension(x, fmt.Errorf("old footer: %w", err))
		}
	case a.syncedFooterAt < 0:
		a.syncedFooterAt = x.footerBefore
	}
	return x, nil
}

// undoExtension reverts x, the last extension, and returns err, its reason. If the undo fails,
// too, the image has failed.
func (img *Image) undoExtension(x extension, err error) error {
	if img.state.phase() == phaseFailed {
		return err
	}
	a := &img.alloc
	moved := a.footerAt != x.footerBefore
	a.end, a.footerAt, a.length = x.endBefore, x.footerBefore, x.lengthBefore
	a.syncedFooterAt, img.trailer = x.syncedFooterBefore, x.trailerBefore
	if img.state.phase() == phaseCreating || !moved {
		return err
	}
	// By the extension, or by the gap before it.
	overwritten := x.start < a.footerAt+footerSize || x.syncedFooterBefore >= 0
	if img.trailer == trailerMoves && overwritten {
		footer := img.footer.Encode()
		if _, ferr := img.f.WriteAt(footer[:], a.footerAt); ferr != nil {
			return img.state.fail(fmt.Errorf("%w; then footer: %w", err, ferr))
		}
	}
	return img.cutBack(err)
}

// cutBack truncates the file to its length before an extension, and returns err, its reason. If
// that fails, too, the image has failed.
func (img *Image) cutBack(err error) error {
	if terr := cutTo(img.f, img.alloc.length); terr != nil {
		return img.state.fail(fmt.Errorf("%w; then truncating: %w", err, terr))
	}
	return err
}

// retireSyncedFooter flushes, and then zeroes the trailing footer of the last Sync. A newer
// footer follows it.
func (img *Image) retireSyncedFooter() error {
	at := img.alloc.syncedFooterAt
	if at < 0 {
		return nil
	}
	if err := img.flush(); err != nil {
		return err
	}
	img.alloc.syncedFooterAt = -1
	return img.zeroFooter(at)
}

// zeroFooter zeroes a footer. The caller has made a newer footer durable.
func (img *Image) zeroFooter(at int64) error {
	if _, err := img.f.WriteAt(make([]byte, footerSize), at); err != nil {
		return fmt.Errorf("old footer: %w", err)
	}
	return nil
}

// extendForBlock allocates space for a block. In a packed file it also reserves space for more
// blocks; trim frees what is left of it.
func (img *Image) extendForBlock(more int64) (extension, error) {
	at := img.lay.nextBlockOffset(img.freeFrom())
	if at/SectorSize >= unused {
		return extension{}, fmt.Errorf("%w: the block would be at sector %d, and a BAT entry holds at most %d", ErrTooLarge, at/SectorSize, uint32(unused-1))
	}
	if !img.lay.packed() {
		more = 0
	}
	return img.extendAhead(at, img.lay.stored(), more*img.lay.stored())
}

// aheadFactor is the growth of the space that each extension of a packed file reserves. In such
// a file the next block overwrites the footer, so a new footer must be durable first. Reserving
// space ahead bounds the number of these flushes. Sync frees the rest. The reserved space is a
// hole of at most maxAhead bytes.
const (
	aheadFactor = 64
	maxAhead    = 1 << 30
)

// allocate returns the BAT entry of a block, and allocates the block if it is unallocated. In a
// dynamic image all bits of the new bitmap are set, and the sectors read as zeros. In a
// differencing image all bits start clear, so the sectors read from the parent. After an error
// the block is not allocated.
func (img *Image) allocate(block int64) (uint32, error) {
	a := &img.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := img.state.writable(); err != nil { // another allocation may have failed since
		return unused, err
	}
	if e := img.bat.load(block); e != unused {
		return e, nil
	}
	more := min(a.ahead, maxAhead/img.lay.stored())
	// Counting is slow: only when the file must grow.
	if img.lay.packed() && a.end+img.lay.stored() > a.footerAt {
		more = max(0, min(more, img.bat.len()-img.bat.count()-1))
	}
	x, err := img.extendForBlock(more)
	// The file system is small, or has no holes.
	if err != nil && more > 0 && img.state.usable() == nil {
		a.ahead = 0
		x, err = img.extendForBlock(0)
	}
	if err == nil {
		if a.footerAt != x.footerBefore {
			a.ahead = max(1, a.ahead) * aheadFactor
		}
		if err = img.writeNewBlock(x, block); err != nil {
			err = img.undoExtension(x, err)
		}
	}
	if err != nil {
		return unused, fmt.Errorf("block %d: %w", block, err)
	}
	if img.state.phase() != phaseCreating {
		a.newBlocks = append(a.newBlocks, block)
	}
	if img.differencing() {
		img.bitmaps.add(block, &sectorBitmap{bits: make([]byte, img.lay.bitmapSize)})
	} else {
		img.bitmaps.setFull(block)
	}
	e := uint32(x.start / SectorSize)
	img.bat.store(block, e)
	return e, nil
}

// writeNewBlock writes the start of a new block: its bitmap, and zeros where the file may hold
// other data.
func (img *Image) writeNewBlock(x extension, block int64) error {
	a := &img.alloc
	if img.state.phase() == phaseCreating && !img.trailer.onDevice() {
		// A sector that is not written in a new file is zero, or past its end.
		if !img.differencing() {
			a.unwrittenBitmaps[block] = true
			a.unwrittenCount.Add(1)
		}
		return nil
	}
	if err := img.writeGapAndBitmap(x); err != nil {
		return fmt.Errorf("sector bitmap: %w", err)
	}
	if img.trailer.onDevice() {
		return filesystem.Zero(img.f, x.start+img.lay.bitmapSize, img.lay.blockSize)
	}
	return nil
}

// writeGapAndBitmap writes the bitmap of a new block, and zeros into the gap before it. The gap
// may hold a footer that no Sync has completed. The footer of the last Sync stays.
func (img *Image) writeGapAndBitmap(x extension) error {
	a := &img.alloc
	gap := int64(0)
	switch {
	case img.trailer.onDevice() || x.start == x.endBefore:
	case x.syncedFooterBefore < 0:
		gap = x.start - x.footerBefore - footerSize
	default:
		gap = x.start - x.endBefore
	}
	if n := gap + img.lay.bitmapSize; int64(cap(a.gapAndBitmap)) < n {
		a.gapAndBitmap = make([]byte, n)
	} else {
		a.gapAndBitmap = a.gapAndBitmap[:n]
		clear(a.gapAndBitmap)
	}
	if !img.differencing() {
		setBits(a.gapAndBitmap[gap:], 0, img.lay.blockSize/SectorSize)
	}
	_, err := img.f.WriteAt(a.gapAndBitmap, x.start-gap)
	return err
}

// bitmapUnwritten reports whether the bitmap of a new block is not in the file yet.
func (a *allocator) bitmapUnwritten(block int64) bool {
	if a.unwrittenCount.Load() == 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unwrittenBitmaps[block]
}

// bitmapWritten notes that the bitmap of a block is in the file.
func (a *allocator) bitmapWritten(block int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unwrittenBitmaps[block] {
		delete(a.unwrittenBitmaps, block)
		a.unwrittenCount.Add(-1)
	}
}

// writeUnwrittenBitmaps writes the bitmaps of new blocks that are not in the file
// yet. The caller has locked the allocator.
func (a *allocator) writeUnwrittenBitmaps(img *Image) error {
	for _, block := range slices.Sorted(maps.Keys(a.unwrittenBitmaps)) {
		if e := img.bat.load(block); e != unused {
			if _, err := img.f.WriteAt(img.fullBitmap(), int64(e)*SectorSize); err != nil {
				return fmt.Errorf("sector bitmap of block %d: %w", block, err)
			}
		}
		delete(a.unwrittenBitmaps, block)
		a.unwrittenCount.Add(-1)
	}
	return nil
}

// fullBitmap returns a sector bitmap with the bits of all sectors set.
func (img *Image) fullBitmap() []byte {
	b := make([]byte, img.lay.bitmapSize)
	setBits(b, 0, img.lay.blockSize/SectorSize)
	return b
}

// findSpace returns n bytes of space for metadata: an unused gap, or an extension. n is a
// multiple of 512. extended is false for a gap.
func (img *Image) findSpace(n int64) (x extension, extended bool, err error) {
	for _, g := range img.gaps() {
		if at := roundUp(g[0], SectorSize); at+n <= g[1] {
			return extension{start: at, end: at + n}, false, nil
		}
	}
	if x, err = img.extend(img.freeFrom(), n); err != nil {
		return x, false, err
	}
	return x, true, nil
}

// trim moves the footer of a packed file down to the end of everything in use, when everything
// before it is durable. If the disk is too full to write the footer there, the footer stays,
// and the space before it stays unused. The caller has locked the allocator or is alone.
func (img *Image) trim() error {
	a := &img.alloc
	a.ahead = 0
	if img.trailer != trailerMoves || !img.lay.packed() {
		return nil
	}
	at := img.lay.footerOffset(a.end)
	if at+footerSize > a.footerAt {
		return nil
	}
	undo := func(err error) error { // later blocks rely on zeros there
		if zerr := filesystem.Zero(img.f, at, footerSize); zerr != nil {
			return img.state.fail(fmt.Errorf("%w; then footer: %w", err, zerr))
		}
		return err
	}
	footer := img.footer.Encode()
	if _, err := img.f.WriteAt(footer[:], at); err != nil {
		if err = undo(fmt.Errorf("footer: %w", err)); errors.Is(err, syscall.ENOSPC) && !errors.Is(err, ErrFailed) {
			return nil
		}
		return err
	}
	if err := img.flush(); err != nil {
		return err
	}
	if err := img.f.Truncate(at + footerSize); err != nil {
		return undo(err)
	}
	a.footerAt, a.length = at, at+footerSize
	return img.flush()
}
