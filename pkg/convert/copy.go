package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"sync"
	"sync/atomic"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// ErrTooSmall reports a target that is smaller than the source.
var ErrTooSmall = errors.New("target is smaller than the source")

// Target is a disk with random access for writing.
type Target interface {
	disk.Disk
	io.WriterAt
}

// DefaultSparseSize is the length in bytes from which a run of zeros becomes a hole.
const DefaultSparseSize = 4096

// chunk is the size of one request in bytes. Chunks are aligned to their size.
const chunk = 1 << 20

// Options say how to copy. The zero value is right for a new target.
type Options struct {
	// Workers is the number of chunks in flight; 0 means the number of processors. The bytes of
	// the target do not depend on it.
	Workers int
	// SparseSize is the length in bytes from which a run of zeros in the source's data is not
	// written, at most 1 MiB; 0 means DefaultSparseSize.
	SparseSize int64
	// Allocate writes the whole source, including zeros and holes.
	Allocate bool
	// TargetIsZero declares that the target already reads as zeros. It is implied by a target
	// whose [disk.KnownZero] returns true.
	TargetIsZero bool
	// Only, if set, selects the extents to copy. The target keeps its contents where Only
	// returns false.
	Only func(disk.Extent) bool
	// Progress, if set, is called with the bytes done and the size of the source, never
	// concurrently.
	Progress func(done, total int64)
}

// OpError is the error of a read or write, with its offset.
type OpError struct {
	Op  string // "reading", "writing" or "mapping"
	Off int64  // in the disk, bytes
	Err error
}

func (e *OpError) Error() string { return fmt.Sprintf("%s at byte %d: %v", e.Op, e.Off, e.Err) }

func (e *OpError) Unwrap() error { return e.Err }

// Copy makes the start of dst equal to src. dst must be at least as large as src; bytes after
// the size of src do not change. Copy uses a few MiB of memory, and returns soon after the
// context is done. After an error dst holds a part of src.
//
// If dst is a [disk.Reserver], storage is allocated in the order of src, whatever the number of
// workers.
func Copy(ctx context.Context, dst Target, src disk.Disk, o *Options) error {
	c, err := newCopier(dst, src, o)
	if err != nil {
		return err
	}
	return c.run(ctx)
}

func (c *copier) run(ctx context.Context) error {
	defer c.mappings.close()
	defer c.ahead.finish()
	return inParallel(ctx, c.o.Workers, c.plan, c.work)
}

func newCopier(dst Target, src disk.Disk, o *Options) (*copier, error) {
	if o == nil {
		o = &Options{}
	}
	if dst.Size() < src.Size() {
		return nil, fmt.Errorf("%w: %d bytes, and the source has %d", ErrTooSmall, dst.Size(), src.Size())
	}
	c := copier{dst: dst, src: src, o: *o, order: newQueue(), step: o.SparseSize}
	c.o.Workers = workersFor(o.Workers)
	c.mappings.workers = c.o.Workers
	if c.step <= 0 {
		c.step = DefaultSparseSize
	}
	c.step = min(c.step, chunk)
	c.reserver, _ = dst.(disk.Reserver)
	c.sharer.placer, _ = dst.(disk.Placer)
	if z, ok := dst.(disk.KnownZero); ok && z.ReadsZero() {
		c.o.TargetIsZero = true
		c.ahead.placer = c.sharer.placer // an existing file keeps its allocation
	}
	return &c, nil
}

// piece is the part of the source that one worker copies. Data to read is within one chunk; a
// range of zeros has any length.
type piece struct {
	off, n int64
	zero   bool
	unread bool // data that the target may share without a read

	mapping *filesystem.Mapping // of file, to detect zeros; may be nil

	file    *os.File // stores the data at fileOff; may be nil
	fileOff int64

	number int64 // position in the order of the source
}

type copier struct {
	dst      Target
	src      disk.Disk
	o        Options
	reserver disk.Reserver // nil: order does not matter
	order    *queue
	sharer   sharer
	ahead    aheadAllocator
	mappings mappings
	step     int64

	// zeros is set if the last piece was all zeros, so that the next one may be. Detecting
	// zeros is faster in mapped memory, but copying data out of it is slower
	// than reading.
	zeros atomic.Bool

	mu   sync.Mutex
	done int64
}

// plan yields the pieces in the order of the source.
func (c *copier) plan(yield func(piece, error) bool) {
	number := int64(0)
	send := func(p piece) bool {
		p.number = number
		number++
		return yield(p, nil)
	}
	data := func(off, n int64, file *os.File, fileOff int64) bool {
		for n > 0 {
			p := piece{off: off, file: file, fileOff: fileOff}
			limit := int64(chunk)
			if c.o.Allocate { // unread: its contents do not matter
				switch c.sharer.way(file) {
				case cloned:
					limit = shareChunk
					p.unread = true
				case untried:
					p.unread = true
				}
			}
			if c.zeros.Load() && !p.unread && !c.o.Allocate {
				p.mapping = c.mappings.of(file)
			}
			p.n = min(n, limit-off%limit)
			if !send(p) {
				return false
			}
			off, n, fileOff = off+p.n, n-p.n, fileOff+p.n
		}
		return true
	}
	zeros := func(off, n int64) bool {
		switch {
		case c.o.Allocate:
			return data(off, n, nil, 0) // zeros are read and written
		case c.o.TargetIsZero:
			c.progress(n)
			return true
		}
		return send(piece{off: off, n: n, zero: true})
	}
	off, more := int64(0), true
	for r, err := range zeroRuns(c.src, c.o.Only) {
		if err != nil {
			yield(piece{}, &OpError{"reading", off, err})
			return
		}
		n := min(r.end, c.src.Size()) - off
		if n == 0 {
			continue
		}
		switch {
		case r.skip:
			c.progress(n)
		case r.zero:
			more = zeros(off, n)
		default:
			more = data(off, n, r.file, r.fileOff)
		}
		if !more {
			return
		}
		off += n
	}
}

