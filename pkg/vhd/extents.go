package vhd

import (
	"iter"

	"github.com/vhdtool/vhdtool/internal/sparse"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Extents implements [disk.Disk]. Of a fixed disk it yields the data of the
// file, and its holes as Zero. Of a dynamic disk it yields allocated blocks as Data with
// their place in the file, whether or not the file has holes there, runs of
// sectors whose bit is clear as Zero, and the rest as Unallocated.
func (img *Image) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	n = min(n, img.size-off)
	if !img.dynamic() {
		return sparse.NewMap(img.r).Extents(0, off, n, disk.Zero)
	}
	return func(yield func(disk.Extent, error) bool) {
		merge := disk.Merger{Yield: yield}
		for end := off + n; off < end; {
			block := off / img.lay.blockSize
			stop := min(end, (block+1)*img.lay.blockSize)
			e := img.bat.load(block)
			if e == unused {
				stop = min(end, img.bat.nextUsed(block)*img.lay.blockSize)
				if !merge.Add(disk.Extent{Off: off, Len: stop - off, State: disk.Unallocated}) {
					return
				}
				off = stop
				continue
			}
			bm, err := img.bitmap(block, e)
			if err != nil {
				merge.Fail(err)
				return
			}
			if !img.blockExtents(&merge, bm, e, block, off, stop) {
				return
			}
			off = stop
		}
		merge.Flush()
	}
}

// blockExtents adds what stands in [off, stop) of an allocated block.
func (img *Image) blockExtents(merge *disk.Merger, bm *sectorBitmap, e uint32, block, off, stop int64) bool {
	start := block * img.lay.blockSize
	data := int64(e)*SectorSize + img.lay.bitmapSize
	if bm == nil {
		return merge.Add(disk.Extent{Off: off, Len: stop - off, State: disk.Data, File: img.r, FileOff: data + off - start})
	}
	// The consumer may take its time, and write: do not hold the lock over it.
	bm.mu.RLock()
	bits := append([]byte(nil), bm.bits...)
	bm.mu.RUnlock()
	limit := (stop - start + SectorSize - 1) / SectorSize
	for off < stop {
		end, set := bitmapRun(bits, (off-start)/SectorSize, limit)
		next := min(stop, start+end*SectorSize)
		x := disk.Extent{Off: off, Len: next - off, State: disk.Zero}
		if set {
			x.State, x.File, x.FileOff = disk.Data, img.r, data+off-start
		}
		if !merge.Add(x) {
			return false
		}
		off = next
	}
	return true
}
