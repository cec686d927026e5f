package vhdx

import (
	"errors"
	"fmt"
	"io"
)

// ReadAt implements [io.ReaderAt] for the contents of the disk. Blocks that are not present read
// from the parent in a differencing image, and as zeros in other images.
func (img *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	if img.closed.Load() {
		return 0, ErrClosed
	}
	m := &img.s.meta
	if off >= m.Size {
		return 0, io.EOF
	}
	var atEnd error
	if int64(len(p)) > m.Size-off {
		p, atEnd = p[:m.Size-off], io.EOF
	}
	n := 0
	for n < len(p) {
		block, in := off/m.BlockSize, off%m.BlockSize
		piece := p[n:min(int64(len(p)), int64(n)+m.BlockSize-in)]
		if err := img.readBlock(piece, block, in); err != nil {
			return n, err
		}
		n += len(piece)
		off += int64(len(piece))
	}
	return n, atEnd
}

// readBlock reads the bytes of one block from byte in on.
func (img *Image) readBlock(p []byte, block, in int64) error {
	e, err := img.s.payload(block)
	if err != nil {
		return err
	}
	switch e.state() {
	case FullyPresent:
		return readFull(img.s.r, p, int64(e.offset())+in)
	case PartiallyPresent:
		return img.readPartial(p, e, block, in)
	case NotPresent:
		return img.readMissing(p, block, in)
	}
	clear(p)
	return nil
}

// readPartial reads bytes of a partially present block. Its other sectors are read from the parent.
func (img *Image) readPartial(p []byte, e batEntry, block, in int64) error {
	sector := img.s.meta.LogicalSector
	end := in + int64(len(p))
	bits, bit, err := img.s.sectorBitmap(block, in, end)
	if err != nil {
		return err
	}
	base := in/sector - bit // sector of bit 0
	limit := roundUp(end, sector)/sector - base
	for len(p) > 0 {
		next, set := bitRun(bits, bit, limit)
		piece := p[:min(int64(len(p)), (base+next)*sector-in)]
		if set {
			err = readFull(img.s.r, piece, int64(e.offset())+in)
		} else {
			err = img.readMissing(piece, block, in)
		}
		if err != nil {
			return err
		}
		p = p[len(piece):]
		in += int64(len(piece))
		bit = next
	}
	return nil
}

// readMissing reads bytes of a block that are not in this file.
func (img *Image) readMissing(p []byte, block, in int64) error {
	if !img.s.meta.HasParent {
		clear(p)
		return nil
	}
	if img.parent == nil {
		return ErrNoParent
	}
	off := block*img.s.meta.BlockSize + in
	n := max(0, min(int64(len(p)), img.parent.Size()-off))
	if n > 0 {
		if k, err := img.parent.ReadAt(p[:n], off); int64(k) < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("parent: %w", err)
		}
	}
	clear(p[n:])
	return nil
}
