package vhd_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/chain"
)

// chainModel is a chain of images in files, with the expected contents of each disk. The first
// level is a base without a parent.
type chainModel struct {
	dir    string
	made   int
	levels []modelLevel
	open   *vhd.Image // the last level, opened for writing, if it is a differencing image
}

type modelLevel struct {
	file string
	want []byte
	raw  bool
}

func (m *chainModel) leaf() *modelLevel { return &m.levels[len(m.levels)-1] }

func (m *chainModel) name(ext string) string {
	m.made++
	return filepath.Join(m.dir, fmt.Sprintf("%d%s", m.made, ext))
}

func must(t tb, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// scribble writes to a disk and to its expected contents.
func scribble(t *rapid.T, d convert.Target, want []byte) {
	for range rapid.IntRange(0, 6).Draw(t, "writes") {
		off := rapid.IntRange(0, len(want)-1).Draw(t, "off")
		if rapid.Bool().Draw(t, "whole sectors") {
			off = off / sector * sector
		}
		n := min(rapid.OneOf(rapid.IntRange(1, 1500), rapid.IntRange(1, 20*kib)).Draw(t, "n"), len(want)-off)
		if rapid.IntRange(0, 3).Draw(t, "zeros") == 0 {
			must(t, d.(disk.Zeroer).WriteZeroes(int64(off), int64(n)))
			clear(want[off : off+n])
			continue
		}
		p := pattern(n, rapid.Byte().Draw(t, "seed"))
		write(t, d, p, int64(off))
		copy(want[off:], p)
	}
}

// base makes the first level: raw, fixed or dynamic.
func (m *chainModel) base(t *rapid.T) {
	size := sector * rapid.IntRange(1, 200).Draw(t, "sectors")
	want := make([]byte, size)
	kind := rapid.SampledFrom([]string{"raw", "fixed", "dynamic"}).Draw(t, "base")
	if kind == "raw" {
		name := m.name(".raw")
		f, err := os.Create(name)
		must(t, err)
		d, err := raw.Create(f, int64(size))
		must(t, err)
		scribble(t, d, want)
		must(t, d.Close())
		m.levels = []modelLevel{{name, want, true}}
		return
	}
	o := &vhd.CreateOptions{Type: vhd.Fixed, Size: int64(size), Exact: true}
	if kind == "dynamic" {
		o.Type, o.BlockSize = vhd.Dynamic, drawBlockSize(t)
	}
	name := m.name(".vhd")
	img, err := vhd.Create(name, o)
	must(t, err)
	scribble(t, img, want)
	must(t, img.Close())
	m.levels = []modelLevel{{name, want, false}}
}

func drawBlockSize(t *rapid.T) int64 {
	return int64(rapid.SampledFrom([]int{4 * kib, 8 * kib, 64 * kib, 4 * mib}).Draw(t, "block size"))
}

// parent opens the last level for reading.
func (m *chainModel) parent(t tb) disk.Disk {
	t.Helper()
	l := m.leaf()
	if l.raw {
		d, _, err := disk.Open(l.file, disk.Formats{&raw.Format}, nil)
		must(t, err)
		return d
	}
	img, err := vhd.Open(l.file, nil)
	must(t, err)
	return img
}

// push makes a child of the last level.
func (m *chainModel) push(t *rapid.T) {
	m.close(t)
	parent := m.parent(t)
	want := slices.Clone(m.leaf().want)
	o := &vhd.CreateOptions{Parent: parent, BlockSize: drawBlockSize(t)}
	if rapid.IntRange(0, 3).Draw(t, "larger") == 0 {
		want = append(want, make([]byte, sector*rapid.IntRange(1, 50).Draw(t, "sectors more"))...)
		o.Size = int64(len(want))
	}
	name := m.name(".vhd")
	var err error
	spelling := rapid.SampledFrom([]vhd.PathStyle{vhd.PathsAll, vhd.PathsWindows, vhd.PathsXen}).Draw(t, "spelling")
	o.ParentRecord, err = vhd.ParentRecordOf(name, m.leaf().file, parent, spelling)
	must(t, err)
	img, err := vhd.Create(name, o)
	must(t, err)
	scribble(t, img, want)
	must(t, img.Close())
	m.levels = append(m.levels, modelLevel{name, want, false})
}

// writable opens the last level, if it is a differencing image.
func (m *chainModel) writable(t tb) *vhd.Image {
	t.Helper()
	if len(m.levels) < 2 {
		return nil
	}
	if m.open == nil {
		var err error
		m.open, err = vhd.Open(m.leaf().file, &vhd.OpenOptions{Write: true})
		must(t, err)
	}
	return m.open
}

func (m *chainModel) close(t tb) {
	t.Helper()
	if m.open != nil {
		must(t, m.open.Close())
		m.open = nil
	}
}

func (m *chainModel) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"": func(t *rapid.T) { // after each of the others
			if img := m.writable(t); img != nil {
				sameBytes(t, "contents", readAll(t, img), m.leaf().want)
			}
		},
		"child": func(t *rapid.T) {
			if len(m.levels) <= 5 {
				m.push(t)
			}
		},
		"write": func(t *rapid.T) {
			if img := m.writable(t); img != nil {
				scribble(t, img, m.leaf().want)
			}
		},
		"sync": func(t *rapid.T) {
			if img := m.writable(t); img != nil {
				syncImage(t, img)
			}
		},
		"reserve": func(t *rapid.T) {
			if img := m.writable(t); img != nil {
				off := rapid.IntRange(0, len(m.leaf().want)).Draw(t, "off")
				must(t, img.Reserve(int64(off), int64(min(100, len(m.leaf().want)-off))))
			}
		},
		"extents": func(t *rapid.T) {
			if img := m.writable(t); img != nil {
				checkExtents(t, img, m.leaf().want, 0, len(m.leaf().want))
			}
		},
		"read a part": func(t *rapid.T) {
			img := m.writable(t)
			if img == nil {
				return
			}
			want := m.leaf().want
			off := rapid.IntRange(0, len(want)).Draw(t, "off")
			p := make([]byte, rapid.IntRange(0, len(want)-off).Draw(t, "n"))
			if n, err := img.ReadAt(p, int64(off)); n != len(p) || err != nil && err != io.EOF {
				t.Fatalf("ReadAt: %d, %v", n, err)
			}
			sameBytes(t, "a part", p, want[off:off+len(p)])
		},
		"grow": func(t *rapid.T) {
			img := m.writable(t)
			if img == nil || rapid.IntRange(0, 2).Draw(t, "not so often") > 0 {
				return
			}
			l := m.leaf()
			l.want = append(l.want, make([]byte, sector*rapid.IntRange(1, 100).Draw(t, "sectors more"))...)
			must(t, img.Resize(context.Background(), int64(len(l.want)), nil))
		},
		"commit": func(t *rapid.T) {
			m.close(t)
			if len(m.levels) > 1 {
				m.commit(t)
			}
		},
		"rebase": func(t *rapid.T) {
			if m.writable(t) != nil {
				m.rebase(t)
			}
		},
	}
}

