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

// trailer says where the trailing footer of an image is.
type trailer uint8

const (
	trailerMoves        trailer = iota // behind everything in use; it moves when space is taken
	trailerMissing                     // should be there, and is not valid
	trailerFixed                       // in the last sector of a device
	trailerFixedMissing                // should be there, and is not valid
)

// onDevice reports whether the file is a device, which keeps its length.
func (t trailer) onDevice() bool { return t == trailerFixed || t == trailerFixedMissing }

// present reports whether the trailing footer is valid.
func (t trailer) present() bool { return t == trailerMoves || t == trailerFixed }

// written is the trailer after the footer was written.
func (t trailer) written() trailer {
	if t.onDevice() {
		return trailerFixed
	}
	return trailerMoves
}

// trailerOf is the trailer of the image in a file with a valid trailing footer, or
// without.
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

// allocator takes space at the end of the file, and gives it back.
type allocator struct {
	mu sync.Mutex

	end            int64 // of everything in use
	footerAt       int64 // offset of the trailing footer in a regular file; end or more
	length         int64 // of the file
	deviceFooterAt int64 // last sector of a device

	batRoom int64 // bytes before the blocks of a new image that are reserved for the BAT and its batmap
	ahead   int64 // packed files: blocks to take space for with the next extension

	gapAndBitmap []byte // buffer for what is written before a block

	// unwrittenBitmaps are the blocks of a new image whose bitmaps, all ones, are
	// not in the file yet. A write at the start of a block writes its bitmap, too;
	// complete writes the remaining ones.
	unwrittenBitmaps map[int64]bool
	unwrittenCount   atomic.Int64

	newBlocks      []int64 // blocks allocated since the last Sync
	changedBitmaps []int64 // blocks with a changed bitmap since the last Sync

	// syncedFooterAt is the offset of the trailing footer of the last Sync, if it
	// was followed by another since; else -1.
	syncedFooterAt int64
	// repairLeading says that the copy at offset 0 differs from the footer in use.
	// It is rewritten before the first allocation, because from then on a crash
	// may leave no other footer.
	repairLeading bool
}

// open prepares to write to an existing image in a file of size bytes.
func (a *allocator) open(img *Image, fs *footers, size int64) {
	a.syncedFooterAt = -1
	a.length = size
	a.deviceFooterAt = lastSector(size)
	a.repairLeading = !fs.leading.valid() || !fs.leading.same(&img.footer)
	switch img.trailer {
	case trailerMoves:
		a.end = roundUp(img.footerAt, SectorSize)
	case trailerMissing:
		a.end = roundUp(size, SectorSize) // a torn end is left as it is
	default:
		a.end = img.endOfUse() // the length of a device says nothing
	}
	a.footerAt = a.end
	img.lay.align, img.lay.fileAlign = img.foundAlignment(size)
}

