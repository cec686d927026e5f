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

// ErrTooSmall: the target is smaller than the source.
var ErrTooSmall = errors.New("target is smaller than the source")

// Target is a disk that can be written at random.
type Target interface {
	disk.Disk
	io.WriterAt
}

// DefaultSparseSize is how many bytes of zeros in a row become a hole.
const DefaultSparseSize = 4096

// chunk is the size of one request. Chunks are aligned to their size.
const chunk = 1 << 20

// Options say how to copy. The zero value is right for a new target.
type Options struct {
	// Workers is how many chunks are under way at a time; 0 means as many as
	// there are processors. The target does not depend on it.
	Workers int
	// SparseSize is the shortest run of zeros in the source's data that is left
	// out of the target, in bytes, at most 1 MiB; 0 means DefaultSparseSize.
	SparseSize int64
	// Allocate writes all of the source, zeros and holes included.
	Allocate bool
	// TargetIsZero says that the target reads as zeros already. A target that
	// implements [disk.KnownZero] says so itself.
	TargetIsZero bool
	// Only, if set, chooses what is copied: extents of the source that it says no
	// to are left as they are in the target.
	Only func(disk.Extent) bool
	// Progress is told, by one goroutine at a time, how much of the source is
	// done.
	Progress func(done, total int64)
}

// OpError is an error of one read or write.
type OpError struct {
	Op  string // "reading", "writing" or "mapping"
	Off int64  // in the disk, bytes
	Err error
}

func (e *OpError) Error() string { return fmt.Sprintf("%s at byte %d: %v", e.Op, e.Off, e.Err) }

func (e *OpError) Unwrap() error { return e.Err }

// Copy makes the start of dst equal to src, which dst must be large enough
// for; what dst has beyond is left alone. It uses a few MiB of memory, and
// stops soon when the context is done. After an error dst holds a part.
//
// The places that a [disk.Reserver] gives to the data are in the order of the
// source, however many workers there are.
func Copy(ctx context.Context, dst Target, src disk.Disk, o *Options) error {
	c, err := newCopier(dst, src, o)
	if err != nil {
		return err
	}
	return c.run(ctx)
}

func (c *copier) run(ctx context.Context) error {
	defer c.mappings.close()
	defer c.room.finish()
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
	if c.packer, _ = dst.(disk.Packer); c.packer != nil {
		c.step = max(c.step, c.packer.PackUnit())
	}
	c.chunk = chunkFor(dst)
	c.reserver, _ = dst.(disk.Reserver)
	c.sharer.placer, _ = dst.(disk.Placer)
	if z, ok := dst.(disk.KnownZero); ok && z.ReadsZero() {
		c.o.TargetIsZero = true
		c.room.placer = c.sharer.placer // space in a file that was there is its owner's
	}
	return &c, nil
}

// piece is a part of the source that one worker deals with: within one chunk
// if it is data to be read, of any length if it is zeros to be made.
type piece struct {
	off, n int64
	zero   bool
	unread bool // data that need not be read if the target can share it

	mapping *filesystem.Mapping // of the file, to look for zeros in; may be nil

	file    *os.File // in which the data stands, at fileOff; may be nil
	fileOff int64

	number int64 // in the order of the source
}

type copier struct {
	dst      Target
	src      disk.Disk
	o        Options
	reserver disk.Reserver // nil: order makes no difference
	packer   disk.Packer   // nil: data is written as it is
	order    *queue
	sharer   sharer
	room     room
	mappings mappings
	step     int64
	chunk    int64

	// The last piece that was looked at was all zeros, and the next one may be.
	// Zeros are found faster in memory that is mapped, but what must be written is
	// better read than copied out of there.
	zeros atomic.Bool

	mu   sync.Mutex
	done int64
}

// plan yields the pieces in order.
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
			limit := c.chunk
			if c.o.Allocate { // nothing asks what is in it
				switch c.sharer.way(file) {
				case cloned:
					limit = shareChunk
					p.unread = true
				case untried:
					p.unread = true
				}
			}
			if c.zeros.Load() && !p.unread && !c.o.Allocate && c.packer == nil {
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
			return data(off, n, nil, 0) // read as zeros, and written
		case c.o.TargetIsZero:
			c.progress(n)
			return true
		}
		return send(piece{off: off, n: n, zero: true})
	}
	off, more := int64(0), true
	all := zeroRuns(c.src, c.o.Only)
	if c.packer != nil {
		all = wholeUnits(all, c.packer.PackUnit())
	}
	for r, err := range all {
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
	buf := make([]byte, c.chunk)
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
	if c.packer != nil {
		return c.pack(ctx, p, runs, buf)
	}
	if err := c.place(ctx, p, runs); err != nil {
		return err
	}
	at := int64(0)
	for _, r := range runs {
		if err := c.zero(p.off+at, r.start-at); err != nil {
			return err
		}
		if err := c.put(p, r, buf); err != nil {
			return err
		}
		at = r.end
	}
	return c.zero(p.off+at, p.n-at)
}

// findRuns looks for the parts of a piece that are not zero in its file's mapping,
// and reports whether it could.
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

// place gives runs of a piece their places in the target, when it is the piece's turn.
func (c *copier) place(ctx context.Context, p piece, runs []run) error {
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

// put makes a run of a piece stand in the target: it shares the storage of what
// it can, and writes the rest.
func (c *copier) put(p piece, r run, buf []byte) error {
	for at := r.start; at < r.end; {
		apart, shared := c.sharer.share(p.off+at, r.end-at, p.file, p.fileOff+at)
		c.room.prepare(p.off+at, apart)
		if err := c.write(p, run{at, at + apart}, buf); err != nil {
			return err
		}
		at += apart + shared
	}
	return nil
}

// write writes a run of a piece, which is in buf, or has still to be read.
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

// zero makes a part of the target read as zeros, unless it does.
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
