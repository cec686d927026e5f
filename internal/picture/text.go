package picture

import (
	"bytes"
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
)

// letters are the letters of the kinds. Data has other letters, too.
var letters = [kinds]byte{'#', '1', '2', '3', 'M', 'b', 'z', '.', '-', '!'}

// prominence is the order in which the kinds of a cell are tried. The first kind that occurs
// determines the letter.
var prominence = [...]Kind{Leak, Metadata, Data, Inherited, Inherited2, Inherited3, Bitmap, Zero, Hole, Padding}

// offsetWidth is how much of a line the offset of its first cell occupies.
const offsetWidth = 14

// Text draws the picture in letters, in lines of at most width characters where width is 40 or
// more. The cells are the same at each width.
func (p *Picture) Text(w io.Writer, width int) error {
	// Multiples of 8 cells start at offsets that are easy to read.
	cells := max(8, (width-offsetWidth)/8*8)
	legendIndent := offsetWidth
	if width < 64 {
		legendIndent = 0
	}
	var b bytes.Buffer
	fmt.Fprintln(&b, p.Title)
	for _, s := range p.Strips {
		fmt.Fprintf(&b, "\n%s\n", s.heading())
		for i := range s.rows(cells) {
			fmt.Fprintf(&b, "%*s  ", offsetWidth-2, size(int64(i)*int64(cells)*s.cellSize))
			for _, c := range s.row(i, cells) {
				b.WriteByte(s.letter(&c))
			}
			b.WriteByte('\n')
		}
		for _, k := range s.legend() {
			fmt.Fprintf(&b, "%*s%s  %s\n", legendIndent, "", s.letterOf(k), s.describe(k))
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// letter returns the letter of a cell.
func (s *Strip) letter(c *cell) byte {
	for _, k := range prominence {
		switch {
		case c.n[k] == 0:
			continue
		case k == Data && s.ByPlace:
			return "0123456789"[c.level()*10/levels]
		case k == Data && c.n[Data] < s.cellSize/2:
			return '+'
		}
		return letters[k]
	}
	return ' '
}

// letterOf returns the letters of a kind in the legend.
func (s *Strip) letterOf(k Kind) string {
	switch {
	case k != Data:
		return fmt.Sprintf("%-3c", letters[k])
	case s.ByPlace:
		return "0-9"
	}
	return "#+ "
}

// heading returns the line above a strip.
func (s *Strip) heading() string {
	h := fmt.Sprintf("%s: %s, %s in a cell", s.Name, size(s.size), size(s.cellSize))
	if s.Note != "" {
		h += "; " + s.Note
	}
	return h
}

// describe returns a line of the legend.
func (s *Strip) describe(k Kind) string {
	return fmt.Sprintf("%s: %s, %s", kindNames[k], size(s.total[k]), perCent(s.total[k], s.size))
}

// size returns n bytes, scaled.
func size(n int64) string { return humanize.IBytes(uint64(n)) }

// perCent returns n as a percentage of the total. Only nothing is 0 %, and only the total is
// 100 %.
func perCent(n, of int64) string {
	switch p := 100 * float64(n) / float64(of); {
	case n < of && p > 99.9:
		return "> 99.9 %"
	case n > 0 && p < 0.1:
		return "< 0.1 %"
	default:
		return fmt.Sprintf("%.1f %%", p)
	}
}
