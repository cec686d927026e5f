package vhd

import (
	"context"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/internal/filesystem"
)

// checkBlocks examines the contents of the blocks, in the order of the file. If whole is not
// nil, blocks with a set bit in that batmap must have all sectors written. It skips blocks that
// overlap metadata or an earlier block, or end past the file: these are reported already. So it
// reads each part of the file at most once.
func (c *Checker) checkBlocks(typ DiskType, t bat, lay *layout, whole *batmap) error {
	var (
		p         = lay.placement()
		fit       = t.fitting(&p)
		bits      = make([]byte, lay.bitmapSize)
		holes     = filesystem.NewHoleMap(c.r)
		mapped    []byte // bits of the batmap
		unaligned int64
		first     int64 // offset of the data of the first of them
		end       int64 // end of the block before
		done      int64
	)
	look := func(block int64, e uint32) error {
		start := int64(e) * SectorSize
		data := start + lay.bitmapSize
		if start < end {
			return nil
		}
		end = start + p.stored
		if data%dataAlign != 0 {
			if unaligned == 0 {
				first = data
			}
			unaligned++
		}
		if err := readFull(c.r, bits, start); err != nil {
			return fmt.Errorf("sector bitmap of block %d: %w", block, err)
		}
		if whole != nil && mapped == nil {
			var err error
			if mapped, err = whole.read(c.r, t.len()); err != nil {
				return err
			}
		}
		if mapped != nil && hasBit(mapped, block) && !allBits(bits, lay.blockSize/SectorSize) {
			err := c.add(whole.odd("batmap-bitmap", Warning, int64(whole.offset)-whole.at+block/8,
				fmt.Sprintf("bit of block %d", block), "set", "clear: not all sectors of the block are written"))
			if err != nil {
				return err
			}
		}
		if typ == Differencing {
			return nil // a crash may leave unacknowledged data under a clear bit
		}
		hidden := int64(-1)
		err := hiddenData(c.ctx, c.r, holes, bits, data, lay.blockSize, func(s int64) bool {
			hidden = s
			return false
		})
		if err != nil {
			return fmt.Errorf("block %d: %w", block, err)
		}
		if hidden < 0 {
			return nil
		}
		return c.add(finding{Finding: Finding{
			ID: "bitmap-data", Severity: Warning, Offset: data + hidden*SectorSize,
			Field: fmt.Sprintf("sector %d of block %d, and perhaps others of it", hidden, block), Got: "data under a clear bit", Want: "zeros",
		}})
	}
	progress := func(n int64) {
		if done += n; c.o.Progress != nil && n > 0 {
			c.o.Progress(done, fit*lay.blockSize)
		}
	}
	for block, e := range t.inFileOrder(&p, fit) {
		err := c.ctx.Err()
		if err == nil {
			err = look(block, e)
		}
		if err != nil {
			return err
		}
		progress(lay.blockSize)
	}
	progress(fit*lay.blockSize - done)
	if unaligned == 0 {
		return nil
	}
	return c.add(finding{Finding: Finding{
		ID: "alignment", Severity: Warning, Offset: first,
		Field: fmt.Sprintf("data of %d blocks", unaligned), Got: "offsets that are not multiples of 4096", Want: "aligned offsets",
	}})
}

// hiddenData calls found with each sector of a block that has a clear bit and is not zero,
// until found returns false. The data of the block starts at offset data. It does not read
// holes.
func hiddenData(ctx context.Context, r io.ReaderAt, holes *filesystem.HoleMap, bits []byte, data, blockSize int64, found func(sector int64) bool) error {
	sectors := blockSize / SectorSize
	for s := int64(0); s < sectors; {
		end, set := bitmapRun(bits, s, sectors)
		if !set {
			stopped := false
			err := scanData(ctx, r, holes, data+s*SectorSize, data+end*SectorSize, func(b []byte, off int64) bool {
				for ; len(b) > 0; b, off = b[SectorSize:], off+SectorSize {
					if [SectorSize]byte(b) != [SectorSize]byte{} && !found((off-data)/SectorSize) {
						stopped = true
						return false
					}
				}
				return true
			})
			if err != nil || stopped {
				return err
			}
		}
		s = end
	}
	return nil
}

// scanData calls look with the bytes [off, end) of the file, in whole sectors, until look
// returns false. It skips holes.
func scanData(ctx context.Context, r io.ReaderAt, holes *filesystem.HoleMap, off, end int64, look func(b []byte, off int64) bool) error {
	var buf []byte
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		stop, data, err := holes.At(off, end)
		if err != nil {
			return err
		}
		if !data {
			// A hole that starts or ends inside a sector does not cover that sector.
			if stop = off + (stop-off)/SectorSize*SectorSize; stop > off {
				off = stop
				continue
			}
			stop = off + SectorSize
		}
		if buf == nil {
			buf = make([]byte, min(end-off, 64<<10))
		}
		b := buf[:min(int64(len(buf)), roundUp(stop-off, SectorSize), end-off)]
		if err := readFull(r, b, off); err != nil {
			return err
		}
		if !look(b, off) {
			return nil
		}
		off += int64(len(b))
	}
	return nil
}
