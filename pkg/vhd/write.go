package vhd

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vhdtool/vhdtool/internal/sparse"
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

// allocator gives blocks their places in the file.
type allocator struct {
	mu sync.Mutex

	fresh  bool  // a new image, not yet complete
	end    int64 // of the last block; in a file the footer stands there, or will
	length int64 // of the file

	batRoom int64 // what stands before the blocks of a new image for the BAT

	// A device has its length, and keeps it. Its footer is in the last sector,
	// and does not move.
	device bool
	tail   int64

	lead []byte // what is written before a block, kept for the next one

	// bare are the blocks of a new image whose bitmaps, all ones, are not in the
	// file yet. Who writes a block from its start on writes the bitmap with it, and
	// complete the others.
	bare      map[int64]bool
	bareCount atomic.Int64

	dirty   []int64 // blocks with a place since the last Sync
	partial []int64 // blocks with a changed bitmap since the last Sync

	// The trailing footer that was there at the last Sync, if it was followed
	// by another since; else -1.
	old int64
	// The copy at 0 is not that of the footer in use: mended before the first
	// allocation, because from then on a crash may leave nothing else.
	mendLeading bool
}

// open prepares to write to an existing image in a file of size bytes.
func (a *allocator) open(img *Image, fs *footers, size int64) {
	a.old = -1
	a.length = size
	a.device = disk.IsDevice(img.f)
	a.tail = lastSector(size)
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
		return a.tail
	}
	return a.end
}

// dataAlign is the alignment of the data of new blocks. It lets file systems
// with 4 KiB blocks write, and share, whole blocks of their own.
const dataAlign = 4096

// place is where the next block goes: its bitmap right before its aligned data.
func (a *allocator) place(bitmapSize int64) int64 {
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
	pos := a.place(img.lay.bitmapSize)
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
			a.bare[block] = true
			a.bareCount.Add(1)
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
		a.dirty = append(a.dirty, block)
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
	} else if a.old < 0 {
		gap -= footerSize // the footer of the last Sync stays
	}
	if n := gap + img.lay.bitmapSize; int64(cap(a.lead)) < n {
		a.lead = make([]byte, n)
	} else {
		a.lead = a.lead[:n]
		clear(a.lead)
	}
	if !img.differencing() {
		setBits(a.lead[gap:], 0, img.lay.blockSize/SectorSize)
	}
	_, err := img.f.WriteAt(a.lead, pos-gap)
	return err
}

// hasBare reports whether a block is bare.
func (a *allocator) hasBare(block int64) bool {
	if a.bareCount.Load() == 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bare[block]
}

// covered notes that the bitmap of a block is in the file.
func (a *allocator) covered(block int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bare[block] {
		delete(a.bare, block)
		a.bareCount.Add(-1)
	}
}

