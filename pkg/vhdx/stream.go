package vhdx

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// streamPiece is the length of one read and write of a stream. The context is checked between
// pieces.
const streamPiece = mib

// WriteStream writes a new image of the disk src sequentially to w. src is read in order and must
// have o.Size bytes. For a dynamic image, blocks lists the blocks to allocate, in ascending order;
// all other blocks must be zeros. For a fixed image it is empty, and all blocks are written.
//
// The bytes are those of the file that [CreateIn] creates if the same blocks are written in the
// same order. After an error w has received the start of an image. progress counts the bytes of
// the file.
func WriteStream(ctx context.Context, w io.Writer, o *CreateOptions, src io.ReaderAt, blocks []int64, progress disk.Progress) error {
	if o == nil {
		o = &CreateOptions{}
	}
	if o.Growing {
		return fmt.Errorf("%w: a stream of unknown size, because the BAT comes first", ErrUnsupported)
	}
	p, err := o.plan()
	if err != nil {
		return err
	}
	total := p.meta.blocks()
	if p.meta.LeaveAllocated && len(blocks) > 0 {
		return errors.New("blocks to allocate of a fixed disk, which has all of them")
	}
	offsets := map[int64]int64{}
	end := p.firstBlock()
	for i, b := range blocks {
		if b < 0 || b >= total || i > 0 && b <= blocks[i-1] {
			return fmt.Errorf("block %d of %d: want ascending order", b, total)
		}
		offsets[b] = end
		end += p.meta.BlockSize
	}
	offset := func(block int64) int64 { return offsets[block] }
	if p.meta.LeaveAllocated {
		offset = func(block int64) int64 { return p.firstBlock() + block*p.meta.BlockSize }
		end = offset(total)
	}
	s := &streamWriter{ctx: ctx, w: w, total: end, progress: progress}
	batOff := p.metadataOffset() + mib
	s.write(p.start(batOff))
	s.zerosTo(p.metadataOffset())
	s.write(p.meta.encode())
	s.zerosTo(batOff)
	for off, b := range p.encodeBAT(offset) {
		s.zerosTo(batOff + off)
		s.write(b)
	}
	s.zerosTo(p.firstBlock())
	if p.meta.LeaveAllocated {
		for b := range total {
			s.block(src, &p.meta, b)
		}
	}
	for _, b := range blocks {
		s.block(src, &p.meta, b)
	}
	return s.err
}

// streamWriter writes sequentially, until the first error.
type streamWriter struct {
	ctx      context.Context
	w        io.Writer
	off      int64
	total    int64
	progress disk.Progress
	err      error
	buf      []byte
}

func (s *streamWriter) write(b []byte) {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err != nil {
		return
	}
	n, err := s.w.Write(b)
	s.off += int64(n)
	s.err = err
	if s.progress != nil {
		s.progress(s.off, s.total)
	}
}

// zerosTo writes zeros up to an offset of the file.
func (s *streamWriter) zerosTo(off int64) {
	zeros := make([]byte, min(streamPiece, max(0, off-s.off)))
	for s.off < off && s.err == nil {
		s.write(zeros[:min(int64(len(zeros)), off-s.off)])
	}
}

// block writes a block of the disk, with zeros after the end of the disk.
func (s *streamWriter) block(src io.ReaderAt, m *Metadata, block int64) {
	if s.buf == nil {
		s.buf = make([]byte, streamPiece)
	}
	for in := int64(0); in < m.BlockSize && s.err == nil; in += streamPiece {
		off := block*m.BlockSize + in
		n := max(0, min(streamPiece, m.Size-off))
		b := s.buf[:streamPiece]
		if n > 0 {
			k, err := src.ReadAt(b[:n], off)
			// The disk may end before the last whole sector.
			if int64(k) < n && (!errors.Is(err, io.EOF) || n-int64(k) >= m.LogicalSector) {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				s.err = err
				return
			}
			n = int64(k)
		}
		clear(b[n:])
		s.write(b)
	}
}