// endOfUse is the first byte behind metadata and blocks.
func (img *Image) endOfUse() int64 {
	end := img.bat.end(img.lay.stored())
	for _, r := range img.lay.metadata() {
		end = max(end, r.end)
	}
	return end
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// lastSector is the offset of the last whole sector of a file.
func lastSector(size int64) int64 { return size/SectorSize*SectorSize - SectorSize }

// trailingFooterAt is the offset of the trailing footer.
func (img *Image) trailingFooterAt() int64 {
	if img.trailer.onDevice() {
		return img.alloc.deviceFooterAt
	}
	return img.alloc.footerAt
}

// An extension is space taken at the end of the file, [start, end).
type extension struct {
	start, end int64

	// What the allocator said before.
	endBefore, footerBefore, lengthBefore, syncedFooterBefore int64
	trailerBefore                                             trailer
}

// freeFrom is the first offset that an extension may have: behind everything in
// use and, unless the file is packed, behind the trailing footer, too, which stays
// where it is.
func (img *Image) freeFrom() int64 {
	if img.state.phase() == phaseCreating || img.trailer.onDevice() || img.lay.packed() {
		return img.alloc.end
	}
	return img.alloc.footerAt + footerSize
}

// extend takes n bytes from start on, at the end of the file, and puts the trailing
// footer behind them. It is the only way to take space. The caller has locked the
// allocator or is alone, and calls giveBack if what is to be there cannot be
// written.
//
// The footer of the last Sync stays valid until retireSyncedFooter, unless it is in
// the way: then the new one is made durable first. After an error nothing is taken.
func (img *Image) extend(start, n int64) (extension, error) {
	return img.extendAhead(start, n, 0)
}

// extendAhead is extend, with the footer so many bytes further behind: what comes
// next needs no other footer.
func (img *Image) extendAhead(start, n, ahead int64) (extension, error) {
	a := &img.alloc
	x := extension{start, start + n, a.end, a.footerAt, a.length, a.syncedFooterAt, img.trailer}
	if img.trailer.onDevice() && x.end > a.deviceFooterAt {
		return x, fmt.Errorf("%w: the device ends at byte %d", errNoRoom, a.deviceFooterAt+footerSize)
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
			return x, fmt.Errorf("copy of the footer: %w", err)
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
	case start < x.footerBefore+footerSize: // the former footer is in the way
		if err := img.flush(); err != nil {
			return x, err
		}
		a.syncedFooterAt = -1
		// A torn end may follow the footer.
		if _, err := img.f.WriteAt(make([]byte, max(footerSize, x.lengthBefore-x.footerBefore)), x.footerBefore); err != nil {
			return x, img.giveBack(x, fmt.Errorf("old footer: %w", err))
		}
	case a.syncedFooterAt < 0:
		a.syncedFooterAt = x.footerBefore
	}
	return x, nil
}

// giveBack undoes an extension, the last one, because of err, which it returns. If
// that fails, too, the image has failed.
func (img *Image) giveBack(x extension, err error) error {
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
	overwritten := x.start < a.footerAt+footerSize || x.syncedFooterBefore >= 0 // by the extension, or by the gap before it
	if img.trailer == trailerMoves && overwritten {
		footer := img.footer.Encode()
		if _, ferr := img.f.WriteAt(footer[:], a.footerAt); ferr != nil {
			return img.state.fail(fmt.Errorf("%w; then footer: %w", err, ferr))
		}
	}
	return img.cutBack(err)
}

// cutBack cuts the file to the length it had before an extension, because of err,
// which it returns. If that fails, too, the image has failed.
func (img *Image) cutBack(err error) error {
	if terr := cutTo(img.f, img.alloc.length); terr != nil {
		return img.state.fail(fmt.Errorf("%w; then truncating: %w", err, terr))
	}
	return err
}

// retireSyncedFooter zeroes the trailing footer of the last Sync, when the one that
// followed it is durable.
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

// zeroFooter zeroes a footer that another one has followed durably.
func (img *Image) zeroFooter(at int64) error {
	if _, err := img.f.WriteAt(make([]byte, footerSize), at); err != nil {
		return fmt.Errorf("old footer: %w", err)
	}
	return nil
}

// extendForBlock takes space for a block. In a packed file it takes space ahead for so
// many more, which trim gives back.
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

// aheadFactor is how much more space each extension of a packed file takes ahead. In
// such a file the footer is in the way of the next block, and a new one must be
// durable first: that is to happen a few times only, however much is written. Sync
// gives back what is not needed. The space is a hole, of maxAhead bytes at most.
const (
	aheadFactor = 64
	maxAhead    = 1 << 30
)

// allocate returns the BAT entry of a block, and allocates the block first if it
// has none. All sectors of a new block are marked as written, and read as zeros. In
// a differencing image all bits start clear, so the sectors read from the parent.
// After an error the block is not allocated.
func (img *Image) allocate(block int64) (uint32, error) {
	a := &img.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := img.state.writable(); err != nil { // another allocation has failed meanwhile
		return unused, err
	}
	if e := img.bat.load(block); e != unused {
		return e, nil
	}
	more := min(a.ahead, maxAhead/img.lay.stored())
	if img.lay.packed() && a.end+img.lay.stored() > a.footerAt { // not counted for each block
		more = max(0, min(more, img.bat.len()-img.bat.count()-1))
	}
	x, err := img.extendForBlock(more)
	if err != nil && more > 0 && img.state.usable() == nil { // a small file system, or one without holes
		a.ahead = 0
		x, err = img.extendForBlock(0)
	}
	if err == nil {
		if a.footerAt != x.footerBefore {
			a.ahead = max(1, a.ahead) * aheadFactor
		}
		if err = img.writeNewBlock(x, block); err != nil {
			err = img.giveBack(x, err)
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

// writeNewBlock writes what a new block starts with into its space: its bitmap, and
// zeros where the file may have something else.
func (img *Image) writeNewBlock(x extension, block int64) error {
	a := &img.alloc
	if img.state.phase() == phaseCreating && !img.trailer.onDevice() {
		// What is not written in a new file is zero, or behind its end.
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

// writeGapAndBitmap writes the bitmap of a new block, and zeros into the gap before
// it, which may hold a footer that was never synced. The footer of the last Sync
// stays.
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

// fullBitmap is the sector bitmap of a block that is all in the file.
func (img *Image) fullBitmap() []byte {
	b := make([]byte, img.lay.bitmapSize)
	setBits(b, 0, img.lay.blockSize/SectorSize)
	return b
}

// findSpace returns n bytes of space, a multiple of 512, for metadata: a gap that
// nothing uses, or an extension. taken is false for a gap.
func (img *Image) findSpace(n int64) (x extension, taken bool, err error) {
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

// trim moves the footer of a packed file back to the end of what is in use, when
// everything before is durable. Where the disk is so full that the footer finds no
// space there, it stays where it is, and the space before it unused. The caller has
// locked the allocator or is alone.
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
	undo := func(err error) error { // blocks to come are zero before they are written
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