// writeBare writes the bitmaps of blocks that have been left without, for a caller
// who has locked the allocator.
func (a *allocator) writeBare(img *Image) error {
	for _, block := range slices.Sorted(maps.Keys(a.bare)) {
		if e := img.bat.load(block); e != unused {
			if _, err := img.f.WriteAt(img.fullBitmap(), int64(e)*SectorSize); err != nil {
				return fmt.Errorf("sector bitmap of block %d: %w", block, err)
			}
		}
		delete(a.bare, block)
		a.bareCount.Add(-1)
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
	if a.old < 0 && !a.device {
		a.old = a.end
	}
}

// moveFooter writes the footer at end, as the new end of the file. On a device
// it only makes sure that there is room, and a new file ends where was written last.
func (a *allocator) moveFooter(img *Image, end int64) error {
	if a.device && end > a.tail {
		return fmt.Errorf("%w: the device ends at byte %d", errNoRoom, a.tail+footerSize)
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

// WriteAt implements [io.WriterAt] for the disk's contents. Writing to a block
// gives it a place in the file. In place, nothing is durable before Sync.
func (img *Image) WriteAt(p []byte, off int64) (int, error) {
	if err := img.writable(off, int64(len(p))); err != nil {
		return 0, err
	}
	img.wrote.Store(true)
	// A Sync meanwhile may have seen only a part of this write.
	defer img.wrote.Store(true)
	if !img.dynamic() {
		return img.f.WriteAt(p, off)
	}
	n := 0
	for n < len(p) {
		block, in := off/img.lay.blockSize, off%img.lay.blockSize
		piece := p[n:min(int64(len(p)), int64(n)+img.lay.blockSize-in)]
		if err := img.writeBlock(piece, block, in); err != nil {
			return n, err
		}
		n += len(piece)
		off += int64(len(piece))
	}
	return n, nil
}

// writable checks that [off, off+n) can be written.
func (img *Image) writable(off, n int64) error {
	if img.f == nil {
		return ErrReadOnly
	}
	if lost := img.lost.Load(); lost != nil {
		return *lost
	}
	if off < 0 || n < 0 || off > img.size || n > img.size-off {
		return fmt.Errorf("write of %d bytes at offset %d: the disk ends at %d", n, off, img.size)
	}
	return nil
}

// writeBlock writes bytes of one block, from in bytes into it.
func (img *Image) writeBlock(p []byte, block, in int64) error {
	e := img.bat.load(block)
	if e == unused {
		var err error
		if e, err = img.allocate(block); err != nil {
			return err
		}
	}
	data := int64(e)*SectorSize + img.lay.bitmapSize
	bm, err := img.bitmap(block, e)
	if err != nil {
		return err
	}
	if bm != nil {
		return img.writePartial(bm, p, data, block, in)
	}
	if in == 0 && img.alloc.hasBare(block) {
		if err := writeTogether(img.f, img.fullBitmap(), p, data-img.lay.bitmapSize); err != nil {
			return err
		}
		img.alloc.covered(block)
		return nil
	}
	_, err = img.f.WriteAt(p, data+in)
	return err
}

// writeBoth writes a and b, one behind the other, at off.
func writeBoth(f disk.File, a, b []byte, off int64) error {
	if len(a) > 0 {
		if _, err := f.WriteAt(a, off); err != nil {
			return err
		}
	}
	if len(b) > 0 {
		if _, err := f.WriteAt(b, off+int64(len(a))); err != nil {
			return err
		}
	}
	return nil
}

// writePartial writes into a block of which not all sectors are in the file.
// A sector that is only touched in part, and is not there yet, is filled up
// with what reads there: zeros, or the parent's. The bits follow with the next
// Sync, when the data is stable.
func (img *Image) writePartial(bm *sectorBitmap, p []byte, data, block, in int64) error {
	bm.mu.Lock()
	defer bm.mu.Unlock()
	return img.writeSectors(bm, p, data, block, in)
}

// writeSectors is writePartial for a caller who has locked the bitmap.
func (img *Image) writeSectors(bm *sectorBitmap, p []byte, data, block, in int64) error {
	if len(p) == 0 {
		return nil
	}
	first, end := in/SectorSize, (in+int64(len(p))+SectorSize-1)/SectorSize
	// Sectors that are in the file are not read and written back: once all of the
	// block is there, others write beside this without the lock.
	missing := func(s int64) bool { return !hasBit(bm.bits, s) }
	stop := in + int64(len(p))
	from, to := in, stop
	if in%SectorSize != 0 && missing(first) {
		from = first * SectorSize
	}
	if stop%SectorSize != 0 && missing(end-1) {
		to = end * SectorSize
	}
	if from < in || to > stop {
		whole := make([]byte, to-from)
		for _, s := range []int64{first, end - 1} {
			at := s * SectorSize
			if !missing(s) || at >= in && at+SectorSize <= stop {
				continue
			}
			if err := img.readMissing(whole[at-from:][:SectorSize], block, at); err != nil {
				return err
			}
		}
		copy(whole[in-from:], p)
		p, in = whole, from
	}
	if _, err := img.f.WriteAt(p, data+in); err != nil {
		return err
	}
	img.markWritten(bm, block, first, end)
	return nil
}

// markWritten notes that sectors of a block are in the file, for a caller who has
// locked its bitmap.
func (img *Image) markWritten(bm *sectorBitmap, block, first, end int64) {
	setBits(bm.bits, first, end)
	if !bm.dirty {
		bm.dirty = true
		img.alloc.mu.Lock()
		img.alloc.partial = append(img.alloc.partial, block)
		img.alloc.mu.Unlock()
	}
}

// WriteZeroes implements [disk.Zeroer]. Blocks without a place stay without, unless
// they would show what the parent has.
func (img *Image) WriteZeroes(off, n int64) error {
	if err := img.writable(off, n); err != nil {
		return err
	}
	img.wrote.Store(true)
	defer img.wrote.Store(true)
	return img.zero(off, n)
}

// zero is WriteZeroes.
func (img *Image) zero(off, n int64) error {
	if !img.dynamic() {
		return sparse.Zero(img.f, off, n)
	}
	for n > 0 {
		block, in := off/img.lay.blockSize, off%img.lay.blockSize
		piece := min(n, img.lay.blockSize-in)
		e := img.bat.load(block)
		if e == unused && img.differencing() && !img.inheritsZeros(off, piece) {
			var err error
			if e, err = img.allocate(block); err != nil {
				return err
			}
		}
		if e != unused {
			if err := img.zeroInBlock(block, e, in, piece); err != nil {
				return err
			}
		}
		off += piece
		n -= piece
	}
	return nil
}

// zeroInBlock zeroes a part of an allocated block. In a dynamic image sectors that
// are not there read as zeros already, and may become so; in a differencing one
// they must be there to hide the parent's.
func (img *Image) zeroInBlock(block int64, e uint32, in, n int64) error {
	bm, err := img.bitmap(block, e)
	if err != nil {
		return err
	}
	data := int64(e)*SectorSize + img.lay.bitmapSize
	if bm == nil {
		return sparse.Zero(img.f, data+in, n)
	}
	// A write beside it may be about to write a whole sector back.
	bm.mu.Lock()
	defer bm.mu.Unlock()
	if !img.differencing() {
		return sparse.Zero(img.f, data+in, n)
	}
	first, end := roundUp(in, SectorSize), (in+n)/SectorSize*SectorSize
	if first >= end { // less than a sector, or parts of two
		return img.writeSectors(bm, make([]byte, n), data, block, in)
	}
	if err := img.writeSectors(bm, make([]byte, first-in), data, block, in); err != nil {
		return err
	}
	if err := sparse.Zero(img.f, data+first, end-first); err != nil {
		return err
	}
	img.markWritten(bm, block, first/SectorSize, end/SectorSize)
	return img.writeSectors(bm, make([]byte, in+n-end), data, block, end)
}

// Reserve implements [disk.Reserver].
func (img *Image) Reserve(off, n int64) error {
	if err := img.writable(off, n); err != nil {
		return err
	}
	if !img.dynamic() || n == 0 {
		return nil
	}
	img.wrote.Store(true)
	defer img.wrote.Store(true)
	for block := off / img.lay.blockSize; block*img.lay.blockSize < off+n; block++ {
		if img.bat.load(block) == unused {
			if _, err := img.allocate(block); err != nil {
				return err
			}
		}
	}
	return nil
}

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
	img.wrote.Store(false)
	var err error
	if img.alloc.fresh {
		err = img.complete(true)
	} else {
		err = img.commit()
	}
	if err != nil {
		img.wrote.Store(true)
	}
	return err
}

// flush has the file made durable. Where that fails once, what was written may
// be lost, and a system that dropped it (Linux does) finds nothing to complain of
// the next time. So after an error nothing is committed any more: the image is as
// it was at the last Sync.
func (img *Image) flush() error {
	if lost := img.lost.Load(); lost != nil {
		return *lost
	}
	err := img.f.Sync()
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrNotDurable, err)
		img.lost.Store(&err)
	}
	return err
}

// commit makes the blocks and sectors written since the last time reachable.
func (img *Image) commit() error {
	a := &img.alloc
	a.mu.Lock()
	dirty, partial, old := a.dirty, a.partial, a.old
	a.dirty, a.partial, a.old = nil, nil, -1
	a.mu.Unlock()
	putBack := func(err error) error {
		a.mu.Lock()
		a.dirty, a.partial = append(dirty, a.dirty...), append(partial, a.partial...)
		if old >= 0 {
			a.old = old
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

var (
	_ io.ReaderAt = (*Image)(nil)
	_ io.WriterAt = (*Image)(nil)
)