// commit merges the last level into one of its parents, and drops the levels between.
func (m *chainModel) commit(t *rapid.T) {
	at := rapid.IntRange(0, len(m.levels)-2).Draw(t, "into")
	o := &chain.CommitOptions{Keep: rapid.Bool().Draw(t, "keep the blocks")}
	direct := at == len(m.levels)-2
	if !direct || rapid.Bool().Draw(t, "name the parent") {
		o.Base = m.levels[at].file
	}
	must(t, chain.Commit(context.Background(), m.leaf().file, o))
	if direct {
		leaf, err := vhd.Open(m.leaf().file, nil)
		must(t, err)
		sameBytes(t, "contents of the leaf", readAll(t, leaf), m.leaf().want)
		if _, n := leaf.BlockCounts(); n > 0 && !o.Keep && o.Base == "" {
			t.Errorf("the leaf has %d blocks, want none", n)
		}
		must(t, leaf.Close())
	}
	m.levels[at].want = m.leaf().want
	m.levels = m.levels[:at+1]
}

// rebase gives the last level a parent further down, or none.
func (m *chainModel) rebase(t *rapid.T) {
	m.close(t)
	l := *m.leaf()
	at := rapid.IntRange(-1, len(m.levels)-2).Draw(t, "onto")
	o := &chain.RebaseOptions{}
	if at >= 0 {
		o.Parent, o.Raw = m.levels[at].file, m.levels[at].raw
		o.Paths = rapid.SampledFrom([]*vhd.PathStyle{nil, &vhd.PathsAll, &vhd.PathsWindows, &vhd.PathsXen}).Draw(t, "spelling")
	}
	must(t, chain.Rebase(context.Background(), l.file, o))
	if at < 0 {
		img, err := vhd.Open(l.file, nil)
		must(t, err)
		sameBytes(t, "contents without a parent", readAll(t, img), l.want)
		must(t, img.Close())
		m.levels = []modelLevel{l}
		return
	}
	m.levels = append(m.levels[:at+1:at+1], l)
}

// finish checks every level through the paths in the files.
func (m *chainModel) finish(t *rapid.T) {
	m.close(t)
	for i, l := range m.levels {
		if l.raw {
			continue
		}
		img, err := vhd.Open(l.file, nil)
		must(t, err)
		sameBytes(t, fmt.Sprintf("level %d", i), readAll(t, img), l.want)
		checkExtents(t, img, l.want, 0, len(l.want))
		must(t, img.Close())
	}
	f, size, err := disk.OpenFile(m.leaf().file, false, nil)
	must(t, err)
	defer f.Close()
	if m.leaf().raw {
		return
	}
	counts, err := checkImage(f, size, &vhd.CheckOptions{Chain: true, Deep: true}, func(f vhd.Finding) {
		if f.Severity == vhd.Error {
			t.Errorf("check: %s%s: %v", f.File, f.ID, f)
		}
	})
	must(t, err)
	if counts.Errors > 0 {
		t.Errorf("%d errors", counts.Errors)
	}
}

// Random operations on a chain of images keep the disk of each equal to a slice of bytes.
func TestChainModel(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		m := &chainModel{dir: dir}
		defer func() {
			if m.open != nil {
				m.open.Close()
			}
		}()
		m.base(t)
		for range rapid.IntRange(1, 5).Draw(t, "children") {
			m.push(t)
		}
		t.Repeat(m.actions())
		m.finish(t)
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		must(t, err)
		for _, name := range left {
			must(t, os.Remove(name))
		}
	})
}
