package vhd

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
)

// FileUse is the purpose of a part of an image's file.
type FileUse uint8

// The uses, in the order in which they occur in new files.
const (
	UseFooterCopy FileUse = iota // the leading copy of the footer
	UseHeader                    // the dynamic disk header
	UseBAT                       // the block allocation table
	UseBatmap                    // XenServer's batmap, and its header
	UseLocator                   // the text of a parent locator
	UseBitmap                    // the sector bitmap of a block
	UseData                      // the data of a block, or of a fixed disk
	UsePadding                   // unused space smaller than a block
	UseLeak                      // unused space as large as a block or larger
	UseFooter                    // the trailing footer
)

// String returns the specification's name of the use.
func (u FileUse) String() string {
	names := [...]string{
		"copy of the footer", "header", "BAT", "batmap", "parent locator", "sector bitmap", "data", "padding", "leak", "footer",
	}
	if int(u) < len(names) {
		return names[u]
	}
	return fmt.Sprintf("use %d", uint8(u))
}

// FileExtent is a part of an image's file with a single use.
type FileExtent struct {
	Off   int64 // offset in the file, bytes
	Len   int64 // bytes
	Use   FileUse
	Block int64 // the block of this bitmap or data, from 0; -1 for other uses
}

// End returns the offset after the extent.
func (e FileExtent) End() int64 { return e.Off + e.Len }

// FileMap yields the uses of a file of length bytes that holds the image, in order and without
// gaps. Each block has two extents, its bitmap and its data; a fixed disk has one extent of
// data, of block -1. If a damaged image uses bytes twice, they belong to the use that starts
// first.
//
// FileMap is not safe for concurrent use with writes. After writes the image must be opened
// again. FileMap needs 8 bytes of memory for each allocated block.
func (img *Image) FileMap(length int64) iter.Seq[FileExtent] {
	return func(yield func(FileExtent) bool) {
		around := img.usesAroundBlocks()
		m := fileMapper{length: length, stored: img.lay.stored(), yield: yield}
		for _, b := range img.blocksByOffset() {
			start, block := int64(b>>32)*SectorSize, int64(uint32(b))
			for len(around) > 0 && around[0].Off < start {
				if !m.add(around[0]) {
					return
				}
				around = around[1:]
			}
			data := start + img.lay.bitmapSize
			if !m.add(FileExtent{start, img.lay.bitmapSize, UseBitmap, block}) ||
				!m.add(FileExtent{data, img.lay.blockSize, UseData, block}) {
				return
			}
		}
		for _, e := range around {
			if !m.add(e) {
				return
			}
		}
		m.gap(length)
	}
}

// blocksByOffset returns the allocated blocks in the order of the file. The upper half of each
// value is the sector, the lower half the block.
func (img *Image) blocksByOffset() []uint64 {
	if s := img.salvage; s != nil {
		return img.bat.sorted(&s.readable, img.bat.fitting(&s.readable))
	}
	_, used := img.BlockCounts()
	blocks := make([]uint64, 0, used)
	for block, e := range img.bat.used() {
		blocks = append(blocks, uint64(e)<<32|uint64(block))
	}
	slices.Sort(blocks)
	return blocks
}

// usesAroundBlocks returns the extents of everything but blocks, in the order of the file.
func (img *Image) usesAroundBlocks() []FileExtent {
	var es []FileExtent
	add := func(use FileUse, start, end int64) { es = append(es, FileExtent{start, end - start, use, -1}) }
	if img.dynamic() {
		header := int64(img.footer.DataOffset)
		add(UseFooterCopy, 0, footerSize)
		add(UseHeader, header, header+headerSize)
		add(UseBAT, img.lay.batOff, img.lay.batEnd())
		for _, r := range img.lay.batmap {
			add(UseBatmap, r.start, r.end)
		}
		for _, r := range img.lay.locators {
			add(UseLocator, r.start, r.end)
		}
	} else {
		add(UseData, 0, img.size)
	}
	if img.trailer.present() {
		add(UseFooter, img.footerAt, img.footerAt+footerSize)
	}
	slices.SortFunc(es, func(a, b FileExtent) int {
		return cmp.Or(cmp.Compare(a.Off, b.Off), cmp.Compare(a.Use, b.Use))
	})
	return es
}

// fileMapper fills the gaps between the extents that it receives.
type fileMapper struct {
	length int64 // length of the file
	stored int64 // size of a stored block; 0 for a fixed disk
	end    int64 // end of the extents yielded so far
	yield  func(FileExtent) bool
}

// add yields an extent that starts after those before, or the rest of it.
func (m *fileMapper) add(e FileExtent) bool {
	start, end := max(e.Off, m.end), min(e.End(), m.length)
	if start >= end {
		return true
	}
	if !m.gap(start) {
		return false
	}
	m.end = end
	return m.yield(FileExtent{start, end - start, e.Use, e.Block})
}

// gap yields the unused bytes before end.
func (m *fileMapper) gap(end int64) bool {
	n := end - m.end
	if n <= 0 {
		return true
	}
	e := FileExtent{m.end, n, UsePadding, -1}
	if m.stored > 0 && n >= m.stored {
		e.Use = UseLeak
	}
	m.end = end
	return m.yield(e)
}
