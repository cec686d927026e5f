package picture

import (
	"bufio"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"sync"

	svg "github.com/ajstarks/svgo"
	"github.com/golang/freetype/truetype"
	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/math/fixed"
)

// Sizes of the parts of a drawing, in pixels.
const (
	cellWidth  = 13
	cellHeight = 14
	margin     = 16
	labelWidth = 76 // of the offsets on the left
	gridLeft   = margin + labelWidth
	width      = gridLeft + columns*cellWidth + margin
	lineHeight = 20
	legendCols = 3
	legendStep = (columns * cellWidth) / legendCols
	rampWidth  = 48 // of the sample of data in the legend
	swatch     = 12
	titleSize  = 17
	headSize   = 14
	textSize   = 12
	labelSize  = 11
)

var (
	paper = color.RGBA{0xff, 0xff, 0xff, 0xff}
	ink   = color.RGBA{0x22, 0x22, 0x22, 0xff}
	faint = color.RGBA{0x77, 0x77, 0x77, 0xff}
)

// colours are the colours of the kinds. Data has a ramp instead.
var colours = [kinds]color.RGBA{
	Inherited:  {0xf2, 0x9e, 0x5c, 0xff},
	Inherited2: {0xc8, 0x7a, 0x4a, 0xff},
	Inherited3: {0x96, 0x58, 0x3a, 0xff},
	Metadata:   {0x22, 0x22, 0x22, 0xff},
	Bitmap:     {0x8e, 0x5a, 0xa8, 0xff},
	Zero:       {0xc9, 0xd3, 0xdc, 0xff},
	Hole:       {0xee, 0xee, 0xee, 0xff},
	Padding:    {0xb5, 0xa9, 0x96, 0xff},
	Leak:       {0xe0, 0x1b, 0x24, 0xff},
}

// ramp has the colours of data, from the start of the disk to its end.
var ramp = [...]color.RGBA{
	{0x1d, 0x2f, 0x8f, 0xff}, {0x1a, 0x86, 0xb8, 0xff}, {0x35, 0xa8, 0x56, 0xff}, {0xe3, 0xc8, 0x1c, 0xff},
}

// dataColour returns the colour of data at a level.
func dataColour(level int64) color.RGBA {
	const steps = int64(len(ramp) - 1)
	at := level * steps * 256 / (levels - 1)
	i := min(at/256, steps-1)
	mix := func(a, b uint8) uint8 { return uint8((int64(a)*(256-(at-i*256)) + int64(b)*(at-i*256)) / 256) }
	a, b := ramp[i], ramp[i+1]
	return color.RGBA{mix(a.R, b.R), mix(a.G, b.G), mix(a.B, b.B), 0xff}
}

// A canvas draws the elements of a picture. The baseline of a text is y. The text starts at x,
// or ends there if it is alignedRight.
type canvas interface {
	rect(x, y, w, h int, c color.RGBA)
	text(x, y, size int, c color.RGBA, alignedRight bool, s string)
}

// height is the height of the drawing in pixels.
func (p *Picture) height() int {
	h := 2*margin + lineHeight
	for _, s := range p.Strips {
		h += s.height()
	}
	return h
}

func (s *Strip) height() int {
	lines := (len(s.legend()) + legendCols - 1) / legendCols
	return 2*lineHeight + s.rows(columns)*cellHeight + lines*lineHeight
}

// draw draws the picture.
func (p *Picture) draw(c canvas) {
	c.rect(0, 0, width, p.height(), paper)
	y := margin
	c.text(margin, y+titleSize, titleSize, ink, false, p.Title)
	y += lineHeight
	for _, s := range p.Strips {
		s.draw(c, y)
		y += s.height()
	}
}

