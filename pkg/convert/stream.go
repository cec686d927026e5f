package convert

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// GrowingTarget is a new target whose size is known only after it was written.
type GrowingTarget interface {
	Target
	disk.Resizer
}

// trailerSize is the length of the end of a stream that is examined before it is written.
const trailerSize = disk.SectorSize

// ReadFrom writes the contents of r to dst, and returns their length. dst grows as needed, and
// gets its final size at the end.
//
// If trailer is set, it is called with the last 512 bytes of r and the number of bytes before
// them. If it returns true, these bytes are a footer and not part of the disk.
//
// ReadFrom returns when the context is done, even if r is waiting for data. Do not use r after
// that.
func ReadFrom(ctx context.Context, dst GrowingTarget, r io.Reader, trailer func(b []byte, before int64) bool, o *Options) (int64, error) {
	if o == nil {
		o = &Options{}
	}
	s := streamReader{dst: dst, step: DefaultSparseSize, o: *o}
	if o.SparseSize > 0 {
		s.step = min(o.SparseSize, chunk)
	}
	if p, ok := dst.(disk.Packer); ok {
		s.step = max(s.step, p.PackUnit())
	}
	size := chunkFor(dst)
	if z, ok := dst.(disk.KnownZero); ok && z.ReadsZero() {
		s.o.TargetIsZero = true
	}
	if trailer != nil {
		r = &trailerReader{r: r, isFooter: trailer}
	}
	chunks := make(chan streamChunk)
	free := make(chan []byte, 3)
	for range cap(free) {
		free <- make([]byte, size)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go readChunks(ctx, r, chunks, free)
	for {
		select {
		case <-ctx.Done():
			return s.off, ctx.Err()
		case c := <-chunks:
			if err := s.write(ctx, c.data); err != nil {
				return s.off, err
			}
			if c.err != nil {
				if !errors.Is(c.err, io.EOF) {
					return s.off, &OpError{"reading", s.off, c.err}
				}
				return s.off, s.finish(ctx)
			}
			free <- c.data[:size]
		}
	}
}

type streamChunk struct {
	data []byte
	err  error // with the last chunk: io.EOF, or the error of the stream
}

// readChunks reads until the end or an error, and sends that with the last chunk.
func readChunks(ctx context.Context, r io.Reader, chunks chan<- streamChunk, free <-chan []byte) {
	for {
		select {
		case <-ctx.Done():
			return
		case buf := <-free:
			n, err := fill(r, buf)
			select {
			case <-ctx.Done():
				return
			case chunks <- streamChunk{buf[:n], err}:
			}
			if err != nil {
				return
			}
		}
	}
}

// fill reads until buf is full or an error occurs. Unlike io.ReadFull it returns the error
// unchanged. io.EOF is the end of the stream. io.ErrUnexpectedEOF is an error of the stream
// itself, such as a truncated archive.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}

type streamReader struct {
	dst  GrowingTarget
	o    Options
	step int64
	off  int64
}

func (s *streamReader) write(ctx context.Context, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if end := s.off + int64(len(b)); end > s.dst.Size() {
		if err := s.dst.Resize(ctx, end, nil); err != nil {
			return &OpError{"writing", s.off, err}
		}
	}
	runs := []run{{0, int64(len(b))}}
	if !s.o.Allocate && s.o.TargetIsZero {
		runs = dataRuns(b, s.off, s.step)
	}
	for _, r := range runs {
		if _, err := s.dst.WriteAt(b[r.start:r.end], s.off+r.start); err != nil {
			return &OpError{"writing", s.off + r.start, err}
		}
	}
	s.off += int64(len(b))
	if s.o.Progress != nil {
		s.o.Progress(s.off, 0)
	}
	return nil
}

func (s *streamReader) finish(ctx context.Context) error {
	if err := s.dst.Resize(ctx, s.off, nil); err != nil {
		return &OpError{"writing", s.off, err}
	}
	return nil
}

// trailerReader holds back the last bytes of a stream until they are known to be a footer or
// not.
type trailerReader struct {
	r        io.Reader
	isFooter func(b []byte, before int64) bool
	buf      [64 << 10]byte
	start    int // buf[start:end] is held back
	end      int
	passed   int64
	err      error // the error that ended r
}

func (t *trailerReader) Read(p []byte) (int, error) {
	for t.err == nil && t.end-t.start <= trailerSize {
		t.end = copy(t.buf[:], t.buf[t.start:t.end])
		t.start = 0
		var n int
		n, t.err = t.r.Read(t.buf[t.end:])
		t.end += n
	}
	held := t.buf[t.start:t.end]
	if len(held) > trailerSize {
		held = held[:len(held)-trailerSize]
	} else if errors.Is(t.err, io.EOF) && len(held) == trailerSize && t.isFooter(held, t.passed) {
		t.end = t.start
		held = nil
	}
	n := copy(p, held)
	t.start += n
	t.passed += int64(n)
	if n == 0 && len(p) > 0 {
		return 0, t.err
	}
	return n, nil
}

// WriteTo writes the contents of the disk to w, from start to end.
func WriteTo(ctx context.Context, w io.Writer, src disk.Disk, o *Options) error {
	if o == nil {
		o = &Options{}
	}
	c := copier{src: src, o: *o}
	buf := make([]byte, chunk)
	write := func(b []byte, off int64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return &OpError{"writing", off, err}
		}
		c.progress(int64(len(b)))
		return nil
	}
	zeros := make([]byte, chunk)
	off := int64(0)
	for r, err := range zeroRuns(src, nil) {
		if err != nil {
			return &OpError{"reading", off, err}
		}
		for end := min(r.end, src.Size()); off < end; {
			b := zeros[:min(end-off, chunk)]
			if !r.zero {
				b = buf[:len(b)]
				if err := c.read(b, off); err != nil {
					return err
				}
			}
			if err := write(b, off); err != nil {
				return err
			}
			off += int64(len(b))
		}
	}
	if off != src.Size() {
		return fmt.Errorf("the disk ends at byte %d, want %d", off, src.Size())
	}
	return nil
}

// CopyStream copies r to w, without a footer that trailer recognises as in [ReadFrom]. trailer
// may be nil. It returns the number of bytes written. Of the options it uses only Progress.
func CopyStream(ctx context.Context, w io.Writer, r io.Reader, trailer func(b []byte, before int64) bool, o *Options) (int64, error) {
	if o == nil {
		o = &Options{}
	}
	if trailer != nil {
		r = &trailerReader{r: r, isFooter: trailer}
	}
	buf := make([]byte, chunk)
	for n := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		k, rerr := fill(r, buf)
		if _, err := w.Write(buf[:k]); err != nil {
			return n, &OpError{"writing", n, err}
		}
		n += int64(k)
		if o.Progress != nil {
			o.Progress(n, 0)
		}
		if errors.Is(rerr, io.EOF) {
			return n, nil
		}
		if rerr != nil {
			return n, &OpError{"reading", n, rerr}
		}
	}
}
