// Package picture draws the contents of a disk and its file, to show holes, leaks and
// fragmentation: as SVG, as PNG, and in letters.
//
// A [Picture] has strips, one for the disk and one for the file. A [Strip] is a range of bytes,
// divided into some hundred cells of equal size. Each cell sums up its contents. Data is
// coloured by its position on the disk, in both strips. If the file is in order, both strips
// show the same gradient.
package picture

import "slices"

// Kind is what a part of a strip contains.
type Kind uint8

// The kinds, in the order of the legend, and from the bottom of a cell to its top.
const (
	Data       Kind = iota
	Inherited       // data of the parent
	Inherited2      // of the parent's parent
	Inherited3      // of parents further up
	Metadata
	Bitmap
	Zero // reads as zeros, allocated
	Hole // reads as zeros, not allocated
	Padding
	Leak
	kinds
)

// InheritedFrom returns the kind of data at a depth of a chain: 0 for the image itself, 1 for
// its parent.
func InheritedFrom(depth int) Kind { return Data + Kind(min(depth, int(Inherited3))) }

var kindNames = [kinds]string{
	"data", "data of the parent", "of the parent's parent", "of parents further up", "metadata", "sector bitmaps", "zeros", "holes", "padding", "leaks",
}

// A strip has at most maxRows rows of columns cells.
const (
	columns = 64
	maxRows = 16
)

// levels is the number of positions on the disk with a colour of their own.
const levels = 32

// Picture is a drawing of strips, one below the other.
type Picture struct {
	Title  string
	Strips []*Strip
}

// Strip is a range of bytes and their contents.
type Strip struct {
	Name string // what the strip shows, such as "Disk"
	Note string // printed after name and size
	// ByPlace shows the position of data on the disk, when drawn in letters.
	ByPlace bool

	size     int64 // bytes
	diskSize int64 // size of the disk that contains the data
	cellSize int64
	cells    []cell
	total    [kinds]int64
}

// cell sums up the contents of one cell of a strip.
type cell struct {
	n      [kinds]int64 // bytes of each kind
	levels int64        // sum of the levels of the bytes of data
}

// NewStrip returns a strip of size bytes. Its data belongs to a disk of diskSize bytes.
func NewStrip(name string, size, diskSize int64) *Strip {
	s := &Strip{Name: name, size: size, diskSize: max(diskSize, 1), cellSize: 512}
	for (size-1)/(columns*maxRows) >= s.cellSize {
		s.cellSize *= 2
	}
	s.cells = make([]cell, (size+s.cellSize-1)/s.cellSize)
	return s
}

// Add sets the kind of [off, off+n). For data, diskOff is its offset on the disk. Bytes past
// the end of the strip are ignored.
func (s *Strip) Add(off, n int64, k Kind, diskOff int64) {
	end := min(off+n, s.size)
	for off < end {
		i := off / s.cellSize
		stop := min(end, (i+1)*s.cellSize)
		piece := stop - off
		s.cells[i].n[k] += piece
		if k == Data {
			s.cells[i].levels += piece * s.level(diskOff+piece/2)
			diskOff += piece
		}
		s.total[k] += piece
		off = stop
	}
}

// level returns the level of an offset on the disk, from 0 to levels-1.
func (s *Strip) level(diskOff int64) int64 {
	return min(levels-1, int64(float64(diskOff)/float64(s.diskSize)*levels))
}

// level returns the average level of the data in the cell.
func (c *cell) level() int64 {
	if c.n[Data] == 0 {
		return 0
	}
	return c.levels / c.n[Data]
}

// rows is how many rows of n cells the strip has.
func (s *Strip) rows(n int) int { return (len(s.cells) + n - 1) / n }

// row returns the cells of a row of n cells.
func (s *Strip) row(i, n int) []cell { return s.cells[i*n : min(len(s.cells), (i+1)*n)] }

// legend returns the kinds that occur in the strip.
func (s *Strip) legend() []Kind {
	var ks []Kind
	for k := range kinds {
		if s.total[k] > 0 {
			ks = append(ks, k)
		}
	}
	return ks
}

// shares divides the height of a cell among its kinds, from the bottom up. Every kind gets a
// visible share.
func (c *cell) shares(height int) []share {
	var all int64
	for _, n := range c.n {
		all += n
	}
	if all == 0 {
		return nil
	}
	var shares []share
	left := height
	for k, n := range c.n {
		if n > 0 {
			h := max(2, int(float64(n)/float64(all)*float64(height)))
			left -= h
			shares = append(shares, share{Kind(k), h})
		}
	}
	largest := slices.MaxFunc(shares, func(a, b share) int { return a.height - b.height })
	for i := range shares {
		if shares[i] == largest {
			shares[i].height += left
			break
		}
	}
	return shares
}

type share struct {
	kind   Kind
	height int
}
