package vhd

import (
	"cmp"
	"iter"
	"math"
	"slices"
)

// region is a part of the file that holds metadata.
type region struct {
	name       string
	start, end int64
}

// layout describes where metadata and blocks are stored in the file of a dynamic image. The
// sizes never change while an image is open: reads and writes use them without a lock.
type layout struct {
	blockSize  int64
	bitmapSize int64
	align      int64 // alignment of the data of new blocks: SectorSize in a packed file
	fileAlign  int64 // alignment of the length of the file

	batOff   int64
	regions  []region // metadata: the copy of the footer, header and BAT
	batmap   []region // XenServer's batmap
	locators []region // texts of parent locators
	limit    int64    // end of the space for blocks: the trailing footer, or the end of the file
}

// layoutOf returns the layout of a dynamic image whose blocks end at limit.
func layoutOf(f *Footer, h *Header, limit int64) layout {
	blockSize := int64(h.BlockSize)
	headerOff, batOff := int64(f.DataOffset), int64(h.TableOffset)
	return layout{
		batOff:     batOff,
		blockSize:  blockSize,
		bitmapSize: bitmapSizeFor(blockSize),
		align:      dataAlign,
		fileAlign:  SectorSize,
		limit:      limit,
		regions: []region{
			{"copy of the footer", 0, footerSize},
			{"dynamic disk header", headerOff, headerOff + headerSize},
			{"BAT", batOff, batOff + batBytes(int64(h.MaxTableEntries))},
		},
	}
}

// addLocators adds the regions of a differencing image's parent locators, in a file of size
// bytes. It omits a locator that overlaps a block: the block has overwritten it.
func (l *layout) addLocators(f *Footer, h *Header, t bat, size int64) {
	l.locators = nil
	if f.Type != Differencing {
		return
	}
	for _, x := range h.locatorRegions(size) {
		if t.over(l, x.start, x.end) < 0 {
			l.locators = append(l.locators, x)
		}
	}
}

// dataAlign is the alignment of the data of blocks. File systems with blocks of 4 KiB can then
// write and share whole blocks. Windows does the same, and calls it alignment 1; it also keeps
// the length of the file a multiple of it.
const dataAlign = 4096

// packed reports whether blocks follow each other without gaps, as qemu and VirtualBox write
// them. VirtualBox's compact assumes that of every image.
func (l *layout) packed() bool { return l.align == SectorSize }

// nextBlockOffset returns the offset of a new block when everything before free is in use. The
// bitmap ends where the aligned data starts.
func (l *layout) nextBlockOffset(free int64) int64 {
	return roundUp(free+l.bitmapSize, l.align) - l.bitmapSize
}

// footerOffset returns the offset of the trailing footer when everything in use ends at end. If
// the length is aligned and there are no blocks, the footer has a page of its own, as in images
// of Windows. foundAlignment recognises such a file by that page. If blocks are so small that
// one fits before the footer, the page would count as a leak, and is omitted.
func (l *layout) footerOffset(end int64) int64 {
	if l.fileAlign == dataAlign && end <= l.metadataEnd() && l.stored() > 2*dataAlign {
		end = roundUp(end, dataAlign)
	}
	return roundUp(end+footerSize, l.fileAlign) - footerSize
}

// metadataEnd returns the offset after all metadata.
func (l *layout) metadataEnd() int64 {
	end := int64(0)
	for _, rs := range [][]region{l.regions, l.batmap, l.locators} {
		for _, r := range rs {
			end = max(end, r.end)
		}
	}
	return end
}

// foundAlignment returns the alignment of the blocks and of the length of an existing image,
// for blocks that are added. The file has size bytes. The length of a packed file may be
// aligned by chance; then no space is unused between its last block, or its metadata, and the
// footer.
func (img *Image) foundAlignment(size int64) (align, fileAlign int64) {
	first, _, blocks := img.blockSpan()
	packed := blocks == 0
	for _, e := range img.bat.used() {
		packed = packed || (int64(e)*SectorSize+img.lay.bitmapSize)%dataAlign != 0
	}
	fileAlign = SectorSize
	if img.trailer == trailerMoves && size%dataAlign == 0 && (!packed || img.footerAt > img.endOfUse()) {
		fileAlign = dataAlign
	}
	// Without blocks, or with a single one that may be aligned by chance, the creator decides:
	// only Windows and XenServer are known to align blocks.
	if blocks == 0 || blocks == 1 && first*SectorSize == img.lay.metadataEnd() {
		packed = fileAlign != dataAlign && img.footer.Creator != CreatorXenServer
	}
	if packed {
		return SectorSize, fileAlign
	}
	return dataAlign, fileAlign
}

