package qcow2

import (
	"iter"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Extents implements [disk.Disk]. Clusters with data are Data, with their offset in the
// file or Compressed. Zero clusters are Unallocated, with an offset in the file if they have
// one. The extents of the parent have their Depth raised by one. Clusters that are stored nowhere
// are Absent; a subcluster then has the offset that its cluster has for it. If the image was
// created with preallocated metadata, holes of the file within data are Zero.
func (img *Image) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	n, err := disk.ClipRange(off, n, img.size)
	if err != nil {
		return func(yield func(disk.Extent, error) bool) { yield(disk.Extent{}, err) }
	}
	return func(yield func(disk.Extent, error) bool) {
		merge := disk.Merger{Yield: yield}
		var holes *filesystem.HoleMap
		for p, err := range img.parts(off, n) {
			if err != nil {
				merge.Fail(err)
				return
			}
			e := disk.Extent{Off: p.off, Len: p.n, State: disk.Unallocated}
			switch p.kind {
			case absent, absentStored:
				if !img.inheritedExtents(&merge, p) {
					return
				}
				continue
			case compressed:
				e.State, e.Compressed = disk.Data, true
			case stored, zeroStored:
				if img.data == nil {
					merge.Fail(img.dataErr)
					return
				}
				e.File, e.FileOff = img.data, p.host
				if p.kind == stored {
					e.State = disk.Data
				}
			}
			if p.kind == stored && img.preallocated() {
				if holes == nil {
					holes = filesystem.NewHoleMap(img.data)
				}
				for x, err := range holes.Extents(p.host-p.off, p.off, p.n, disk.Zero) {
					if err != nil {
						merge.Fail(err)
						return
					}
					if !merge.Add(x) {
						return
					}
				}
				continue
			}
			if !merge.Add(e) {
				return
			}
		}
		merge.Flush()
	}
}

// inheritedExtents adds what the parent has of a part.
func (img *Image) inheritedExtents(merge *disk.Merger, p part) bool {
	off, end := p.off, p.off+p.n
	if img.parent == nil && img.header.BackingFile != "" {
		merge.Fail(ErrNoParent)
		return false
	}
	if img.parent != nil {
		var ok bool
		if off, ok = merge.AddParent(img.parent, off, end); !ok {
			return false
		}
	}
	e := disk.Extent{Off: off, Len: end - off, State: disk.Absent}
	if p.kind == absentStored {
		e.File, e.FileOff = img.data, p.host+off-p.off
	}
	return merge.Add(e)
}
