package convert

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"sync"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// CompareOptions say how to compare. The zero value is right.
type CompareOptions struct {
	// Workers is how many chunks are compared at a time; 0 means as many as
	// there are processors.
	Workers int
	// Progress is told, by one goroutine at a time, how much is done.
	Progress func(done, total int64)
	// Ignore, if set, is called for each sector that differs, with its offset in bytes,
	// after the sector was read. If it returns true, the difference does not count. It is
	// called by many goroutines.
	Ignore func(off int64) bool
}

// SideError is an error of reading one of the disks compared, 0 or 1.
type SideError struct {
	Side int
	OpError
}

// compareChunk is the size of one request where a side is read: two of them fit the
// second-level cache of most processors.
const compareChunk = 512 << 10

// Compare finds the first sector in which two disks differ. The shorter disk
// counts as followed by zeros. It returns the sector's offset in bytes, or -1
// if there is none. What is a hole, or known to be zero, on both sides is not
// read. An error of reading, or of mapping (finding out what is allocated), is a
// *SideError.
func Compare(ctx context.Context, a, b disk.Disk, o *CompareOptions) (int64, error) {
	if o == nil {
		o = &CompareOptions{}
	}
	c := comparer{disks: [2]disk.Disk{a, b}, o: *o, total: max(a.Size(), b.Size()), first: -1}
	c.o.Workers = workersFor(o.Workers)
	c.mappings.workers = c.o.Workers
	defer c.mappings.close()
	if err := inParallel(ctx, c.o.Workers, c.plan, c.work); err != nil {
		return -1, err
	}
	if c.err != nil && (c.first < 0 || c.errAt <= c.first) {
		return -1, c.err
	}
	return c.first, nil
}

// comparePiece is a part of both disks.
type comparePiece struct {
	off, n int64
	sides  [2]compareSide
}

// compareSide is what is known of a piece in one of the disks. A side that is zero
// is not read.
type compareSide struct {
	zero    bool
	mapping *filesystem.Mapping // of the file in which it stands, at fileOff; may be nil
	fileOff int64
}

type comparer struct {
	disks    [2]disk.Disk
	o        CompareOptions
	total    int64
	mappings mappings

	mu    sync.Mutex
	first int64 // offset of the first difference found, or -1
	err   error // of the first piece, at errAt, that could not be read
	errAt int64
	done  int64
}

// failed notes that a piece could not be read. A difference before it counts
// all the same.
func (c *comparer) failed(err error, off int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil || off < c.errAt {
		c.err, c.errAt = err, off
	}
}

// found notes a difference.
func (c *comparer) found(off int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first < 0 || off < c.first {
		c.first = off
	}
}

// settled reports whether what comes from off on makes no difference any more.
func (c *comparer) settled(off int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first >= 0 && c.first < off || c.err != nil && c.errAt < off
}

func (c *comparer) progress(n int64) {
	if c.o.Progress == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	c.o.Progress(c.done, c.total)
}

// plan yields what must be looked at, in order.
func (c *comparer) plan(yield func(comparePiece, error) bool) {
	var sides [2]*runCursor
	for i, d := range c.disks {
		sides[i] = newRunCursor(d, nil)
		defer sides[i].stop()
	}
	for off := int64(0); off < c.total; {
		for i, s := range sides {
			if err := s.seek(off); err != nil {
				yield(comparePiece{}, &SideError{i, OpError{"mapping", off, err}})
				return
			}
		}
		end := min(sides[0].end, sides[1].end, c.total)
		if sides[0].zero && sides[1].zero {
			c.progress(end - off)
			off = end
			continue
		}
		p := comparePiece{off: off}
		limit := int64(chunk)
		for i, s := range sides {
			p.sides[i].zero = s.zero
			if s.zero {
				continue
			}
			p.sides[i].mapping, p.sides[i].fileOff = c.mappings.of(s.file), s.fileOff+off-s.start
			if p.sides[i].mapping == nil {
				limit = compareChunk
			}
		}
		end = min(end, off+limit-off%limit)
		p.n = end - off
		if c.settled(off) || !yield(p, nil) {
			return
		}
		off = end
	}
}

