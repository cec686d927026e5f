package vhd

import (
	"cmp"
	"iter"
	"math"
	"slices"
)

// region is a part of the file that holds something other than blocks.
type region struct {
	name       string
	start, end int64
}

// layout is where things are in the file of a dynamic image. The sizes never change
// while an image is open: reads and writes use them without a lock.
type layout struct {
	blockSize  int64
	bitmapSize int64
	align      int64 // of the data of new blocks: SectorSize in a packed file, else dataAlign
	fileAlign  int64 // of the length of the file

	batOff   int64
	regions  []region // metadata: the copy of the footer, header and BAT
	batmap   []region // XenServer's
	locators []region // texts of parent locators
	limit    int64    // blocks end here: the trailing footer, or the end of the file
}

// layoutOf says where things stand in a dynamic image in whose file blocks end
// at limit.
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

// addLocators notes where the texts of a differencing image's parent locators
// stand in a file of size bytes. One that stands in a block has lost its place to
// it.
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

// dataAlign is the alignment of the data of blocks. It lets file systems with blocks
// of 4 KiB write, and share, whole blocks of their own. Windows does the same, and
// calls it alignment 1; it keeps the length of the file a multiple of it, too.
const dataAlign = 4096

// packed reports whether blocks follow each other without gaps, as qemu and
// VirtualBox write them. VirtualBox's compact takes every image to be so.
func (l *layout) packed() bool { return l.align == SectorSize }

// nextBlockOffset is the offset of a new block when everything before free is in
// use: its bitmap comes right before its aligned data.
func (l *layout) nextBlockOffset(free int64) int64 {
	return roundUp(free+l.bitmapSize, l.align) - l.bitmapSize
}

// footerOffset is the offset of the trailing footer when everything in use ends at
// end. Where the length is aligned and there are no blocks, it has a page of its own, as
// Windows has it: by that foundAlignment recognises such a file. (With blocks so small
// that one would fit before the footer, that would count as a leak.)
func (l *layout) footerOffset(end int64) int64 {
	if l.fileAlign == dataAlign && end <= l.metadataEnd() && l.stored() > 2*dataAlign {
		end = roundUp(end, dataAlign)
	}
	return roundUp(end+footerSize, l.fileAlign) - footerSize
}

// metadataEnd is the first byte behind all metadata.
func (l *layout) metadataEnd() int64 {
	end := int64(0)
	for _, rs := range [][]region{l.regions, l.batmap, l.locators} {
		for _, r := range rs {
			end = max(end, r.end)
		}
	}
	return end
}

// foundAlignment is how an image in a file of size bytes is laid out, so that what is
// added follows: the alignment of its blocks, and that of the length. The length of a
// packed file may be a multiple by chance; then nothing is between its last block, or
// its metadata, and the footer.
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
	// Where there is no block, or a single one, which may be aligned by chance: only
	// Windows and XenServer are known to align them.
	if blocks == 0 || blocks == 1 && first*SectorSize == img.lay.metadataEnd() {
		packed = fileAlign != dataAlign && img.footer.Creator != CreatorXenServer
	}
	if packed {
		return SectorSize, fileAlign
	}
	return dataAlign, fileAlign
}

// Packed reports whether the blocks follow each other in the file without gaps, in any
// order, as qemu and VirtualBox write them. It is true for an image without blocks.
func (img *Image) Packed() bool {
	first, last, n := img.blockSpan()
	if n < 2 {
		return true
	}
	stored := img.lay.stored() / SectorSize
	if last-first != (n-1)*stored {
		return false
	}
	for _, e := range img.bat.used() { // no two of them overlap
		if (int64(e)-first)%stored != 0 {
			return false
		}
	}
	return true
}

// MetadataFirst reports whether header, BAT, batmap and parent locators are all before
// the first block. It is true for an image without blocks.
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

// blockSpan is the sectors of the first and the last block in the file, and how many
// there are.
func (img *Image) blockSpan() (first, last, n int64) {
	first = math.MaxInt64
	for _, e := range img.bat.used() {
		first, last, n = min(first, int64(e)), max(last, int64(e)), n+1
	}
	return first, last, n
}

// relocate takes the offsets of another layout, of the same blocks.
func (l *layout) relocate(to *layout) {
	l.batOff, l.regions, l.batmap, l.locators, l.limit = to.batOff, to.regions, to.batmap, to.locators, to.limit
}

// batEnd is the first byte behind the BAT.
func (l *layout) batEnd() int64 { return l.regions[2].end }

// tableEnd is the first byte behind the BAT, and the batmap that follows it, of a new
// image.
func (l *layout) tableEnd() int64 {
	end := l.batEnd()
	for _, r := range l.batmap {
		end = max(end, r.end)
	}
	return end
}

// metadata is all that is not a block.
func (l *layout) metadata() []region { return slices.Concat(l.regions, l.batmap, l.locators) }

// stored is what a block takes in the file.
func (l *layout) stored() int64 { return l.bitmapSize + l.blockSize }

// regionOver returns the first of the regions that has bytes in [start, end), or nil.
func regionOver(regions []region, start, end int64) *region {
	for i := range regions {
		if r := &regions[i]; start < r.end && end > r.start {
			return r
		}
	}
	return nil
}

// places yields the entries that are used in the order of the file. Equal ones may
// come once only. inOrder says that they have that order anyway; if not, it takes
// memory.
func (t bat) places(inOrder bool) iter.Seq[uint32] {
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

// spans yields what metadata and blocks take of the file, [start, end), in the
// order of their starts. They may overlap.
func (t bat) spans(l *layout) iter.Seq2[int64, int64] { return t.spansOf(l, t.apart(0)) }

// spansOf is spans of a table of which it is known whether its entries are in the
// order of the file.
func (t bat) spansOf(l *layout, inOrder bool) iter.Seq2[int64, int64] {
	return func(yield func(start, end int64) bool) {
		regions := l.metadata()
		slices.SortFunc(regions, func(a, b region) int { return cmp.Compare(a.start, b.start) })
		for e := range t.places(inOrder) {
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

// end is the first byte behind all blocks, given what a block takes.
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

// over returns the first block that has bytes in [start, end) of the file, or -1.
func (t bat) over(l *layout, start, end int64) int64 {
	for i, e := range t.usedOnce() {
		if at := int64(e) * SectorSize; at < end && at+l.stored() > start {
			return i
		}
	}
	return -1
}

// blocksHeld is how many blocks an image of that virtual size has. Where the
// geometry is the size, the current size may be larger; what it spans is not
// shown, but kept.
func blocksHeld(f *Footer, h *Header, size int64) int64 {
	blockSize := int64(h.BlockSize)
	held := max(size, int64(min(f.CurrentSize, uint64(h.MaxTableEntries)*uint64(blockSize))))
	return (held + blockSize - 1) / blockSize
}
