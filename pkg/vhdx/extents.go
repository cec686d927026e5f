package vhdx

import (
	"io"
	"iter"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Extents implements [disk.Disk]. Blocks in the file are Data with their offset, whether or not
// the file has holes there. Blocks that are not present are Unallocated, and blocks that are
// marked as zero, unmapped or undefined are Zero. Where a differencing image stores nothing, the
// extents are those of the parent, with their Depth raised by one. Data that the log changes has
// a File that is not an [os.File].
func (img *Image) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		m := &img.s.meta
		n, err := disk.ClipRange(off, n, m.Size)
		if err == nil && img.closed.Load() {
			err = ErrClosed
		}
		if err != nil {
			yield(disk.Extent{}, err)
			return
		}
		merge := disk.Merger{Yield: yield}
		for end := off + n; n > 0 && off < end; {
			block := off / m.BlockSize
			stop := min(end, (block+1)*m.BlockSize)
			e, err := img.s.payload(block)
			if err == nil && e.state() == NotPresent {
				var next int64
				if next, err = img.s.bat.nextPresent(block, (end-1)/m.BlockSize+1); err == nil {
					stop = min(end, next*m.BlockSize)
				}
			}
			if err != nil {
				merge.Fail(err)
				return
			}
			if !img.blockExtents(&merge, e, block, off, stop) {
				return
			}
			off = stop
		}
		merge.Flush()
	}
}

// blockExtents adds the extents of [off, stop), which is in one block, or in blocks that are not
// present.
func (img *Image) blockExtents(merge *disk.Merger, e batEntry, block, off, stop int64) bool {
	m := &img.s.meta
	start := block * m.BlockSize
	stored := func(off, stop int64) bool {
		at := int64(e.offset()) + off - start
		return merge.Add(disk.Extent{Off: off, Len: stop - off, State: disk.Data, File: img.fileOf(at, stop-off), FileOff: at})
	}
	switch e.state() {
	case FullyPresent:
		return stored(off, stop)
	case NotPresent:
		return img.missingExtents(merge, off, stop)
	case PartiallyPresent:
	default:
		return merge.Add(disk.Extent{Off: off, Len: stop - off, State: disk.Zero})
	}
	bits, bit, err := img.s.sectorBitmap(block, off-start, stop-start)
	if err != nil {
		merge.Fail(err)
		return false
	}
	base := (off-start)/m.LogicalSector - bit
	limit := roundUp(stop-start, m.LogicalSector)/m.LogicalSector - base
	for off < stop {
		next, set := bitRun(bits, bit, limit)
		to := min(stop, start+(base+next)*m.LogicalSector)
		if set && !stored(off, to) || !set && !img.missingExtents(merge, off, to) {
			return false
		}
		off, bit = to, next
	}
	return true
}

// fileOf is the file that holds n bytes at an offset: the image file, or the file with the
// changes of the log if these change the bytes.
func (img *Image) fileOf(at, n int64) io.ReaderAt {
	if f, ok := img.s.r.(*replayed); ok && (f.changes(at, n) || at+n > f.length) {
		return f
	}
	return img.file
}

// missingExtents adds the extents of [off, stop), which is not in this file.
func (img *Image) missingExtents(merge *disk.Merger, off, stop int64) bool {
	if img.s.meta.HasParent {
		if img.parent == nil {
			merge.Fail(ErrNoParent)
			return false
		}
		var ok bool
		if off, ok = merge.AddParent(img.parent, off, stop); !ok {
			return false
		}
	}
	return merge.Add(disk.Extent{Off: off, Len: stop - off, State: disk.Unallocated})
}
