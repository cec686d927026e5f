package vhd

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vhdtool/vhdtool/internal/sparse"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// allocator gives blocks their places in the file.
type allocator struct {
	mu sync.Mutex

	fresh  bool  // a new image, not yet complete
	end    int64 // of the last block; in a file the footer stands there, or will
	length int64 // of the file

	batRoom int64 // what stands before the blocks of a new image for the BAT

	// A device has its length, and keeps it. Its footer is in the last sector,
	// and does not move.
	device         bool
	deviceFooterAt int64

	gapAndBitmap []byte // what is written before a block, kept for the next one

	// unwrittenBitmaps are the blocks of a new image whose bitmaps, all ones, are not in the
	// file yet. Who writes a block from its start on writes the bitmap with it, and
	// complete the others.
	unwrittenBitmaps map[int64]bool
	unwrittenCount   atomic.Int64

	newBlocks      []int64 // blocks with a place since the last Sync
	changedBitmaps []int64 // blocks with a changed bitmap since the last Sync

	// The trailing footer that was there at the last Sync, if it was followed
	// by another since; else -1.
	syncedFooterAt int64
	// The copy at 0 is not that of the footer in use: mended before the first
	// allocation, because from then on a crash may leave nothing else.
	mendLeading bool
}

// open prepares to write to an existing image in a file of size bytes.
func (a *allocator) open(img *Image, fs *footers, size int64) {
	a.syncedFooterAt = -1
	a.length = size
	a.device = disk.IsDevice(img.f)
	a.deviceFooterAt = lastSector(size)
	a.mendLeading = !fs.leading.valid() || !fs.leading.same(&img.footer)
	a.end = roundUp(size, SectorSize) // whatever stands at a torn end stays
	if img.trailing {
		a.end = roundUp(img.footerAt, SectorSize)
	}
	if a.device {
		// The length says nothing: go on behind the last thing that is in use.
		a.end = img.bat.end(img.lay.stored())
		for _, r := range img.lay.metadata() {
			a.end = max(a.end, r.end)
		}
	}
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// lastSector is where the last whole sector of a file starts.
func lastSector(size int64) int64 { return size/SectorSize*SectorSize - SectorSize }

// footerAt is where the footer stands.
func (a *allocator) footerAt() int64 {
	if a.device {
		return a.deviceFooterAt
	}
	return a.end
}

// dataAlign is the alignment of the data of new blocks. It lets file systems
// with 4 KiB blocks write, and share, whole blocks of their own.
const dataAlign = 4096

// nextBlockOffset is where the next block goes: its bitmap right before its aligned data.
func (a *allocator) nextBlockOffset(bitmapSize int64) int64 {
	pos := a.end
	if !a.fresh && !a.device {
		pos += footerSize // leave the footer where it is
	}
	return roundUp(pos+bitmapSize, dataAlign) - bitmapSize
}

// allocate gives a block a place, unless it has one, and returns its entry.
// The sectors of a new block are all marked as written, and read as zeros
// until they are. In a differencing image none is, and they stay the parent's.
func (img *Image) allocate(block int64) (uint32, error) {
	a := &img.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := img.bat.load(block); e != unused {
		return e, nil
	}
	pos := a.nextBlockOffset(img.lay.bitmapSize)
	end := pos + img.lay.stored()
	if pos/SectorSize >= unused {
		return unused, fmt.Errorf("block %d: %w: its place would be at sector %d, and a BAT entry holds at most %d",
			block, ErrTooLarge, pos/SectorSize, uint32(unused-1))
	}
	if err := a.moveFooter(img, end); err != nil {
		return unused, fmt.Errorf("block %d: %w", block, err)
	}
	if a.fresh && !a.device {
		// What is not written in a new file is zero, or behind its end.
		if !img.differencing() {
			a.unwrittenBitmaps[block] = true
			a.unwrittenCount.Add(1)
		}
	} else if err := a.writeLead(img, pos); err != nil {
		return unused, fmt.Errorf("sector bitmap of block %d: %w", block, err)
	}
	if a.device {
		if err := sparse.Zero(img.f, pos+img.lay.bitmapSize, img.lay.blockSize); err != nil {
			return unused, fmt.Errorf("block %d: %w", block, err)
		}
	}
	if !a.fresh {
		a.leaveFooter()
		a.newBlocks = append(a.newBlocks, block)
	}
	a.end = end
	if img.differencing() {
		img.bitmaps.add(block, &sectorBitmap{bits: make([]byte, img.lay.bitmapSize)})
	} else {
		img.bitmaps.setFull(block)
	}
	e := uint32(pos / SectorSize)
	img.bat.store(block, e)
	return e, nil
}

// writeLead writes the bitmap of a new block at pos, and with it the gap in front:
// there may be an earlier footer in it, one that was never synced.
func (a *allocator) writeLead(img *Image, pos int64) error {
	gap := pos - a.end
	if a.fresh || a.device {
		gap = 0
	} else if a.syncedFooterAt < 0 {
		gap -= footerSize // the footer of the last Sync stays
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
	_, err := img.f.WriteAt(a.gapAndBitmap, pos-gap)
	return err
}

// bitmapUnwritten reports whether a block is bare.
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

// writeUnwrittenBitmaps writes the bitmaps of blocks that have been left without, for a caller
// who has locked the allocator.
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

// leaveFooter notes that another footer follows the one at the end of the file,
// which stays until the next Sync if it was there at the last one.
func (a *allocator) leaveFooter() {
	if a.syncedFooterAt < 0 && !a.device {
		a.syncedFooterAt = a.end
	}
}

// moveFooter writes the footer at end, as the new end of the file. On a device
// it only makes sure that there is room, and a new file ends where was written last.
func (a *allocator) moveFooter(img *Image, end int64) error {
	if a.device && end > a.deviceFooterAt {
		return fmt.Errorf("%w: the device ends at byte %d", errNoRoom, a.deviceFooterAt+footerSize)
	}
	if a.fresh {
		return nil
	}
	footer := img.footer.Encode()
	if a.mendLeading {
		if _, err := img.f.WriteAt(footer[:], 0); err != nil {
			return err
		}
		if err := img.flush(); err != nil {
			return err
		}
		a.mendLeading = false
	}
	if a.device {
		return nil
	}
	if _, err := img.f.WriteAt(footer[:], end); err != nil {
		// Give back what was half taken. The old footer is in place.
		_ = img.f.Truncate(a.length)
		return fmt.Errorf("footer: %w", err)
	}
	a.length = end + footerSize
	return nil
}

// freeRoom returns where n bytes, in whole sectors, can be written: a place that
// nothing uses, or a new one at the end, behind which the footer stands then.
func (img *Image) freeRoom(n int64) (int64, error) {
	a := &img.alloc
	for _, g := range img.gaps() {
		if at := roundUp(g[0], SectorSize); at+n <= g[1] {
			return at, nil
		}
	}
	at := a.end
	if !a.device {
		at += footerSize // leave the footer where it is
	}
	if err := a.moveFooter(img, at+n); err != nil {
		return 0, err
	}
	if a.device {
		a.end = at + n
		return at, nil
	}
	if err := img.flush(); err != nil {
		return 0, err
	}
	old := a.end
	a.end = at + n
	return at, img.zeroFooter(old)
}

// movePlace returns the next place for a block, with the footer written behind
// it.
func (img *Image) movePlace() (int64, error) {
	a := &img.alloc
	to := a.nextBlockOffset(img.lay.bitmapSize)
	end := to + img.lay.stored()
	if to/SectorSize >= unused {
		return 0, ErrTooLarge
	}
	if err := a.moveFooter(img, end); err != nil {
		return 0, err
	}
	a.leaveFooter()
	a.end = end
	return to, nil
}

// retireOldFooter zeroes the footer that others have followed, when those are durable.
func (img *Image) retireOldFooter() error {
	if err := img.flush(); err != nil {
		return err
	}
	old := img.alloc.syncedFooterAt
	img.alloc.syncedFooterAt = -1
	if err := img.zeroFooter(old); err != nil {
		return err
	}
	img.lay.limit = img.alloc.footerAt()
	return img.flush()
}
