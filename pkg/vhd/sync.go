package vhd

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// The order of writes.
//
// A new image is not recognised by any reader until complete writes its
// footers, so nothing is ordered before that.
//
// An image that is changed in place must open after a crash at any instant,
// with everything that was there at the last Sync. The leading copy of the
// footer never changes, so the image can always be found; beyond that
//
//  1. WriteAt gives a new block a place behind the trailing footer. It writes
//     the footer anew behind that place, and then the bitmap and the data. The
//     footer that was there at the last Sync stays. After a crash the block's
//     place is leaked, nothing else.
//  2. Sync flushes. Now data, bitmaps and the new footer are in the file.
//  3. Sync writes the changed BAT entries, and the bits of sectors that were
//     written for the first time in blocks that were there before, and
//     flushes again. Each entry is the commit of its block.
//  4. Sync zeroes the old footer, which nothing needs any more.
//
// Writes into sectors that are in the file go straight there.

// Sync implements [disk.Syncer]: it makes everything durable that was written
// before it was called, in an order that a crash at any point does not harm. A
// new image is completed by it. After an error it can be called again, unless that
// was ErrNotDurable, which stays.
func (img *Image) Sync() error {
	if img.f == nil {
		return nil
	}
	img.syncing.Lock()
	defer img.syncing.Unlock()
	// Before anything is looked at: what is written from here on may come too late.
	img.unsynced.Store(false)
	var err error
	if img.alloc.fresh {
		err = img.complete(true)
	} else {
		err = img.commit()
	}
	if err != nil {
		img.unsynced.Store(true)
	}
	return err
}

// flush has the file made durable. Where that fails once, what was written may
// be lost, and a system that dropped it (Linux does) finds nothing to complain of
// the next time. So after an error nothing is committed any more: the image is as
// it was at the last Sync.
func (img *Image) flush() error {
	if lost := img.syncErr.Load(); lost != nil {
		return *lost
	}
	err := img.f.Sync()
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrNotDurable, err)
		img.syncErr.Store(&err)
	}
	return err
}

// commit makes the blocks and sectors written since the last time reachable.
func (img *Image) commit() error {
	a := &img.alloc
	a.mu.Lock()
	dirty, partial, old := a.newBlocks, a.changedBitmaps, a.syncedFooterAt
	a.newBlocks, a.changedBitmaps, a.syncedFooterAt = nil, nil, -1
	a.mu.Unlock()
	putBack := func(err error) error {
		a.mu.Lock()
		a.newBlocks, a.changedBitmaps = append(dirty, a.newBlocks...), append(partial, a.changedBitmaps...)
		if old >= 0 {
			a.syncedFooterAt = old
		}
		a.mu.Unlock()
		return err
	}
	bits := make(map[int64][]byte, len(partial))
	for _, block := range partial {
		if b := img.bitmaps.takeDirty(block); b != nil {
			bits[block] = b
		}
	}
	if err := img.flush(); err != nil {
		return putBack(err)
	}
	if len(dirty) == 0 && len(bits) == 0 {
		return nil
	}
	for block, b := range bits {
		if err := img.writeBitmap(block, b); err != nil {
			return putBack(err)
		}
	}
	if err := img.writeEntries(dirty); err != nil {
		return putBack(err)
	}
	if err := img.flush(); err != nil {
		return putBack(err)
	}
	return img.zeroFooter(old)
}

// writeBitmap writes the bitmap of a block, and forgets it where it says that all
// is in the file.
func (img *Image) writeBitmap(block int64, bits []byte) error {
	if _, err := img.f.WriteAt(bits, int64(img.bat.load(block))*SectorSize); err != nil {
		return fmt.Errorf("sector bitmap of block %d: %w", block, err)
	}
	if allBits(bits, img.lay.blockSize/SectorSize) {
		img.bitmaps.setFull(block)
	}
	return nil
}

// zeroFooter zeroes a footer that another one has followed durably; at -1 there
// is none.
func (img *Image) zeroFooter(at int64) error {
	if at < 0 {
		return nil
	}
	if _, err := img.f.WriteAt(make([]byte, footerSize), at); err != nil {
		return fmt.Errorf("old footer: %w", err)
	}
	return nil
}

