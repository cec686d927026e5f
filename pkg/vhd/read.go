package vhd

import (
	"cmp"
	"errors"
	"fmt"
	"io"
)

// ReadAt implements [io.ReaderAt] for the contents of the disk. A sector is missing if its
// block is unallocated, or if its bit in the block's bitmap is clear ("Block Bitmap"). Missing
// sectors read from the parent in a differencing image, and as zeros in a dynamic one.
// VirtualBox and libvhdi do the same, while qemu ignores the bitmap.
func (img *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	if err := img.state.usable(); err != nil {
		return 0, err
	}
	if off >= img.size {
		return 0, io.EOF
	}
	var atEnd error
	if int64(len(p)) > img.size-off {
		p, atEnd = p[:img.size-off], io.EOF
	}
	if !img.dynamic() {
		if img.salvage != nil {
			err := img.readStored(p, off)
			return len(p), cmp.Or(err, atEnd)
		}
		n, err := img.r.ReadAt(p, off)
		if n < len(p) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // the file shrank since it was opened
			}
			return n, err
		}
		return n, atEnd
	}
	n := 0
	for n < len(p) {
		block, in := off/img.lay.blockSize, off%img.lay.blockSize
		piece := p[n:min(int64(len(p)), int64(n)+img.lay.blockSize-in)]
		if err := img.readBlock(piece, block, in); err != nil {
			return n, err
		}
		n += len(piece)
		off += int64(len(piece))
	}
	return n, atEnd
}

// readBlock reads len(p) bytes of one block, from its byte in on.
func (img *Image) readBlock(p []byte, block, in int64) error {
	e := img.bat.load(block)
	if e == unused {
		return img.readMissing(p, block, in)
	}
	data := int64(e)*SectorSize + img.lay.bitmapSize
	bm, lost, err := img.readableBitmap(block, e)
	if err != nil {
		return err
	}
	if lost {
		clear(p)
		return nil
	}
	if bm == nil {
		return img.readStored(p, data+in)
	}
	bm.mu.RLock()
	defer bm.mu.RUnlock()
	limit := (in + int64(len(p)) + SectorSize - 1) / SectorSize
	for len(p) > 0 {
		end, set := bitmapRun(bm.bits, in/SectorSize, limit)
		piece := p[:min(int64(len(p)), end*SectorSize-in)]
		var err error
		if set {
			err = img.readStored(piece, data+in)
		} else {
			err = img.readMissing(piece, block, in)
		}
		if err != nil {
			return err
		}
		p = p[len(piece):]
		in += int64(len(piece))
	}
	return nil
}

// readableBitmap returns the bitmap of an allocated block, nil if all its sectors are in the
// file. lost says that the block reads as zeros, in a salvaged image.
func (img *Image) readableBitmap(block int64, e uint32) (bm *sectorBitmap, lost bool, err error) {
	if img.salvage != nil {
		bm, lost = img.salvagedBitmap(block, e)
		return bm, lost, nil
	}
	bm, err = img.bitmap(block, e)
	return bm, false, err
}

// readStored reads bytes of an allocated block. The file of a new image ends after the last
// write, and the rest of the block is zero. In a salvaged image bytes past the end of the file
// are zero, too.
func (img *Image) readStored(p []byte, off int64) error {
	if img.salvage != nil {
		n := max(0, min(int64(len(p)), img.salvage.end-off))
		clear(p[n:])
		p = p[:n]
	}
	n, err := img.r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		switch img.state.phase() {
		case phaseCreating:
			clear(p[n:])
			return nil
		case phaseWriting: // another goroutine may have completed it since
			return readFull(img.r, p, off)
		}
	}
	return readError(p, off, err)
}

// readMissing reads bytes of a block that are not in this file.
func (img *Image) readMissing(p []byte, block, in int64) error {
	if img.differencing() {
		return img.readInherited(p, block*img.lay.blockSize+in)
	}
	clear(p)
	return nil
}
