package convert

import (
	"context"
	"iter"
	"math"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// chunkFor is the size of one request to a target: at least a unit of a [disk.Packer].
func chunkFor(dst Target) int64 {
	if p, ok := dst.(disk.Packer); ok {
		return max(chunk, p.PackUnit())
	}
	return chunk
}

// pack compresses the runs of a piece, which are in buf, and writes them when all pieces
// before it are placed.
func (c *copier) pack(ctx context.Context, p piece, runs []run, buf []byte) error {
	var all []disk.Packed
	fail := func(r run, err error) error { return &OpError{"writing", p.off + r.start, err} }
	for _, r := range runs {
		packed, err := c.packer.Pack(buf[r.start:r.end], p.off+r.start)
		if err != nil {
			return fail(r, err)
		}
		all = append(all, packed)
	}
	if len(all) > 0 {
		if err := c.order.wait(ctx, p.number); err != nil {
			return err
		}
	}
	for i, packed := range all {
		if err := packed.Place(); err != nil {
			return fail(runs[i], err)
		}
	}
	c.order.finish(p.number)
	for i, packed := range all {
		if err := packed.Write(); err != nil {
			return fail(runs[i], err)
		}
	}
	at := int64(0)
	for _, r := range append(runs, run{p.n, p.n}) {
		if err := c.zero(p.off+at, r.start-at); err != nil {
			return err
		}
		at = r.end
	}
	return nil
}

// wholeUnits yields runs whose bounds are multiples of unit: a unit that has any data is
// data. The runs name no files.
func wholeUnits(runs iter.Seq2[zeroRun, error], unit int64) iter.Seq2[zeroRun, error] {
	return func(yield func(zeroRun, error) bool) {
		start, done, dataEnd := int64(0), int64(0), int64(0)
		emit := func(end int64, zero bool) bool {
			if end <= done {
				return true
			}
			done = end
			return yield(zeroRun{end: end, zero: zero}, nil)
		}
		for r, err := range runs {
			if err != nil {
				yield(zeroRun{}, err)
				return
			}
			if !r.zero {
				from := start - start%unit
				if from > dataEnd && (!emit(dataEnd, false) || !emit(from, true)) {
					return
				}
				dataEnd = (r.end + unit - 1) / unit * unit
				// Complete units do not wait for the next run.
				if !emit(r.end-r.end%unit, false) {
					return
				}
			}
			start = r.end
		}
		if emit(dataEnd, false) {
			emit(math.MaxInt64, true)
		}
	}
}