// draw draws a strip below y.
func (s *Strip) draw(c canvas, y int) {
	y += 2 * lineHeight
	c.text(margin, y-8, headSize, ink, false, s.heading())
	for i := range s.rows(columns) {
		c.text(gridLeft-6, y+cellHeight-3, labelSize, faint, true, size(int64(i)*columns*s.cellSize))
		s.drawRow(c, s.row(i, columns), y)
		y += cellHeight
	}
	for i := range min(columns, len(s.cells)) { // lines between the columns
		c.rect(gridLeft+(i+1)*cellWidth-1, y-s.rows(columns)*cellHeight, 1, s.rows(columns)*cellHeight, paper)
	}
	y += 6
	for i, k := range s.legend() {
		x, line := gridLeft+i%legendCols*legendStep, y+i/legendCols*lineHeight
		n := swatch
		if k == Data {
			n = rampWidth
			for i := range n {
				c.rect(x+i, line, 1, swatch, dataColour(int64(i)*levels/int64(n)))
			}
		} else {
			c.rect(x, line, n, swatch, colours[k])
		}
		c.text(x+n+6, line+swatch-1, textSize, ink, false, s.describe(k))
	}
}

// drawRow draws a row of cells. Adjacent cells of one colour become one rectangle.
func (s *Strip) drawRow(c canvas, cells []cell, y int) {
	const h = cellHeight - 1
	uniform := func(c *cell) (color.RGBA, bool) {
		shares := c.shares(h)
		if len(shares) != 1 {
			return color.RGBA{}, false
		}
		return c.colour(shares[0].kind), true
	}
	for i := 0; i < len(cells); {
		x, n := gridLeft+i*cellWidth, 1
		if first, ok := uniform(&cells[i]); ok {
			for i+n < len(cells) {
				if next, ok := uniform(&cells[i+n]); !ok || next != first {
					break
				}
				n++
			}
			c.rect(x, y, n*cellWidth-1, h, first)
		} else {
			bottom := y + h
			for _, sh := range cells[i].shares(h) {
				bottom -= sh.height
				c.rect(x, bottom, cellWidth-1, sh.height, cells[i].colour(sh.kind))
			}
		}
		i += n
	}
}

// colour returns the colour of a kind in the cell.
func (c *cell) colour(k Kind) color.RGBA {
	if k == Data {
		return dataColour(c.level())
	}
	return colours[k]
}

// SVG writes the picture as SVG.
func (p *Picture) SVG(w io.Writer) error {
	b := bufio.NewWriter(w)
	s := svg.New(b)
	s.Start(width, p.height(), fmt.Sprintf(`viewBox="0 0 %d %d" font-family="sans-serif"`, width, p.height()))
	s.Title(p.Title)
	p.draw(svgCanvas{s})
	s.End()
	return b.Flush()
}

type svgCanvas struct{ s *svg.SVG }

func (v svgCanvas) rect(x, y, w, h int, c color.RGBA) {
	v.s.Rect(x, y, w, h, fmt.Sprintf(`fill="%s"`, hex(c)))
}

func (v svgCanvas) text(x, y, size int, c color.RGBA, alignedRight bool, s string) {
	attributes := []string{fmt.Sprintf(`font-size="%d" fill="%s"`, size, hex(c))}
	if alignedRight {
		attributes = append(attributes, `text-anchor="end"`)
	}
	v.s.Text(x, y, s, attributes...)
}

func hex(c color.RGBA) string { return fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B) }

// PNG writes the picture as PNG.
func (p *Picture) PNG(w io.Writer) error {
	c := pngCanvas{image.NewRGBA(image.Rect(0, 0, width, p.height())), map[int]font.Face{}}
	p.draw(c)
	return png.Encode(w, c.img)
}

type pngCanvas struct {
	img   *image.RGBA
	faces map[int]font.Face // by size
}

func (p pngCanvas) rect(x, y, w, h int, c color.RGBA) {
	draw.Draw(p.img, image.Rect(x, y, x+w, y+h), image.NewUniform(c), image.Point{}, draw.Src)
}

func (p pngCanvas) text(x, y, size int, c color.RGBA, alignedRight bool, s string) {
	if p.faces[size] == nil {
		p.faces[size] = truetype.NewFace(goRegular(), &truetype.Options{Size: float64(size)})
	}
	d := font.Drawer{Dst: p.img, Src: image.NewUniform(c), Face: p.faces[size], Dot: fixed.P(x, y)}
	if alignedRight {
		d.Dot.X -= d.MeasureString(s)
	}
	d.DrawString(s)
}

// goRegular is the font of the PNG. It is parsed at its first use.
var goRegular = sync.OnceValue(func() *truetype.Font {
	f, err := truetype.Parse(goregular.TTF)
	if err != nil {
		panic(err) // the font is part of the program
	}
	return f
})
