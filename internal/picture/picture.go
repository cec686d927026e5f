// Package picture draws what a disk and its file hold, so that holes, leaks and
// fragmentation are seen at a glance: as SVG, as PNG, and in letters.
//
// A [Picture] has strips, one for the disk and one for the file. A [Strip] is a
// run of bytes cut into some hundred cells of one size, however long it is; what
// is added to it is summed up in the cells it touches. Data has a colour for its
// place on the disk, in both strips the same: where the colours of the file run as
// those of the disk do, the file is in order.
package picture

import "slices"

// Kind is what a part of a strip holds.
type Kind uint8

// The kinds, in the order of a legend, and from the bottom of a cell to its top.
const (
	Data       Kind = iota
	Inherited       // data of the parent
	Inherited2      // of the parent's parent
	Inherited3      // of one further up
	Metadata
	Bitmap
	Zero // reads as zeros, and has storage
	Hole // reads as zeros, and has none
	Padding
	Leak
	kinds
)

// InheritedFrom is the kind of data that stands so deep in a chain of images.
func InheritedFrom(depth int) Kind { return Data + Kind(min(depth, int(Inherited3))) }

var kindNames = [kinds]string{
	"data", "data of the parent", "of the parent's parent", "of ones further up", "metadata", "sector bitmaps", "zeros", "holes", "padding", "leaks",
}

// The cells of a strip are drawn in rows of columns cells, and written in rows of the output's
// width.
const (
	columns = 64
	maxRows = 16
)

// levels is how many places on the disk have a colour of their own.
const levels = 32

// Picture is a drawing of strips, one below the other.
type Picture struct {
	Title  string
	Strips []*Strip
}

// Strip is a run of bytes with what they hold.
type Strip struct {
	Name string // what it is a strip of
	Note string // stands behind the name and the size
	// ByPlace draws data in letters by its place on the disk.
	ByPlace bool

	size     int64 // bytes
	diskSize int64 // of the disk that data has a place on
	cellSize int64
	cells    []cell
	total    [kinds]int64
}

// cell is what stands in one cell of a strip.
type cell struct {
	n      [kinds]int64
	levels int64 // sum of the levels of the bytes of data
}

// NewStrip returns a strip of size bytes, for data of a disk of diskSize bytes.
func NewStrip(name string, size, diskSize int64) *Strip {
	s := &Strip{Name: name, size: size, diskSize: max(diskSize, 1), cellSize: 512}
	for (size-1)/(columns*maxRows) >= s.cellSize {
		s.cellSize *= 2
	}
	s.cells = make([]cell, (size+s.cellSize-1)/s.cellSize)
	return s
}

// Add says what [off, off+n) holds; place is where on the disk it is, if it is
// data. What is behind the strip's end is left out.
func (s *Strip) Add(off, n int64, k Kind, place int64) {
	end := min(off+n, s.size)
	for off < end {
		i := off / s.cellSize
		stop := min(end, (i+1)*s.cellSize)
		piece := stop - off
		s.cells[i].n[k] += piece
		if k == Data {
			s.cells[i].levels += piece * s.level(place+piece/2)
			place += piece
		}
		s.total[k] += piece
		off = stop
	}
}

// level is a place on the disk, of levels.
func (s *Strip) level(place int64) int64 {
	return min(levels-1, int64(float64(place)/float64(s.diskSize)*levels))
}

// level is the place of the cell's data on the disk, of levels.
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

// legend returns the kinds that the strip has.
func (s *Strip) legend() []Kind {
	var ks []Kind
	for k := range kinds {
		if s.total[k] > 0 {
			ks = append(ks, k)
		}
	}
	return ks
}

// shares divides the height of a cell among what it holds, from the bottom up.
// What is there at all can be seen.
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
