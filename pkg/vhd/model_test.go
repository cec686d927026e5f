package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// model is an image in a file and its expected contents.
type model struct {
	path string
	img  *vhd.Image
	want []byte
	unit int // block size, or a similar unit for fixed disks

	fresh   bool // new and not complete
	resized bool
}

// startModel makes a new image, or uses one of another program with partial blocks.
func startModel(t *rapid.T, path string, units []int, blocks int) *model {
	m := &model{path: path, unit: rapid.SampledFrom(units).Draw(t, "block size")}
	size := m.unit*rapid.IntRange(1, blocks).Draw(t, "blocks") - sector*rapid.IntRange(0, 7).Draw(t, "sectors less")
	kind := rapid.SampledFrom([]string{"dynamic", "partial", "fixed"}).Draw(t, "kind")
	if kind == "partial" {
		c := craft{size: int64(size), blockSize: int64(m.unit)}
		m.want = make([]byte, size)
		at := int64(1536+512) / sector
		for i := 0; i*m.unit < size; i += 2 {
			b := block{entry: i, sector: at, bitmap: make([]byte, bitmapBytes(int64(m.unit))), data: pattern(m.unit, byte(i))}
			for s := range m.unit / sector {
				if (s/3+i)%2 == 0 { // three sectors written, three not, ...
					b.bitmap[s/8] |= 0x80 >> (s % 8)
					if at := i*m.unit + s*sector; at < size {
						copy(m.want[at:], b.data[s*sector:(s+1)*sector])
					}
				}
			}
			c.blocks = append(c.blocks, b)
			at += (int64(m.unit) + bitmapBytes(int64(m.unit))) / sector
		}
		writeFile(t, path, c.bytes())
		m.open(t)
		return m
	}
	o := &vhd.CreateOptions{Size: int64(size), Exact: true, BlockSize: int64(m.unit)}
	if kind == "fixed" {
		o.Type, o.BlockSize = vhd.Fixed, 0
	}
	var err error
	if m.img, err = vhd.Create(path, o); err != nil {
		t.Fatal(err)
	}
	m.want, m.fresh = make([]byte, size), true
	return m
}

func (m *model) open(t *rapid.T) {
	var err error
	if m.img, err = vhd.Open(m.path, &vhd.OpenOptions{Write: true}); err != nil {
		t.Fatal(err)
	}
	if m.img.Size() != int64(len(m.want)) {
		t.Fatalf("size %d, want %d", m.img.Size(), len(m.want))
	}
}

// drawRange draws a range of the disk, often near the edge of a block.
func (m *model) drawRange(t *rapid.T) (off, n int) {
	off = rapid.IntRange(0, len(m.want)).Draw(t, "off")
	if rapid.Bool().Draw(t, "at an edge") {
		edge := off/m.unit*m.unit + rapid.IntRange(-2, 2).Draw(t, "sectors beside it")*sector
		off = min(max(edge, 0), len(m.want))
	}
	n = rapid.OneOf(rapid.IntRange(0, 1500), rapid.IntRange(0, m.unit*3/2)).Draw(t, "n")
	return off, min(n, len(m.want)-off)
}

