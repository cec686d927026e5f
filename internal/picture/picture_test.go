package picture

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image/color"
	"image/png"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/dustin/go-humanize"
)

const mib = 1 << 20

// sample has a disk of 64 MiB, with cells of 64 KiB. Its second MiB and its last 32 KiB are data.
// The file of 128 KiB contains every kind.
func sample() *Picture {
	disk := NewStrip("Disk", 64*mib, 64*mib)
	disk.Add(0, mib, Hole, 0)
	disk.Add(mib, mib, Data, mib)
	disk.Add(2*mib, 62*mib-32<<10, Hole, 0)
	disk.Add(64*mib-32<<10, 32<<10, Data, 64*mib-32<<10)
	file := NewStrip("File", 128<<10, 64*mib)
	file.ByPlace = true
	file.Note = "a <note>"
	for i, k := range []Kind{Metadata, Bitmap, Data, Data, Leak, Leak, Leak, Padding} {
		file.Add(int64(i)*16<<10, 16<<10, k, int64(i)*20*mib)
	}
	return &Picture{Title: "x & y", Strips: []*Strip{disk, file}}
}

func TestText(t *testing.T) {
	var got strings.Builder
	if err := sample().Text(&got, 80); err != nil {
		t.Fatal(err)
	}
	line := func(at, cells string) string { return strings.Repeat(" ", 12-len(at)) + at + "  " + cells + "\n" }
	dots := strings.Repeat(".", 64)
	want := "x & y\n\nDisk: 64 MiB, 64 KiB in a cell\n" + line("0 B", strings.Repeat(".", 16)+strings.Repeat("#", 16)+strings.Repeat(".", 32))
	for i := 4; i <= 56; i += 4 {
		want += line(humanize.IBytes(uint64(i)<<20), dots)
	}
	want += line("60 MiB", dots[1:]+"#") +
		"              #+   data: 1.0 MiB, 1.6 %\n              .    holes: 63 MiB, 98.4 %\n" +
		"\nFile: 128 KiB, 512 B in a cell; a <note>\n" +
		line("0 B", strings.Repeat("M", 32)+strings.Repeat("b", 32)) +
		line("32 KiB", strings.Repeat("6", 32)+strings.Repeat("9", 32)) +
		line("64 KiB", strings.Repeat("!", 64)) +
		line("96 KiB", strings.Repeat("!", 32)+strings.Repeat("-", 32)) +
		"              0-9  data: 32 KiB, 25.0 %\n              M    metadata: 16 KiB, 12.5 %\n" +
		"              b    sector bitmaps: 16 KiB, 12.5 %\n              -    padding: 16 KiB, 12.5 %\n" +
		"              !    leaks: 48 KiB, 37.5 %\n"
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

// TestTextWidth: no line is wider than asked for, and all cells are there.
func TestTextWidth(t *testing.T) {
	for _, c := range []struct{ width, cells int }{{40, 24}, {79, 64}, {80, 64}, {100, 80}, {200, 184}} {
		p := sample()
		p.Strips = p.Strips[:1]
		var got strings.Builder
		if err := p.Text(&got, c.width); err != nil {
			t.Fatal(err)
		}
		cells, widest := 0, 0
		for line := range strings.Lines(got.String()) {
			line = strings.TrimSuffix(line, "\n")
			if len(line) > c.width {
				t.Errorf("width %d: line of %d: %s", c.width, len(line), line)
			}
			if len(line) > offsetWidth && line[offsetWidth-2:offsetWidth] == "  " && strings.Trim(line[offsetWidth:], ".#+") == "" {
				cells += len(line) - offsetWidth
				widest = max(widest, len(line)-offsetWidth)
			}
		}
		if cells != 1024 || widest != c.cells {
			t.Errorf("width %d: %d cells in rows of %d, want 1024 in rows of %d", c.width, cells, widest, c.cells)
		}
	}
}

// A drawn is what the test finds in a drawing: its size, the colour of a point,
// and, of SVG, all texts.
type drawn struct {
	width, height int
	at            func(x, y int) color.RGBA
	texts         []string
}

// readSVG returns the rectangles and texts of an SVG. Later ones cover earlier ones.
func readSVG(t *testing.T, b []byte) drawn {
	type rect struct {
		x, y, w, h int
		c          color.RGBA
	}
	var d drawn
	var rects []rect
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for dec := xml.NewDecoder(bytes.NewReader(b)); ; {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the SVG is no XML: %v", err)
		}
		start, ok := tok.(xml.StartElement)
		if !ok {
			continue
		}
		a := map[string]string{}
		for _, x := range start.Attr {
			a[x.Name.Local] = x.Value
		}
		switch start.Name.Local {
		case "svg":
			d.width, d.height = number(a["width"]), number(a["height"])
		case "rect":
			c, err := strconv.ParseUint(strings.TrimPrefix(a["fill"], "#"), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			rects = append(rects, rect{number(a["x"]), number(a["y"]), number(a["width"]), number(a["height"]), color.RGBA{uint8(c >> 16), uint8(c >> 8), uint8(c), 0xff}})
		case "text":
			var s string
			if err := dec.DecodeElement(&s, &start); err != nil {
				t.Fatal(err)
			}
			d.texts = append(d.texts, s)
		}
	}
	d.at = func(x, y int) (c color.RGBA) {
		for _, r := range rects {
			if x >= r.x && x < r.x+r.w && y >= r.y && y < r.y+r.h {
				c = r.c
			}
		}
		return c
	}
	return d
}

func readPNG(t *testing.T, b []byte) drawn {
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	size := img.Bounds().Size()
	return drawn{size.X, size.Y, func(x, y int) color.RGBA {
		return color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)
	}, nil}
}

