package vhd

import (
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// WriteAt implements [io.WriterAt] for the contents of the disk. A write to an unallocated
// block allocates it. In an existing image writes are durable only after Sync.
func (img *Image) WriteAt(p []byte, off int64) (int, error) {
	if err := img.writable(off, int64(len(p))); err != nil {
		return 0, err
	}
	img.unsynced.Store(true)
	// A concurrent Sync may have missed a part of this write.
	defer img.unsynced.Store(true)
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
	if err := img.state.writable(); err != nil {
		return err
	}
	if off < 0 || n < 0 || off > img.size || n > img.size-off {
		return fmt.Errorf("write of %d bytes at offset %d: the disk ends at %d", n, off, img.size)
	}
	return nil
}

// writeBlock writes p to one block, from its byte in on.
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
	if in == 0 && img.alloc.bitmapUnwritten(block) {
		if err := writev(img.f, img.fullBitmap(), p, data-img.lay.bitmapSize); err != nil {
			return err
		}
		img.alloc.bitmapWritten(block)
		return nil
	}
	_, err = img.f.WriteAt(p, data+in)
	return err
}

// writeBoth writes a, and then b after it, at off.
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

// writePartial writes to a block that is not fully written. A partial write to a missing sector
// fills the rest of the sector with its current contents: zeros, or the parent's. The next Sync
// writes the bits, when the data is durable.
func (img *Image) writePartial(bm *sectorBitmap, p []byte, data, block, in int64) error {
	bm.mu.Lock()
	defer bm.mu.Unlock()
	return img.writeSectors(bm, p, data, block, in)
}

// writeSectors is writePartial for a caller that has locked the bitmap.
func (img *Image) writeSectors(bm *sectorBitmap, p []byte, data, block, in int64) error {
	if len(p) == 0 {
		return nil
	}
	first, end := in/SectorSize, (in+int64(len(p))+SectorSize-1)/SectorSize
	// Do not read and write back sectors that are in the file: once the block is complete,
	// other goroutines write these without the lock.
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

// markWritten records that sectors of a block are in the file. The caller has locked its
// bitmap.
func (img *Image) markWritten(bm *sectorBitmap, block, first, end int64) {
	setBits(bm.bits, first, end)
	if !bm.changed {
		bm.changed = true
		img.alloc.mu.Lock()
		img.alloc.changedBitmaps = append(img.alloc.changedBitmaps, block)
		img.alloc.mu.Unlock()
	}
}

// WriteZeroes implements [disk.Zeroer]. It does not allocate blocks, except to hide the
// parent's data.
func (img *Image) WriteZeroes(off, n int64) error {
	if err := img.writable(off, n); err != nil {
		return err
	}
	img.unsynced.Store(true)
	defer img.unsynced.Store(true)
	return img.zero(off, n)
}

// zero is WriteZeroes without its checks.
func (img *Image) zero(off, n int64) error {
	if !img.dynamic() {
		if img.reserved {
			return filesystem.ZeroReserved(img.f, off, n)
		}
		return filesystem.Zero(img.f, off, n)
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

// zeroInBlock zeroes a part of an allocated block. In a dynamic image missing sectors read as
// zeros already, and may stay missing. In a differencing image they must be written to hide the
// parent's.
func (img *Image) zeroInBlock(block int64, e uint32, in, n int64) error {
	bm, err := img.bitmap(block, e)
	if err != nil {
		return err
	}
	data := int64(e)*SectorSize + img.lay.bitmapSize
	if bm == nil {
		return filesystem.Zero(img.f, data+in, n)
	}
	// A concurrent write may be writing a whole sector back.
	bm.mu.Lock()
	defer bm.mu.Unlock()
	if !img.differencing() {
		return filesystem.Zero(img.f, data+in, n)
	}
	first, end := roundUp(in, SectorSize), (in+n)/SectorSize*SectorSize
	if first >= end { // less than a sector, or parts of two
		return img.writeSectors(bm, make([]byte, n), data, block, in)
	}
	if err := img.writeSectors(bm, make([]byte, first-in), data, block, in); err != nil {
		return err
	}
	if err := filesystem.Zero(img.f, data+first, end-first); err != nil {
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
	img.unsynced.Store(true)
	defer img.unsynced.Store(true)
	for block := off / img.lay.blockSize; block*img.lay.blockSize < off+n; block++ {
		if img.bat.load(block) == unused {
			if _, err := img.allocate(block); err != nil {
				return err
			}
		}
	}
	return nil
}

var (
	_ io.ReaderAt = (*Image)(nil)
	_ io.WriterAt = (*Image)(nil)
)
