package vhd

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// The order of writes.
//
// No reader recognises a new image until complete writes its footers, so the order of the
// writes before that does not matter.
//
// An image that is changed in place must open after a crash at any instant, with
// everything of the last Sync. The leading copy of the footer never changes, so the image
// can always be found. Otherwise the order is:
//
//  1. WriteAt allocates a block after the trailing footer. It writes another trailing
//     footer after the block, and then the bitmap and the data. The footer of the last
//     Sync stays. A crash only leaks the space of the block.
//  2. Sync flushes. Now data, bitmaps and the new footer are durable.
//  3. Sync writes the changed BAT entries. It also writes the bits of sectors that were
//     written for the first time in older blocks, and flushes again. Each entry commits
//     its block.
//  4. Sync zeroes the old footer, which nothing needs any more.
//
// Writes into sectors that are in the file overwrite these sectors directly.

// An error loses nothing of the last Sync. The space of a failed allocation is freed, and Sync
// can be repeated. The image fails if a change of its structure stops halfway, or if a flush
// fails (see state.fail).

// Sync implements [disk.Syncer]. It makes all earlier writes durable, in an order that is safe
// against a crash at any point. It completes a new image. After an error it can be called
// again, unless the error wraps ErrFailed.
func (img *Image) Sync() error {
	if img.state.phase() == phaseReading {
		return nil
	}
	img.syncing.Lock()
	defer img.syncing.Unlock()
	if err := img.state.usable(); err != nil {
		return err
	}
	// Clear it first: this Sync may miss a write that comes from here on.
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

// flush makes the file durable. If that fails once, the image has failed: recent writes may be
// lost. A system that has dropped them, such as Linux, reports success the next time.
func (img *Image) flush() error {
	if err := img.state.usable(); err != nil {
		return err
	}
	if err := img.f.Sync(); err != nil {
		return img.state.fail(fmt.Errorf("%w: %w", ErrNotDurable, err))
	}
	return nil
}

// commit makes the blocks and sectors that were written since the last Sync reachable.
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

// writeBitmap writes the bitmap of a block. It drops a full bitmap from memory.
func (img *Image) writeBitmap(block int64, bits []byte) error {
	if _, err := img.f.WriteAt(bits, int64(img.bat.load(block))*SectorSize); err != nil {
		return fmt.Errorf("sector bitmap of block %d: %w", block, err)
	}
	if allBits(bits, img.lay.blockSize/SectorSize) {
		img.bitmaps.setFull(block)
	}
	return nil
}

// writeEntries writes the BAT entries of these blocks, and no others: the data of neighbours
// may not be durable yet. It sorts blocks.
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

// complete writes the metadata of a new image, the footers last. From then on the image is
// changed in place. With flush, each step is durable before the next. After an error the image
// is still new, and no reader recognises the file.
func (img *Image) complete(flush bool) error {
	// Before locking the allocator: a writer locks a bitmap first.
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

// writeMetadata writes the header, the BAT, the batmap if m is not nil, and the trailing footer
// of a new image.
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

// writeLeadingFooter writes the leading copy of the footer of a new dynamic image. It is the
// last write.
func (img *Image) writeLeadingFooter(flush bool) error {
	if img.dynamic() {
		footer := img.footer.Encode()
		if _, err := img.f.WriteAt(footer[:], 0); err != nil {
			return fmt.Errorf("leading footer copy: %w", err)
		}
	}
	if flush {
		return img.flush()
	}
	return nil
}

// uncomplete undoes writeMetadata because of err, which it returns: it removes the trailing
// footer, and everything after the blocks. If that fails, too, the image has failed.
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

// cutTo truncates a file that is longer. It does not truncate a file to its own length: XFS
// would write all of it back on close.
func cutTo(f disk.File, length int64) error {
	size, err := disk.FileSize(f)
	if err != nil || size <= length {
		return err
	}
	return f.Truncate(length)
}

// writeNewBitmaps writes the bitmaps of a new image's partially written blocks. Those of
// concurrent writes follow with the next Sync.
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