// TestDrawings decodes SVG and PNG, and compares cells and legends.
func TestDrawings(t *testing.T) {
	p := sample()
	var s, b bytes.Buffer
	if err := errors.Join(p.SVG(&s), p.PNG(&b)); err != nil {
		t.Fatal(err)
	}
	const diskTop = margin + 3*lineHeight
	fileTop := diskTop + p.Strips[0].height()
	for kind, d := range map[string]drawn{"svg": readSVG(t, s.Bytes()), "png": readPNG(t, b.Bytes())} {
		if d.width != width || d.height != p.height() {
			t.Errorf("%s: %d by %d, want %d by %d", kind, d.width, d.height, width, p.height())
		}
		for _, c := range []struct {
			what          string
			top, col, row int
			want          color.RGBA
		}{
			{"hole at the start", diskTop, 0, 0, colours[Hole]},
			{"data of the second MiB", diskTop, 16, 0, dataColour(0)},
			{"its end", diskTop, 31, 0, dataColour(0)},
			{"hole after it", diskTop, 32, 0, colours[Hole]},
			{"the last row", diskTop, 0, 15, colours[Hole]},
			{"metadata", fileTop, 0, 0, colours[Metadata]},
			{"sector bitmaps", fileTop, 63, 0, colours[Bitmap]},
			{"data at 40 MiB of 64", fileTop, 1, 1, dataColour(20)},
			{"data at 60 MiB", fileTop, 63, 1, dataColour(30)},
			{"a leak", fileTop, 5, 2, colours[Leak]},
			{"padding", fileTop, 63, 3, colours[Padding]},
		} {
			if got := d.at(gridLeft+c.col*cellWidth+5, c.top+c.row*cellHeight+6); got != c.want {
				t.Errorf("%s: %s: colour %v, want %v", kind, c.what, got, c.want)
			}
		}
		// The last cell of the disk is half data, from the bottom, half hole.
		x, y := gridLeft+63*cellWidth+5, diskTop+15*cellHeight
		if top, bottom := d.at(x, y+1), d.at(x, y+cellHeight-3); top != colours[Hole] || bottom != dataColour(levels-1) {
			t.Errorf("%s: the half cell is %v over %v", kind, top, bottom)
		}
		// Leaks are the fifth in the legend of the file.
		if got := d.at(gridLeft+legendStep+5, fileTop+4*cellHeight+6+lineHeight+5); got != colours[Leak] {
			t.Errorf("%s: in the legend, leaks are %v", kind, got)
		}
	}
	texts := strings.Join(readSVG(t, s.Bytes()).texts, "\n")
	for _, want := range []string{"x & y", "Disk: 64 MiB, 64 KiB in a cell", "a <note>", "60 MiB", "holes: 63 MiB, 98.4 %", "leaks: 48 KiB, 37.5 %"} {
		if !strings.Contains(texts, want) {
			t.Errorf("the SVG does not say %q:\n%s", want, texts)
		}
	}
	colours := map[color.RGBA]bool{}
	d := readPNG(t, b.Bytes())
	for x := range 200 { // of the title
		for y := margin; y < margin+titleSize; y++ {
			colours[d.at(x, y)] = true
		}
	}
	if len(colours) < 3 {
		t.Error("the PNG has no title")
	}
}

