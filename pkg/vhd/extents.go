package vhd

import (
	"iter"
	"math"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Extents implements [disk.Disk]. For a fixed disk it yields the data of the file as Data, and
// the holes as Zero. For a dynamic disk it yields allocated blocks as Data with their offset in
// the file, whether or not the file has holes there. It yields runs of sectors with a clear bit
// as Zero, and the rest as Unallocated. For ranges that a differencing image does not store, it
// yields the extents of the parent, with Depth raised by one.
func (img *Image) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	err := img.state.usable()
	if err == nil {
		n, err = disk.ClipRange(off, n, img.size)
	}
	if err != nil {
		return func(yield func(disk.Extent, error) bool) { yield(disk.Extent{}, err) }
	}
	if !img.dynamic() && img.salvage != nil {
		return img.salvagedFixedExtents(off, n)
	}
	if !img.dynamic() {
		return filesystem.NewHoleMap(img.r).Extents(0, off, n, disk.Zero)
	}
	return func(yield func(disk.Extent, error) bool) {
		merge := disk.Merger{Yield: yield}
		fileEnd, err := img.storedEnd()
		if err != nil {
			merge.Fail(err)
			return
		}
		for end := off + n; off < end; {
			block := off / img.lay.blockSize
			stop := min(end, (block+1)*img.lay.blockSize)
			e := img.bat.load(block)
			if e == unused {
				stop = min(end, img.bat.nextUsed(block, (end-1)/img.lay.blockSize+1)*img.lay.blockSize)
				if !img.missingExtents(&merge, off, stop, disk.Unallocated) {
					return
				}
				off = stop
				continue
			}
			bm, lost, err := img.readableBitmap(block, e)
			if err != nil {
				merge.Fail(err)
				return
			}
			if lost {
				stop = min(end, img.bat.runEnd(block)*img.lay.blockSize)
				if !merge.Add(disk.Extent{Off: off, Len: stop - off, State: disk.Zero}) {
					return
				}
				off = stop
				continue
			}
			if !img.blockExtents(&merge, bm, e, block, off, stop, fileEnd) {
				return
			}
			off = stop
		}
		merge.Flush()
	}
}

// salvagedFixedExtents is Extents of a fixed disk whose file may be shorter than the disk.
func (img *Image) salvagedFixedExtents(off, n int64) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		stored := max(0, min(n, img.salvage.end-off))
		for e, err := range filesystem.NewHoleMap(img.r).Extents(0, off, stored, disk.Zero) {
			if !yield(e, err) || err != nil {
				return
			}
		}
		if stored < n {
			yield(disk.Extent{Off: off + stored, Len: n - stored, State: disk.Zero}, nil)
		}
	}
}

// storedEnd returns the offset in the file at which stored blocks end. In a new image that is
// the end of the last write.
func (img *Image) storedEnd() (int64, error) {
	if img.salvage != nil {
		return img.salvage.end, nil
	}
	if img.state.phase() != phaseCreating {
		return math.MaxInt64, nil
	}
	return disk.FileSize(img.f)
}

// blockExtents adds the extents of [off, stop) of an allocated block, in a file up to fileEnd.
func (img *Image) blockExtents(merge *disk.Merger, bm *sectorBitmap, e uint32, block, off, stop, fileEnd int64) bool {
	start := block * img.lay.blockSize
	data := int64(e)*SectorSize + img.lay.bitmapSize
	stored := func(off, stop int64) bool {
		end := max(off, stop-max(0, data+stop-start-fileEnd))
		return (off == end || merge.Add(disk.Extent{Off: off, Len: end - off, State: disk.Data, File: img.r, FileOff: data + off - start})) &&
			(end == stop || merge.Add(disk.Extent{Off: end, Len: stop - end, State: disk.Zero}))
	}
	if bm == nil {
		return stored(off, stop)
	}
	// The caller of Extents may pause, or write: do not hold the lock meanwhile.
	bm.mu.RLock()
	bits := append([]byte(nil), bm.bits...)
	bm.mu.RUnlock()
	limit := (stop - start + SectorSize - 1) / SectorSize
	for off < stop {
		end, set := bitmapRun(bits, (off-start)/SectorSize, limit)
		next := min(stop, start+end*SectorSize)
		if set && !stored(off, next) {
			return false
		}
		if !set && !img.missingExtents(merge, off, next, disk.Zero) {
			return false
		}
		off = next
	}
	return true
}

// missingExtents adds the extents of [off, stop), which is not in this file: those of the
// parent, or without one an extent with the given state.
func (img *Image) missingExtents(merge *disk.Merger, off, stop int64, state disk.State) bool {
	if img.orphaned() {
		return merge.Add(disk.Extent{Off: off, Len: stop - off, State: disk.Zero})
	}
	if img.differencing() {
		if img.parent == nil {
			merge.Fail(ErrNoParent)
			return false
		}
		var ok bool
		if off, ok = merge.AddParent(img.parent, off, stop); !ok {
			return false
		}
		state = disk.Unallocated // past the parent's end
	}
	return merge.Add(disk.Extent{Off: off, Len: stop - off, State: state})
}