func (c *copier) work(ctx context.Context, pieces iter.Seq2[piece, error]) error {
	buf := make([]byte, chunk)
	for p, err := range pieces {
		if err == nil {
			err = c.copyPiece(ctx, p, buf)
		}
		if err != nil {
			return err
		}
		c.progress(p.n)
	}
	return nil
}

func (c *copier) copyPiece(ctx context.Context, p piece, buf []byte) error {
	var runs []run
	switch {
	case p.zero:
	case p.unread:
		runs = []run{{0, p.n}}
	case c.findRuns(p, &runs):
		p.unread = true
	default:
		buf = buf[:p.n]
		if err := c.read(buf, p.off); err != nil {
			return err
		}
		if c.o.Allocate {
			runs = []run{{0, int64(len(buf))}}
		} else {
			runs = dataRuns(buf, p.off, c.step)
		}
	}
	c.zeros.Store(len(runs) == 0)
	if err := c.reserve(ctx, p, runs); err != nil {
		return err
	}
	at := int64(0)
	for _, r := range runs {
		if err := c.zero(p.off+at, r.start-at); err != nil {
			return err
		}
		if err := c.shareOrWrite(p, r, buf); err != nil {
			return err
		}
		at = r.end
	}
	return c.zero(p.off+at, p.n-at)
}

// findRuns detects the data of a piece in the mapping of its file. It returns false if that is
// not possible.
func (c *copier) findRuns(p piece, runs *[]run) bool {
	if p.mapping == nil {
		return false
	}
	v, ok := p.mapping.View(p.fileOff, p.n)
	if !ok {
		return false
	}
	defer v.Close()
	return filesystem.Guarded(func() error {
		*runs = dataRuns(v.B, p.off, c.step)
		return nil
	}) == nil
}

// reserve reserves the runs of a piece in the target, in the order of the pieces.
func (c *copier) reserve(ctx context.Context, p piece, runs []run) error {
	if c.reserver == nil {
		return nil
	}
	if len(runs) > 0 {
		if err := c.order.wait(ctx, p.number); err != nil {
			return err
		}
	}
	for _, r := range runs {
		if err := c.reserver.Reserve(p.off+r.start, r.end-r.start); err != nil {
			return &OpError{"writing", p.off + r.start, err}
		}
	}
	c.order.finish(p.number)
	return nil
}

// shareOrWrite copies a run of a piece. It shares storage where possible, and writes the rest.
func (c *copier) shareOrWrite(p piece, r run, buf []byte) error {
	for at := r.start; at < r.end; {
		apart, shared := c.sharer.share(p.off+at, r.end-at, p.file, p.fileOff+at)
		c.ahead.prepare(p.off+at, apart)
		if err := c.write(p, run{at, at + apart}, buf); err != nil {
			return err
		}
		at += apart + shared
	}
	return nil
}

// write writes a run of a piece. The data is in buf, or read first if the piece is unread.
func (c *copier) write(p piece, r run, buf []byte) error {
	for at := r.start; at < r.end; {
		var b []byte
		if p.unread {
			b = buf[:min(r.end-at, int64(len(buf)))]
			if err := c.read(b, p.off+at); err != nil {
				return err
			}
		} else {
			b = buf[at:r.end]
		}
		if _, err := c.dst.WriteAt(b, p.off+at); err != nil {
			return &OpError{"writing", p.off + at, err}
		}
		at += int64(len(b))
	}
	return nil
}

// zero makes a range of the target read as zeros, unless TargetIsZero.
func (c *copier) zero(off, n int64) error {
	if n == 0 || c.o.TargetIsZero {
		return nil
	}
	if z, ok := c.dst.(disk.Zeroer); ok {
		if err := z.WriteZeroes(off, n); err != nil {
			return &OpError{"writing", off, err}
		}
		return nil
	}
	zeros := make([]byte, min(n, chunk))
	for n > 0 {
		k := min(n, chunk)
		if _, err := c.dst.WriteAt(zeros[:k], off); err != nil {
			return &OpError{"writing", off, err}
		}
		off, n = off+k, n-k
	}
	return nil
}

// read fills buf.
func (c *copier) read(buf []byte, off int64) error {
	n, err := c.src.ReadAt(buf, off)
	if n == len(buf) {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return &OpError{"reading", off + int64(n), err}
}

func (c *copier) progress(n int64) {
	if c.o.Progress == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	c.o.Progress(c.done, c.src.Size())
}