// TestAnySize: the number of cells of a strip is limited, whatever its size, and the cells sum up
// all bytes.
func TestAnySize(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 512, 512 * columns * maxRows, 512*columns*maxRows + 1, 2040 << 30, 1 << 62} {
		s := NewStrip("Disk", size, size)
		s.Add(0, size/3, Data, 0)
		s.Add(size/3, size, Hole, 0) // beyond the end
		if s.total[Data] != size/3 || s.total[Hole] != size-size/3 {
			t.Errorf("%d bytes: totals %v", size, s.total)
		}
		if n := len(s.cells); n > columns*maxRows || size > 512*columns*maxRows && n <= columns*maxRows/2 {
			t.Errorf("%d bytes: %d cells", size, n)
		}
		for i := range s.cells {
			if l := s.cells[i].level(); l < 0 || l >= levels {
				t.Errorf("%d bytes: cell %d has level %d", size, i, l)
			}
		}
		p := Picture{Strips: []*Strip{s}}
		if err := errors.Join(p.Text(io.Discard, 80), p.SVG(io.Discard), p.PNG(io.Discard)); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// TestShares: small shares are visible, and shares fill the cell.
func TestShares(t *testing.T) {
	var c cell
	c.n[Data], c.n[Metadata], c.n[Leak] = 1<<40, 1, 1<<38
	sum := 0
	for _, s := range c.shares(cellHeight - 1) {
		if s.height < 2 {
			t.Errorf("%s has a height of %d", kindNames[s.kind], s.height)
		}
		sum += s.height
	}
	if sum != cellHeight-1 {
		t.Errorf("the shares are %d high, want %d", sum, cellHeight-1)
	}
}

func TestPerCent(t *testing.T) {
	for _, c := range []struct {
		n, of int64
		want  string
	}{{0, 10, "0.0 %"}, {10, 10, "100.0 %"}, {1, 3, "33.3 %"}, {1, 1 << 40, "< 0.1 %"}, {1<<40 - 1, 1 << 40, "> 99.9 %"}} {
		if got := perCent(c.n, c.of); got != c.want {
			t.Errorf("%d of %d is %q, want %q", c.n, c.of, got, c.want)
		}
	}
}

// TestInherited: data of parents has colours and letters by level. All levels further up share
// one.
func TestInherited(t *testing.T) {
	s := NewStrip("Disk", 6*512, 6*512)
	for depth := range 6 {
		s.Add(int64(depth)*512, 512, InheritedFrom(depth), int64(depth)*512)
	}
	var got strings.Builder
	p := Picture{Strips: []*Strip{s}}
	if err := p.Text(&got, 80); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"  #12333\n", "#+   data: 512 B, 16.7 %\n", "1    data of the parent: 512 B, 16.7 %\n", "3    of parents further up: 1.5 KiB, 50.0 %\n"} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("no %q in\n%s", want, got.String())
		}
	}
	seen := map[color.RGBA]bool{dataColour(0): true}
	for k := Inherited; k < kinds; k++ {
		if seen[colours[k]] {
			t.Errorf("%s has the colour of something else", kindNames[k])
		}
		seen[colours[k]] = true
	}
}
