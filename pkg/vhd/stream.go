package vhd

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// streamPiece is the longest single read and write of a stream, in bytes. The context
// is checked, and progress reported, between pieces.
const streamPiece = 1 << 20

// WriteStream writes a new image of the disk src sequentially to w, for outputs that
// do not support random access. A nil o means the zero value. src is read in order and
// must have o.Size bytes. For a dynamic image, blocks lists the blocks of the disk to
// allocate, each once and in ascending order; all other blocks must be zeros. For a
// fixed image it is empty.
//
// The bytes are those of the file that [CreateIn] makes when the same blocks are
// written in the same order.
//
// Bad arguments are refused before the first byte is written; a Parent wraps
// ErrUnsupported, because a stream has no file name to record the parent's path for.
// A cancelled ctx stops the stream within 1 MiB, with the context's error. After any
// other error, too, w has received the start of an image. progress counts the bytes
// of the image's file.
func WriteStream(ctx context.Context, w io.Writer, o *CreateOptions, src io.ReaderAt, blocks []int64, progress disk.Progress) error {
	f, h, size, err := o.streamMetadata()
	if err != nil {
		return err
	}
	s := streamWriter{ctx: ctx, w: w, progress: progress}
	footer := f.Encode()
	if f.Type == Fixed {
		if len(blocks) > 0 {
			return fmt.Errorf("%d blocks to allocate, and a fixed disk has none", len(blocks))
		}
		s.total = int64(f.CurrentSize) + footerSize
		s.disk(src, 0, int64(f.CurrentSize), size)
		s.write(footer[:])
		return s.err
	}
	lay := o.layout(&f, &h)
	table, end, err := placeStream(&lay, int64(h.MaxTableEntries), blocks)
	if err != nil {
		return err
	}
	s.total = lay.footerOffset(end) + footerSize
	header := h.Encode()
	s.write(footer[:])
	s.write(header[:])
	_ = table.encode(0, func(b []byte, _ int64) error {
		s.write(b)
		return s.err
	})
	if len(lay.batmap) > 0 {
		full := make([]byte, (table.len()+7)/8)
		for _, b := range blocks {
			setBits(full, b, b+1)
		}
		s.write(newBatmap(lay.batEnd(), table.len()).encode(full))
	}
	bits := make([]byte, lay.bitmapSize)
	setBits(bits, 0, lay.blockSize/SectorSize)
	for _, b := range blocks {
		s.zeros(int64(table.load(b))*SectorSize - s.off)
		s.write(bits)
		s.disk(src, b*lay.blockSize, lay.blockSize, size)
	}
	s.zeros(lay.footerOffset(end) - s.off)
	s.write(footer[:])
	return s.err
}

// placeStream returns a BAT with n entries whose blocks are stored in the given order. end is
// the offset after the last block.
func placeStream(lay *layout, n int64, blocks []int64) (table bat, end int64, err error) {
	end = lay.tableEnd()
	table = newBAT(n)
	for i, b := range blocks {
		switch {
		case b < 0 || b >= n:
			return table, 0, fmt.Errorf("block %d: the disk has %d blocks", b, n)
		case i > 0 && b == blocks[i-1]:
			return table, 0, fmt.Errorf("block %d is listed twice", b)
		case i > 0 && b < blocks[i-1]:
			return table, 0, fmt.Errorf("block %d is listed after block %d, want ascending order", b, blocks[i-1])
		}
		pos := lay.nextBlockOffset(end)
		if pos/SectorSize >= unused {
			return table, 0, fmt.Errorf("block %d: %w", b, ErrTooLarge)
		}
		table.store(b, uint32(pos/SectorSize))
		end = pos + lay.stored()
	}
	return table, end, nil
}

// WriteFixedEnd writes the end of a fixed image to w, which has received the o.Size
// bytes of the disk: zeros up to the virtual size, and the footer. A nil o means the
// zero value. An image of another type wraps ErrUnsupported, and nothing is written.
func WriteFixedEnd(w io.Writer, o *CreateOptions) error {
	f, _, size, err := o.streamMetadata()
	if err != nil {
		return err
	}
	if f.Type != Fixed {
		return fmt.Errorf("%w: a dynamic disk starts with a table for its size, which must be known before", ErrUnsupported)
	}
	s := streamWriter{ctx: context.Background(), w: w}
	s.zeros(int64(f.CurrentSize) - size)
	footer := f.Encode()
	s.write(footer[:])
	return s.err
}

// streamMetadata is metadata for a stream. It also returns the requested size.
func (o *CreateOptions) streamMetadata() (Footer, Header, int64, error) {
	if o == nil {
		o = &CreateOptions{}
	}
	if o.Parent != nil {
		return Footer{}, Header{}, 0, fmt.Errorf("%w: streaming a differencing image", ErrUnsupported)
	}
	f, h, err := o.metadata()
	return f, h, o.Size, err
}

// streamWriter writes sequentially, and keeps the first error.
type streamWriter struct {
	ctx      context.Context
	w        io.Writer
	progress disk.Progress // may be nil
	total    int64         // bytes to write in total
	off      int64         // bytes written so far
	buf      []byte
	err      error
}

// write writes b, of at most streamPiece bytes.
func (s *streamWriter) write(b []byte) {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err != nil {
		return
	}
	n, err := s.w.Write(b)
	s.off += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		s.err = err
		return
	}
	if s.progress != nil {
		s.progress(s.off, s.total)
	}
}

func (s *streamWriter) zeros(n int64) {
	zeros := make([]byte, min(max(n, 0), streamPiece))
	for ; n > 0 && s.err == nil; n -= int64(len(zeros)) {
		zeros = zeros[:min(n, int64(len(zeros)))]
		s.write(zeros)
	}
}

// disk writes n bytes of the disk from off on. Past size the disk has zeros.
func (s *streamWriter) disk(src io.ReaderAt, off, n, size int64) {
	if s.buf == nil {
		s.buf = make([]byte, streamPiece)
	}
	for n > 0 && s.err == nil {
		if s.err = s.ctx.Err(); s.err != nil {
			return // before reading src in vain
		}
		b := s.buf[:min(n, int64(len(s.buf)))]
		held := min(max(size-off, 0), int64(len(b)))
		if got, err := src.ReadAt(b[:held], off); int64(got) < held {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			s.err = fmt.Errorf("reading the source at byte %d: %w", off+int64(got), err)
			return
		}
		clear(b[held:])
		s.write(b)
		off, n = off+int64(len(b)), n-int64(len(b))
	}
}

var _ disk.Resizer = (*Image)(nil)