// Packed reports whether the blocks follow each other in the file without gaps, in any order,
// as qemu and VirtualBox write them. It is true for an image without blocks.
func (img *Image) Packed() bool {
	first, last, n := img.blockSpan()
	if n < 2 {
		return true
	}
	stored := img.lay.stored() / SectorSize
	if last-first != (n-1)*stored {
		return false
	}
	for _, e := range img.bat.used() { // no two blocks overlap
		if (int64(e)-first)%stored != 0 {
			return false
		}
	}
	return true
}

// MetadataFirst reports whether the header, the BAT, the batmap and the parent locators all
// precede the first block. It is true for an image without blocks.
func (img *Image) MetadataFirst() bool {
	first, _, n := img.blockSpan()
	if n == 0 {
		return true
	}
	for _, r := range img.lay.metadata() {
		if r.end > first*SectorSize {
			return false
		}
	}
	return true
}

// blockSpan returns the sectors of the first and the last block in the file, and the number of
// blocks.
func (img *Image) blockSpan() (first, last, n int64) {
	first = math.MaxInt64
	for _, e := range img.bat.used() {
		first, last, n = min(first, int64(e)), max(last, int64(e)), n+1
	}
	return first, last, n
}

// relocate copies the offsets of another layout with the same sizes.
func (l *layout) relocate(to *layout) {
	l.batOff, l.regions, l.batmap, l.locators, l.limit = to.batOff, to.regions, to.batmap, to.locators, to.limit
}

// batEnd returns the offset after the BAT.
func (l *layout) batEnd() int64 { return l.regions[2].end }

// tableEnd returns the offset after the BAT of a new image and the batmap that follows it.
func (l *layout) tableEnd() int64 {
	end := l.batEnd()
	for _, r := range l.batmap {
		end = max(end, r.end)
	}
	return end
}

// metadata returns the regions of all metadata.
func (l *layout) metadata() []region { return slices.Concat(l.regions, l.batmap, l.locators) }

// stored returns the size of a block in the file, with its bitmap.
func (l *layout) stored() int64 { return l.bitmapSize + l.blockSize }

// regionOver returns the first of the regions that overlaps [start, end), or nil.
func regionOver(regions []region, start, end int64) *region {
	for i := range regions {
		if r := &regions[i]; start < r.end && end > r.start {
			return r
		}
	}
	return nil
}

// offsets yields the used entries in the order of the file. Equal entries may come only once.
// inOrder says that the table has that order already; if not, offsets needs memory.
func (t bat) offsets(inOrder bool) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		if inOrder {
			for _, e := range t.usedOnce() {
				if !yield(e) {
					return
				}
			}
			return
		}
		n := 0
		for range t.usedOnce() {
			n++
		}
		sorted := make([]uint32, 0, n)
		for _, e := range t.usedOnce() {
			sorted = append(sorted, e)
		}
		slices.Sort(sorted)
		for _, e := range sorted {
			if !yield(e) {
				return
			}
		}
	}
}

// spans yields the ranges [start, end) of metadata and blocks in the file, in the order of
// their starts. They may overlap.
func (t bat) spans(l *layout) iter.Seq2[int64, int64] { return t.spansOf(l, t.apart(0)) }

// spansOf is spans for a table for which the caller knows whether its entries are in the order
// of the file.
func (t bat) spansOf(l *layout, inOrder bool) iter.Seq2[int64, int64] {
	return func(yield func(start, end int64) bool) {
		regions := l.metadata()
		slices.SortFunc(regions, func(a, b region) int { return cmp.Compare(a.start, b.start) })
		for e := range t.offsets(inOrder) {
			start := int64(e) * SectorSize
			for len(regions) > 0 && regions[0].start <= start {
				if !yield(regions[0].start, regions[0].end) {
					return
				}
				regions = regions[1:]
			}
			if !yield(start, start+l.stored()) {
				return
			}
		}
		for _, r := range regions {
			if !yield(r.start, r.end) {
				return
			}
		}
	}
}

// end returns the offset after the last block. stored is the size of a block in the file.
func (t bat) end(stored int64) int64 {
	last := int64(-1)
	for _, e := range t.usedOnce() {
		last = max(last, int64(e))
	}
	if last < 0 {
		return 0
	}
	return last*SectorSize + stored
}

// over returns the first block that overlaps [start, end) of the file, or -1.
func (t bat) over(l *layout, start, end int64) int64 {
	for i, e := range t.usedOnce() {
		if at := int64(e) * SectorSize; at < end && at+l.stored() > start {
			return i
		}
	}
	return -1
}

// blocksHeld returns the number of blocks of an image with that virtual size. If the geometry
// is the size, the current size may be larger; the bytes between are kept, but not shown.
func blocksHeld(f *Footer, h *Header, size int64) int64 {
	blockSize := int64(h.BlockSize)
	held := max(size, int64(min(f.CurrentSize, uint64(h.MaxTableEntries)*uint64(blockSize))))
	return (held + blockSize - 1) / blockSize
}
