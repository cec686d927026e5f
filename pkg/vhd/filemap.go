package vhd

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
)

// FileUse says what a part of an image's file is for.
type FileUse uint8

// The uses, in the order in which new files have them.
const (
	UseFooterCopy FileUse = iota // the copy of the footer at the start
	UseHeader                    // the dynamic disk header
	UseBAT                       // the block allocation table
	UseBatmap                    // XenServer's map of the blocks, and its header
	UseLocator                   // where the parent of a differencing image is
	UseBitmap                    // the sector bitmap of a block
	UseData                      // the data of a block, or of a fixed disk
	UsePadding                   // nothing, and there is no room for a block
	UseLeak                      // nothing, although there is room for a block
	UseFooter                    // the footer at the end
)

// String returns the use in the words of the format's specification.
func (u FileUse) String() string {
	names := [...]string{
		"copy of the footer", "header", "BAT", "batmap", "parent locator", "sector bitmap", "data", "padding", "leak", "footer",
	}
	if int(u) < len(names) {
		return names[u]
	}
	return fmt.Sprintf("use %d", uint8(u))
}

// FileExtent is a part of an image's file that has one use.
type FileExtent struct {
	Off   int64 // in the file, bytes
	Len   int64 // bytes
	Use   FileUse
	Block int64 // whose bitmap or data it is, from 0; -1 if of no block
}

// End is the offset just behind the extent.
func (e FileExtent) End() int64 { return e.Off + e.Len }

// FileMap yields, in order and without gaps, what a file of length bytes that
// holds the image is used for. Each block has two extents, its bitmap and its
// data; a fixed disk has one extent of data, of block -1. Where a damaged image
// uses bytes twice, they belong to what starts first.
//
// It must not be used while the image is written to, and after it was, only when
// it has been opened again. It takes 8 bytes of memory for each block in use.
func (img *Image) FileMap(length int64) iter.Seq[FileExtent] {
	return func(yield func(FileExtent) bool) {
		around := img.usesAroundBlocks()
		m := fileMapper{length: length, stored: img.lay.stored(), yield: yield}
		for _, b := range img.blocksByPlace() {
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

// blocksByPlace returns the blocks that have a place in the file in the order of
// their places: the sector in the upper half, the block in the lower.
func (img *Image) blocksByPlace() []uint64 {
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

// usesAroundBlocks returns what the file has besides blocks, in the order in which
// it stands there.
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

// fileMapper fills the gaps between the extents it is given.
type fileMapper struct {
	length int64 // of the file
	stored int64 // what a block takes; 0 for a fixed disk
	end    int64 // of what was yielded
	yield  func(FileExtent) bool
}

// add yields an extent that starts behind those before, or what is left of it.
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

// gap yields what is unused before end.
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
