package convert

import (
	"bytes"
	"context"
	"iter"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// CopyDifference writes the sectors of src that differ from base to dst. A dst that reads as
// base elsewhere, such as an image with base as its parent, then equals src. A nil base is all
// zeros, and so are the bytes past the end of base. Ranges that are known zeros in both are not
// read.
//
// Only the options Workers, Only and Progress are used. If dst is a [disk.Reserver], storage is
// allocated in the order of src.
func CopyDifference(ctx context.Context, dst Target, src, base disk.Disk, o *Options) error {
	c, err := newCopier(dst, src, o)
	if err != nil {
		return err
	}
	d := differ{copier: c}
	if base != nil {
		d.base = &copier{src: base}
	}
	return inParallel(ctx, c.o.Workers, d.plan, d.work)
}

// differ copies differences from base.
type differ struct {
	*copier
	base *copier // reads base; nil: all zeros
}

// differPiece is a part of both disks, within one chunk. A side that is zero is not read.
type differPiece struct {
	piece
	zeroBase bool
}

// plan yields the parts to compare, in the order of the source.
func (d *differ) plan(yield func(differPiece, error) bool) {
	src := newRunCursor(d.src, d.o.Only)
	defer src.stop()
	base := &runCursor{zeroRun: zeroRun{end: d.src.Size(), zero: true}}
	if d.base != nil {
		base = newRunCursor(d.base.src, nil)
		defer base.stop()
	}
	number := int64(0)
	for off, total := int64(0), d.src.Size(); off < total; {
		for _, s := range []*runCursor{src, base} {
			if err := s.seek(off); err != nil {
				yield(differPiece{}, &OpError{"mapping", off, err})
				return
			}
		}
		end := min(src.end, base.end, total)
		if src.skip || src.zero && base.zero {
			d.progress(end - off)
			off = end
			continue
		}
		end = min(end, off+chunk-off%chunk)
		if !yield(differPiece{piece{off: off, n: end - off, zero: src.zero, number: number}, base.zero}, nil) {
			return
		}
		number++
		off = end
	}
}

func (d *differ) work(ctx context.Context, pieces iter.Seq2[differPiece, error]) error {
	got, have := make([]byte, chunk), make([]byte, chunk)
	for p, err := range pieces {
		if err == nil {
			err = d.copyDifference(ctx, p, got[:p.n], have[:p.n])
		}
		if err != nil {
			return err
		}
		d.progress(p.n)
	}
	return nil
}

func (d *differ) copyDifference(ctx context.Context, p differPiece, got, have []byte) error {
	if p.zero {
		clear(got)
	} else if err := d.read(got, p.off); err != nil {
		return err
	}
	if p.zeroBase {
		clear(have)
	} else if err := d.base.read(have, p.off); err != nil {
		return err
	}
	runs := differingRuns(got, have, p.off)
	if err := d.reserve(ctx, p.piece, runs); err != nil {
		return err
	}
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

// differingRuns returns the runs of sectors in which a and b differ. off is their offset in the
// disks.
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
