package convert

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// GrowingTarget is a new target whose size is found out while it is written.
type GrowingTarget interface {
	Target
	disk.Resizer
}

// trailerSize is how much of the end of a stream is looked at before it is
// written.
const trailerSize = disk.SectorSize

// ReadFrom makes dst equal to what r holds until its end, and returns its
// length. dst grows as needed, and gets its final size last.
//
// If trailer is set, it is shown the last 512 bytes and the length of what is
// before them, and says whether they are a footer, and not of the disk.
//
// When the context is done ReadFrom returns, even if r is waiting for data; r
// must not be used after that.
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
	err  error // io.EOF at the end
}

// readChunks reads until the end or an error, which goes with the last chunk.
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

// fill reads until the buffer is full or an error comes. Unlike io.ReadFull it
// passes the error on as it is: io.EOF is the end of the stream, and
// io.ErrUnexpectedEOF is the stream's own complaint that it was cut.
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

// trailerReader holds the last bytes of a stream back until it knows what they
// are.
type trailerReader struct {
	r        io.Reader
	isFooter func(b []byte, before int64) bool
	buf      [64 << 10]byte
	start    int // what is held is buf[start:end]
	end      int
	passed   int64
	err      error // what r ended with
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

// WriteTo writes the disk's bytes to w in order.
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

// CopyStream passes r on to w, but for a footer at its end that trailer, if
// set, recognises as in [ReadFrom]. It returns how many bytes were passed on. Of the
// options only Progress counts.
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