func (m *model) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"ReadAt": func(t *rapid.T) {
			off, n := m.drawRange(t)
			p := make([]byte, n)
			k, err := m.img.ReadAt(p, int64(off))
			if k != n || err != nil && (err != io.EOF || off+n < len(m.want)) {
				t.Fatalf("ReadAt of %d bytes at %d: %d, %v", n, off, k, err)
			}
			sameBytes(t, "ReadAt", p, m.want[off:off+n])
		},
		"WriteAt": func(t *rapid.T) {
			off, n := m.drawRange(t)
			p := pattern(n, rapid.Byte().Draw(t, "seed"))
			write(t, m.img, p, int64(off))
			copy(m.want[off:], p)
		},
		"WriteZeroes": func(t *rapid.T) {
			off, n := m.drawRange(t)
			_, before := m.img.BlockCounts()
			if err := m.img.WriteZeroes(int64(off), int64(n)); err != nil {
				t.Fatal(err)
			}
			if _, after := m.img.BlockCounts(); after != before {
				t.Fatalf("zeros have made %d blocks %d", before, after)
			}
			clear(m.want[off : off+n])
		},
		"Reserve": func(t *rapid.T) {
			off, n := m.drawRange(t)
			if err := m.img.Reserve(int64(off), int64(n)); err != nil {
				t.Fatal(err)
			}
			for e, err := range m.img.Extents(int64(off), int64(n)) {
				if err != nil || e.State == disk.Unallocated && m.img.Type() == vhd.Dynamic {
					t.Fatalf("reserved, and still %+v, %v", e, err)
				}
			}
		},
		"Sync": func(t *rapid.T) {
			m.fresh = false
			if err := m.img.Sync(); err != nil {
				t.Fatal(err)
			}
		},
		"reopen": func(t *rapid.T) {
			if err := m.img.Close(); err != nil {
				t.Fatal(err)
			}
			m.fresh = false
			m.open(t)
		},
		"Resize": func(t *rapid.T) {
			if rapid.IntRange(0, 3).Draw(t, "not so often") > 0 {
				return
			}
			n := rapid.IntRange(0, 4*m.unit).Draw(t, "size") / sector * sector
			switch err := m.img.Resize(context.Background(), int64(n), nil); {
			case errors.Is(err, vhd.ErrUnsupported) && m.fresh && n < len(m.want):
				return // a new image keeps its size
			case err != nil:
				t.Fatal(err)
			}
			m.resized = true
			if m.img.Size() != int64(n) {
				t.Fatalf("size %d, want %d", m.img.Size(), n)
			}
			m.want = append(m.want[:min(n, len(m.want))], make([]byte, max(0, n-len(m.want)))...)
		},
		"Extents": func(t *rapid.T) {
			off, n := m.drawRange(t)
			checkExtents(t, m.img, m.want, off, n)
		},
	}
}

// checkExtents checks that the extents of [off, off+n) are in order, without gaps, merged, and
// true.
func checkExtents(t tb, img disk.Disk, want []byte, off, n int) {
	t.Helper()
	at := int64(off)
	var last disk.Extent
	for e, err := range img.Extents(int64(off), int64(n)) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Off != at || e.Len <= 0 || e.End() > int64(off+n) {
			t.Fatalf("extent %+v, want one that starts at %d and ends at %d or before", e, at, off+n)
		}
		if last.Len > 0 && e.State == last.State && e.Depth == last.Depth && e.File == last.File && (e.File == nil || last.FileOff+last.Len == e.FileOff) {
			t.Fatalf("extents %+v and %+v are one", last, e)
		}
		at, last = e.End(), e
		bytesWant := want[e.Off:e.End()]
		if e.State != disk.Data {
			sameBytes(t, e.State.String()+" extent", make([]byte, e.Len), bytesWant)
		} else if e.File == nil {
			t.Fatalf("data extent %+v has no file", e)
		}
		if e.State == disk.Data {
			got := make([]byte, e.Len)
			if k, err := e.File.ReadAt(got, e.FileOff); int64(k) != e.Len {
				t.Fatalf("extent %+v: read of its file: %d, %v", e, k, err)
			}
			sameBytes(t, "extent in the file", got, bytesWant)
		}
	}
	if at != int64(off+n) {
		t.Fatalf("extents end at %d, want %d", at, off+n)
	}
}

// finish closes the image and checks the file.
func (m *model) finish(t *rapid.T) {
	sameBytes(t, "contents", readAll(t, m.img), m.want)
	checkExtents(t, m.img, m.want, 0, len(m.want))
	if err := m.img.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(m.path)
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "contents after closing", readAll(t, openBytes(t, b, nil)), m.want)
	_, err = checkImage(bytes.NewReader(b), int64(len(b)), nil, func(f vhd.Finding) {
		// A table that has moved may leave a range as large as a small block. A disk may have
		// been shrunk to size 0.
		expected := f.ID == "leak" && m.resized || f.ID == "current-size" && len(m.want) == 0
		if f.Severity != vhd.Warning && !expected {
			t.Errorf("check: %v: %s: %v", f.Severity, f.ID, f)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(m.path); err != nil {
		t.Fatal(err)
	}
}

// Random operations keep an image equal to a slice of bytes.
func TestModel(t *testing.T) {
	for _, c := range []struct {
		name   string
		units  []int
		blocks int
	}{
		{"small blocks", []int{4 * kib, 8 * kib, 64 * kib}, 5},
		{"large blocks", []int{512 * kib, 512 * kib, 2 * mib}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.vhd")
			rapid.Check(t, func(t *rapid.T) {
				m := startModel(t, path, c.units, c.blocks)
				t.Repeat(m.actions())
				m.finish(t)
			})
		})
	}
}
