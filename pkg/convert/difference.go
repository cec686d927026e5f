package convert

import (
	"bytes"
	"context"
	"fmt"
	"iter"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// CopyDifference writes those sectors of src to dst in which src differs from
// base: afterwards a dst that has base's contents elsewhere, as an image whose
// parent is base, equals src. A nil base is all zeros, and what is beyond the end
// of a base counts as zeros. What is a hole, or known to be zero, in both is not
// read.
//
// Of the options Workers, Only and Progress count. The places that a
// [disk.Reserver] gives to the data are in the order of the source.
func CopyDifference(ctx context.Context, dst Target, src, base disk.Disk, o *Options) error {
	if o == nil {
		o = &Options{}
	}
	if dst.Size() < src.Size() {
		return fmt.Errorf("%w: %d bytes, and the source has %d", ErrTooSmall, dst.Size(), src.Size())
	}
	d := differ{copier: copier{dst: dst, src: src, o: *o}, base: base}
	d.reserver, _ = dst.(disk.Reserver)
	return inParallel(ctx, o.Workers, d.plan, d.work)
}

// differ is a copier of what differs from base.
type differ struct {
	copier
	base disk.Disk
}

// differPiece is a part of both disks, within one chunk; a side that is zero there
// is not read.
type differPiece struct {
	piece
	zeroBase bool
}

// plan sends what must be looked at, in order.
func (d *differ) plan(ctx context.Context, pieces chan<- differPiece) error {
	type side struct {
		zeroRun
		next func() (zeroRun, error, bool)
	}
	from := func(seq iter.Seq2[zeroRun, error]) (*side, func()) {
		next, stop := iter.Pull2(seq)
		return &side{next: next}, stop
	}
	src, stop := from(zeroRuns(d.src, d.o.Only))
	defer stop()
	base := &side{zeroRun: zeroRun{end: d.src.Size(), zero: true}}
	if d.base != nil {
		var stop func()
		base, stop = from(zeroRuns(d.base, nil))
		defer stop()
	}
	before := make(chan struct{})
	close(before)
	for off, total := int64(0), d.src.Size(); off < total; {
		for _, s := range []*side{src, base} {
			for s.end <= off {
				run, err, _ := s.next()
				if err != nil {
					return &OpError{"mapping", off, err}
				}
				s.zeroRun = run
			}
		}
		end := min(src.end, base.end, total)
		if src.skip || src.zero && base.zero {
			d.progress(end - off)
			off = end
			continue
		}
		end = min(end, off+chunk-off%chunk)
		p := differPiece{piece{off: off, n: end - off, zero: src.zero, before: before, placed: make(chan struct{})}, base.zero}
		before = p.placed
		select {
		case pieces <- p:
		case <-ctx.Done():
			return ctx.Err()
		}
		off = end
	}
	return nil
}

func (d *differ) work(ctx context.Context, pieces <-chan differPiece) error {
	got, have := make([]byte, chunk), make([]byte, chunk)
	for p := range pieces {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.copyDifference(ctx, p, got[:p.n], have[:p.n]); err != nil {
			return err
		}
		d.progress(p.n)
	}
	return nil
}

func (d *differ) copyDifference(ctx context.Context, p differPiece, got, have []byte) error {
	clear(got)
	clear(have)
	if !p.zero {
		if err := d.read(got, p.off); err != nil {
			return err
		}
	}
	if !p.zeroBase {
		base := differ{copier: copier{src: d.base}}
		if err := base.read(have, p.off); err != nil {
			return err
		}
	}
	runs := differingRuns(got, have, p.off)
	select {
	case <-p.before:
	case <-ctx.Done():
		return ctx.Err()
	}
	if d.reserver != nil {
		for _, r := range runs {
			if err := d.reserver.Reserve(p.off+r.start, r.end-r.start); err != nil {
				return &OpError{"writing", p.off + r.start, err}
			}
		}
	}
	close(p.placed)
	for _, r := range runs {
		if b := got[r.start:r.end]; isZero(b) {
			if err := d.zero(p.off+r.start, int64(len(b))); err != nil {
				return err
			}
		} else if _, err := d.dst.WriteAt(b, p.off+r.start); err != nil {
			return &OpError{"writing", p.off + r.start, err}
		}
	}
	return nil
}

// differingRuns returns the runs of sectors in which a and b, which stand at off in
// their disks, differ.
func differingRuns(a, b []byte, off int64) []run {
	if bytes.Equal(a, b) {
		return nil
	}
	var runs []run
	n := int64(len(a))
	for at := int64(0); at < n; {
		end := min(at+disk.SectorSize-(off+at)%disk.SectorSize, n)
		if !bytes.Equal(a[at:end], b[at:end]) {
			if last := len(runs) - 1; last >= 0 && runs[last].end == at {
				runs[last].end = end
			} else {
				runs = append(runs, run{at, end})
			}
		}
		at = end
	}
	return runs
}
