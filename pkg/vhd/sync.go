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

// After an error nothing is lost that was there at the last Sync. Space that was
// taken for a block is given back, a Sync can be repeated, and a change of the
// image's structure that stopped halfway, or a failed flush, fails the image (see
// state.fail).

// Sync implements [disk.Syncer]: it makes everything durable that was written
// before it was called, in an order that a crash at any point does not harm. It
// completes a new image. After an error it can be called again, unless that was
// ErrFailed.
func (img *Image) Sync() error {
	if img.state.phase() == phaseReading {
		return nil
	}
	img.syncing.Lock()
	defer img.syncing.Unlock()
	if err := img.state.usable(); err != nil {
		return err
	}
	// Cleared first: a write that comes from here on may be missed.
	img.unsynced.Store(false)
	var err error
	if img.state.phase() == phaseCreating {
		err = img.complete(true)
	} else {
		err = img.commit()
	}
	if err != nil {
		img.unsynced.Store(true)
		return err
	}
	img.synced = true
	return nil
}

// flush makes the file durable. If that fails once, the image has failed: recent
// writes may be lost, and a system that has dropped them (as Linux does) reports
// success the next time.
func (img *Image) flush() error {
	if err := img.state.usable(); err != nil {
		return err
	}
	if err := img.f.Sync(); err != nil {
		return img.state.fail(fmt.Errorf("%w: %w", ErrNotDurable, err))
	}
	return nil
}