// writeEntries writes the BAT entries of these blocks, and of no others: the
// neighbours may not be stable yet.
func (img *Image) writeEntries(blocks []int64) error {
	slices.Sort(blocks)
	for len(blocks) > 0 {
		run := 1
		for run < len(blocks) && blocks[run] == blocks[0]+int64(run) {
			run++
		}
		b := make([]byte, 0, run*4)
		for _, block := range blocks[:run] {
			b = binary.BigEndian.AppendUint32(b, img.bat.load(block))
		}
		if _, err := img.f.WriteAt(b, img.lay.batOff+blocks[0]*4); err != nil {
			return fmt.Errorf("BAT: %w", err)
		}
		blocks = blocks[run:]
	}
	return nil
}

// complete writes the metadata of a new image, the footers last, and from then
// on the image is one that is changed in place. With flush, each step is
// durable before the next.
func (img *Image) complete(flush bool) error {
	// Before the allocator is locked: who writes has a bitmap locked, and waits for it.
	if err := img.writeNewBitmaps(); err != nil {
		return err
	}
	a := &img.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	sync := func() error {
		if flush {
			return img.flush()
		}
		return nil
	}
	if img.dynamic() {
		if err := a.writeUnwrittenBitmaps(img); err != nil {
			return err
		}
		img.placeBAT()
	}
	if !a.device {
		if err := cutTo(img.f, a.end+footerSize); err != nil {
			return err
		}
	}
	footer := img.footer.Encode()
	if img.dynamic() {
		header := img.header.Encode()
		if _, err := img.f.WriteAt(header[:], int64(img.footer.DataOffset)); err != nil {
			return fmt.Errorf("dynamic disk header: %w", err)
		}
		if err := img.bat.writeTo(img.f, img.lay.batOff, 0); err != nil {
			return err
		}
		if err := img.writeTexts(img.parentRecord.texts(img.lay.batEnd())); err != nil {
			return err
		}
	}
	if err := sync(); err != nil {
		return err
	}
	if _, err := img.f.WriteAt(footer[:], a.footerAt()); err != nil {
		return fmt.Errorf("footer: %w", err)
	}
	if img.dynamic() {
		if _, err := img.f.WriteAt(footer[:], 0); err != nil {
			return fmt.Errorf("copy of the footer: %w", err)
		}
	}
	if err := sync(); err != nil {
		return err
	}
	img.footerAt = a.footerAt()
	a.fresh, a.length = false, a.end+footerSize
	return nil
}

// cutTo cuts a file that is longer. To cut one that is not would have XFS write all of
// it back when it is closed.
func cutTo(f disk.File, length int64) error {
	size, err := disk.FileSize(f)
	if err != nil || size <= length {
		return err
	}
	return f.Truncate(length)
}

// writeNewBitmaps writes the bitmaps of a new image's blocks that are in the file
// only in part. Those of what is written meanwhile follow with the next Sync.
func (img *Image) writeNewBitmaps() error {
	a := &img.alloc
	a.mu.Lock()
	blocks := a.changedBitmaps
	a.changedBitmaps = nil
	a.mu.Unlock()
	for i, block := range blocks {
		bits := img.bitmaps.takeDirty(block)
		if bits == nil {
			continue
		}
		if err := img.writeBitmap(block, bits); err != nil {
			a.mu.Lock()
			a.changedBitmaps = append(a.changedBitmaps, blocks[i:]...)
			a.mu.Unlock()
			return err
		}
	}
	return nil
}

// placeBAT gives the BAT of a new image its final place: in front of the blocks
// where it fits, else behind them.
func (img *Image) placeBAT() {
	a := &img.alloc
	if img.differencing() {
		return // its size was known, and locators stand behind the BAT
	}
	switch n := batBytes(img.bat.len()); {
	case a.end == img.lay.batOff+a.batRoom: // there are no blocks
		a.end = img.lay.batOff + n
	case n > a.batRoom:
		img.header.TableOffset = uint64(a.end)
		a.end += n
	}
	img.lay = layoutOf(&img.footer, &img.header, 0)
}
