package vhd

import (
	"errors"
	"slices"
	"sync"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// errSalvageWrite refuses writes: they could overwrite data whose extent is unknown.
var errSalvageWrite = errors.New("a salvaged image cannot be written")

// The reasons of lost ranges.
const (
	lostOverMetadata = "the BAT entry points over metadata"
	lostBeyondEnd    = "the BAT entry points past the end of the file"
	lostTorn         = "the file ends inside the block"
	lostBATSector    = "the BAT entry cannot be read"
	lostBATEnd       = "the BAT ends before the entry"
	lostOverlap      = "two BAT entries point at the same part of the file"
	lostBATRebuilt   = "the BAT entry was rebuilt from the order of the file"
	lostBitmap       = "the sector bitmap cannot be read"
	lostParent       = "the parent is missing"
	lostFileEnd      = "the file ends before the disk does"
	lostSize         = "the size of the disk is not known exactly"
	lostShifted      = "bytes are missing or were added inside the file"
	lostHeader       = "the dynamic disk header was rebuilt without proof"
	lostTooMany      = "more ranges are lost than can be listed"
)

// salvage describes the damage of a salvaged image.
type salvage struct {
	// readable is the placement of blocks whose bitmap, at least, is in the file and does not
	// overlap metadata.
	readable placement
	end      int64    // the end of stored blocks: the trailing footer, or the end of the file
	lost     lostList // ranges that are zeros in the image itself, except blocks without a bitmap
	doubtful lostList

	headerRebuilt bool

	mu         sync.Mutex
	badBitmaps map[int64]bool // blocks whose bitmap could not be read
}

// Lost implements [disk.Salvaged]. In a differencing image it reads the sector bitmaps of the
// blocks over lost ranges of the parents. It also lists blocks whose bitmap could not be read
// by then.
func (img *Image) Lost() []disk.LostRange {
	if img.salvage == nil {
		return nil
	}
	inherited, unread := img.inheritedLost(), img.unreadBitmaps()
	// Zeros take precedence.
	lost := img.salvage.lost.under(unread.with(false)).under(inherited.with(false))
	return slices.Clone(lost.under(unread.with(true)).under(img.salvage.doubtful).under(inherited.with(true)))
}

// unreadBitmaps lists the blocks whose bitmap could not be read. Their contents in a dynamic
// image are read as if all bits were set. In a differencing image they read as zeros, because
// the sectors of the parent are unknown.
func (img *Image) unreadBitmaps() lostList {
	s := img.salvage
	s.mu.Lock()
	blocks := make([]int64, 0, len(s.badBitmaps))
	for block := range s.badBitmaps {
		blocks = append(blocks, block)
	}
	s.mu.Unlock()
	slices.Sort(blocks)
	var list lostList
	for _, block := range blocks {
		r := img.lay.diskRange(block, 0, img.size)
		list.add(r.Off, r.N, !img.differencing(), lostBitmap)
	}
	return list
}

// orphaned reports whether the image reads zeros instead of a parent that could not be opened.
func (img *Image) orphaned() bool {
	return img.salvage != nil && img.parent == nil && img.parentErr != nil
}

// inheritedLost lists the lost ranges of the parents that the image reads from them.
func (img *Image) inheritedLost() lostList {
	var parents lostList
	switch p, ok := img.parent.(disk.Salvaged); {
	case img.orphaned():
		parents.add(0, img.size, false, lostParent)
	case ok:
		parents = p.Lost()
	}
	var list lostList
	for _, x := range parents {
		for off, end := x.Off, min(x.Off+x.N, img.size); off < end; {
			block := off / img.lay.blockSize
			stop := min(end, (block+1)*img.lay.blockSize)
			e := img.bat.load(block)
			if e == unused {
				stop = min(end, img.bat.nextUsed(block, (end-1)/img.lay.blockSize+1)*img.lay.blockSize)
				list.add(off, stop-off, x.Doubtful, x.Reason)
				off = stop
				continue
			}
			bm, lost := img.salvagedBitmap(block, e)
			if lost {
				off = img.bat.runEnd(block) * img.lay.blockSize
				continue
			}
			if bm != nil {
				start := block * img.lay.blockSize
				for at := off; at < stop; {
					bit, set := bitmapRun(bm.bits, (at-start)/SectorSize, (stop-start+SectorSize-1)/SectorSize)
					next := min(stop, start+bit*SectorSize)
					if !set {
						list.add(at, next-at, x.Doubtful, x.Reason)
					}
					at = next
				}
			}
			off = stop
		}
	}
	return list
}

// salvagedBitmap is [Image.bitmap] for a salvaged image. lost says that the whole block reads
// as zeros.
func (img *Image) salvagedBitmap(block int64, e uint32) (bm *sectorBitmap, lost bool) {
	s := img.salvage
	if !s.readable.fits(e) {
		return nil, true
	}
	bm, err := img.bitmap(block, e)
	if err == nil {
		return bm, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.badBitmaps == nil {
		s.badBitmaps = map[int64]bool{}
	}
	s.badBitmaps[block] = true
	return nil, img.differencing()
}

// runEnd returns the first block after block that does not share its entry. block is used.
func (t bat) runEnd(block int64) int64 {
	n := t.alike(block)
	return min(t.n, (block/n+1)*n)
}