// commit makes the blocks and sectors reachable that were written since the last
// Sync.
func (img *Image) commit() error {
	a := &img.alloc
	a.mu.Lock()
	newBlocks, changed, old := a.newBlocks, a.changedBitmaps, a.syncedFooterAt
	a.newBlocks, a.changedBitmaps, a.syncedFooterAt = nil, nil, -1
	a.mu.Unlock()
	putBack := func(err error) error {
		a.mu.Lock()
		a.newBlocks, a.changedBitmaps = append(newBlocks, a.newBlocks...), append(changed, a.changedBitmaps...)
		if old >= 0 {
			a.syncedFooterAt = old
		}
		a.mu.Unlock()
		return err
	}
	bits := make(map[int64][]byte, len(changed))
	for _, block := range changed {
		if b := img.bitmaps.takeChanged(block); b != nil {
			bits[block] = b
		}
	}
	if err := img.flush(); err != nil {
		return putBack(err)
	}
	if len(newBlocks) > 0 || len(bits) > 0 {
		for block, b := range bits {
			if err := img.writeBitmap(block, b); err != nil {
				return putBack(err)
			}
		}
		if err := img.writeEntries(newBlocks); err != nil {
			return putBack(err)
		}
		if err := img.flush(); err != nil {
			return putBack(err)
		}
		newBlocks, changed = nil, nil
	}
	if old >= 0 {
		if err := img.zeroFooter(old); err != nil {
			return putBack(err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return img.trim()
}

// writeBitmap writes the bitmap of a block. A bitmap that has become full is no
// longer kept.
func (img *Image) writeBitmap(block int64, bits []byte) error {
	if _, err := img.f.WriteAt(bits, int64(img.bat.load(block))*SectorSize); err != nil {
		return fmt.Errorf("sector bitmap of block %d: %w", block, err)
	}
	if allBits(bits, img.lay.blockSize/SectorSize) {
		img.bitmaps.setFull(block)
	}
	return nil
}

// writeEntries writes the BAT entries of these blocks, and no others: the
// neighbours may not be stable yet. It sorts blocks.
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

// complete writes the metadata of a new image, the footers last. From then on the
// image is changed in place. With flush, each step is durable before the next.
// After an error the image is still being created, and no reader recognises the
// file.
func (img *Image) complete(flush bool) error {
	// Before the allocator is locked: a writer locks a bitmap first.
	if err := img.writeNewBitmaps(); err != nil {
		return err
	}
	a := &img.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	if img.dynamic() {
		if err := a.writeUnwrittenBitmaps(img); err != nil {
			return err
		}
	}
	lay := img.plan.layout(&img.footer, &img.header)
	lay.locators = img.lay.locators
	end := a.end
	if img.dynamic() && !img.differencing() && end == lay.batOff+a.batSpace { // there are no blocks
		end = lay.tableEnd()
	}
	footerAt := end
	if img.dynamic() {
		footerAt = lay.footerOffset(end)
	}
	if img.trailer.onDevice() {
		if footerAt = a.deviceFooterAt; end > footerAt {
			return fmt.Errorf("%w: the device ends at byte %d, and the BAT at byte %d", errNoSpace, footerAt+footerSize, end)
		}
	}
	var m *batmap
	if len(lay.batmap) > 0 {
		m = newBatmap(lay.batEnd(), img.bat.len())
	}
	if err := img.writeMetadata(&lay, m, footerAt, flush); err != nil {
		return img.uncomplete(err, footerAt)
	}
	if err := img.writeLeadingFooter(flush); err != nil {
		return img.state.fail(err) // a reader may recognise the file already
	}
	img.footerAt, img.batmap = footerAt, m
	img.lay.relocate(&lay)
	a.end, a.footerAt, a.length = end, footerAt, footerAt+footerSize
	img.state.set(phaseWriting)
	return nil
}

// writeMetadata writes header, BAT, batmap if m is not nil, and trailing footer of a new
// image.
func (img *Image) writeMetadata(lay *layout, m *batmap, footerAt int64, flush bool) error {
	if !img.trailer.onDevice() {
		if err := cutTo(img.f, footerAt+footerSize); err != nil {
			return err
		}
	}
	if img.dynamic() {
		header := img.header.Encode()
		if _, err := img.f.WriteAt(header[:], int64(img.footer.DataOffset)); err != nil {
			return fmt.Errorf("dynamic disk header: %w", err)
		}
		if err := img.bat.writeTo(img.f, lay.batOff, 0); err != nil {
			return err
		}
		if m != nil {
			if _, err := img.f.WriteAt(m.encode(img.fullBlocksMap()), m.at); err != nil {
				return fmt.Errorf("batmap: %w", err)
			}
		}
		if err := img.writeTexts(img.parentRecord.texts(lay.tableEnd())); err != nil {
			return err
		}
	}
	if flush {
		if err := img.flush(); err != nil {
			return err
		}
	}
	footer := img.footer.Encode()
	if _, err := img.f.WriteAt(footer[:], footerAt); err != nil {
		return fmt.Errorf("footer: %w", err)
	}
	return nil
}

// writeLeadingFooter writes the copy of the footer at the start of a new dynamic
// image, after everything else.
func (img *Image) writeLeadingFooter(flush bool) error {
	if img.dynamic() {
		footer := img.footer.Encode()
		if _, err := img.f.WriteAt(footer[:], 0); err != nil {
			return fmt.Errorf("copy of the footer: %w", err)
		}
	}
	if flush {
		return img.flush()
	}
	return nil
}

// uncomplete takes away what writeMetadata has written before err, which it returns:
// the trailing footer, and what is behind the blocks. If that fails, too, the image
// has failed.
func (img *Image) uncomplete(err error, footerAt int64) error {
	if img.state.phase() == phaseFailed {
		return err
	}
	var uerr error
	if img.trailer.onDevice() {
		_, uerr = img.f.WriteAt(make([]byte, footerSize), footerAt)
	} else {
		uerr = cutTo(img.f, img.alloc.end)
	}
	if uerr != nil {
		return img.state.fail(fmt.Errorf("%w; then undoing: %w", err, uerr))
	}
	return err
}

// cutTo truncates a file that is longer. Truncating one to the length it has would
// make XFS write all of it back when it is closed.
func cutTo(f disk.File, length int64) error {
	size, err := disk.FileSize(f)
	if err != nil || size <= length {
		return err
	}
	return f.Truncate(length)
}

// writeNewBitmaps writes the bitmaps of a new image's blocks that are in the file
// only in part. Those of writes that come meanwhile follow with the next Sync.
func (img *Image) writeNewBitmaps() error {
	a := &img.alloc
	a.mu.Lock()
	blocks := a.changedBitmaps
	a.changedBitmaps = nil
	a.mu.Unlock()
	for i, block := range blocks {
		bits := img.bitmaps.takeChanged(block)
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
