package vhd

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// WriteStream writes a new image of the disk src to w from its first byte to
// its last, for outputs that cannot be written at random. src is read in order
// and must have o.Size bytes. Of a dynamic image, blocks says which blocks of
// the disk are allocated, in ascending order; all others must be zeros. A nil o means the
// zero value. A differencing image (o.Parent) cannot be streamed; the error wraps
// ErrUnsupported.
//
// The bytes are those of the file that [CreateIn] makes when the same blocks are
// written in the same order.
func WriteStream(ctx context.Context, w io.Writer, o *CreateOptions, src io.ReaderAt, blocks []int64, progress disk.Progress) error {
	if o == nil {
		o = &CreateOptions{}
	}
	if o.Parent != nil {
		return fmt.Errorf("streaming a differencing disk: %w", ErrUnsupported)
	}
	f, h, err := o.metadata()
	if err != nil {
		return err
	}
	s := streamWriter{w: w}
	footer := f.Encode()
	if f.Type == Fixed {
		s.disk(src, 0, int64(f.CurrentSize), o.Size)
		s.write(footer[:])
		return s.err
	}
	lay := layoutOf(&f, &h, 0)
	end := lay.batOff + batBytes(int64(h.MaxTableEntries))
	table := newBAT(int64(h.MaxTableEntries))
	for i, b := range blocks {
		if b < 0 || b >= table.len() {
			return fmt.Errorf("block %d: the disk has %d", b, table.len())
		}
		if i > 0 && b <= blocks[i-1] {
			return fmt.Errorf("block %d after block %d: want ascending order", b, blocks[i-1])
		}
		pos := nextBlockOffset(end, lay.bitmapSize)
		if pos/SectorSize >= unused {
			return fmt.Errorf("block %d: %w", b, ErrTooLarge)
		}
		table.store(b, uint32(pos/SectorSize))
		end = pos + lay.stored()
	}
	header := h.Encode()
	s.write(footer[:])
	s.write(header[:])
	_ = table.encode(0, func(b []byte, _ int64) error {
		s.write(b)
		return s.err
	})
	bits := make([]byte, lay.bitmapSize)
	setBits(bits, 0, lay.blockSize/SectorSize)
	for _, b := range blocks {
		s.zeros(int64(table.load(b))*SectorSize - s.off)
		s.write(bits)
		s.disk(src, b*lay.blockSize, lay.blockSize, o.Size)
	}
	s.write(footer[:])
	return s.err
}

// WriteFixedEnd writes what follows the o.Size bytes of a disk that were
// written to w already, so that all of it is a fixed image: zeros up to the
// virtual size, and the footer. A nil o means the zero value, of a dynamic disk: an error
// that wraps ErrUnsupported.
func WriteFixedEnd(w io.Writer, o *CreateOptions) error {
	f, _, err := o.metadata()
	if err != nil {
		return err
	}
	if f.Type != Fixed {
		return fmt.Errorf("%w: a dynamic disk starts with a table for its size, which must be known before", ErrUnsupported)
	}
	s := streamWriter{w: w}
	s.zeros(int64(f.CurrentSize) - o.Size)
	footer := f.Encode()
	s.write(footer[:])
	return s.err
}

// streamWriter writes in order, and keeps the first error.
type streamWriter struct {
	w   io.Writer
	off int64
	buf []byte
	err error
}

func (s *streamWriter) write(b []byte) {
	if s.err != nil {
		return
	}
	n, err := s.w.Write(b)
	s.off += int64(n)
	s.err = err
}

func (s *streamWriter) zeros(n int64) {
	zeros := make([]byte, min(max(n, 0), 1<<20))
	for ; n > 0 && s.err == nil; n -= int64(len(zeros)) {
		zeros = zeros[:min(n, int64(len(zeros)))]
		s.write(zeros)
	}
}

// disk writes n bytes of the disk from off on; behind size it has zeros.
func (s *streamWriter) disk(src io.ReaderAt, off, n, size int64) {
	if s.buf == nil {
		s.buf = make([]byte, 1<<20)
	}
	for n > 0 && s.err == nil {
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