func (c *comparer) work(_ context.Context, pieces iter.Seq2[comparePiece, error]) error {
	var bufs [2][]byte
	for p, err := range pieces {
		if err != nil {
			return err
		}
		at, ok := c.compareMapped(&p)
		if !ok {
			at = c.compareRead(&p, &bufs)
		}
		if at >= 0 {
			c.found((p.off + at) / disk.SectorSize * disk.SectorSize)
		}
		c.progress(p.n)
	}
	return nil
}

// compareMapped finds the first difference in a piece of which no side must be
// read, and reports whether it could.
func (c *comparer) compareMapped(p *comparePiece) (at int64, ok bool) {
	var got [2][]byte
	for i := range p.sides {
		side := &p.sides[i]
		if side.zero {
			continue
		}
		if side.mapping == nil {
			return 0, false
		}
		v, ok := side.mapping.View(side.fileOff, p.n)
		if !ok {
			return 0, false
		}
		defer v.Close()
		got[i] = v.B
	}
	err := filesystem.Guarded(func() error {
		at = firstDifference(got[0], got[1], p.off, c.o.Ignore)
		return nil
	})
	return at, err == nil
}

// compareRead reads a piece, and finds the first difference.
func (c *comparer) compareRead(p *comparePiece, bufs *[2][]byte) int64 {
	var got [2][]byte
	for i, d := range c.disks {
		if p.sides[i].zero {
			continue
		}
		if int64(len(bufs[i])) < p.n {
			bufs[i] = make([]byte, chunk)
		}
		got[i] = bufs[i][:p.n]
		// Both ends are within the disk's size, or the side would be zero.
		if n, err := d.ReadAt(got[i], p.off); int64(n) < p.n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			c.failed(&SideError{i, OpError{"reading", p.off + int64(n), err}}, p.off)
			return -1
		}
	}
	return firstDifference(got[0], got[1], p.off, c.o.Ignore)
}

// firstDifference returns the index of some byte of the first sector in which a
// and b differ, of which nil counts as zeros, or -1. Both stand at off in their
// disks.
//
// Sectors that ignore, if set, says yes to do not count.
func firstDifference(a, b []byte, off int64, ignore func(off int64) bool) int64 {
	if a == nil {
		a, b = b, nil
	}
	same := func(i, end int64) bool {
		if b == nil {
			return isZero(a[i:end])
		}
		return bytes.Equal(a[i:end], b[i:end])
	}
	n := int64(len(a))
	if same(0, n) {
		return -1
	}
	for i := int64(0); i < n; {
		end := min(i+disk.SectorSize-(off+i)%disk.SectorSize, n)
		if !same(i, end) && (ignore == nil || !ignore(off+i)) {
			return i
		}
		i = end
	}
	return -1
}

// CompareAllocation finds the first place where two disks of one size differ in
// what is allocated, or in whether it is known to be zero, or to have a place
// in the file. It returns the offset in bytes, or -1.
func CompareAllocation(a, b disk.Disk) (int64, error) {
	nextA, stopA := iter.Pull2(a.Extents(0, a.Size()))
	defer stopA()
	nextB, stopB := iter.Pull2(b.Extents(0, b.Size()))
	defer stopB()
	var x, y disk.Extent
	for off := int64(0); off < min(a.Size(), b.Size()); off = min(x.End(), y.End()) {
		var err error
		if x.End() <= off {
			x, err, _ = nextA()
		}
		if y.End() <= off && err == nil {
			y, err, _ = nextB()
		}
		if err != nil {
			return -1, err
		}
		if x.State != y.State || (x.File == nil) != (y.File == nil) {
			return off, nil
		}
	}
	return -1, nil
}
