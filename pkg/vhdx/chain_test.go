package vhdx_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhdx"
)

func linkage(b byte) string {
	x := strings.Repeat(string("0123456789abcdef"[b>>4])+string("0123456789abcdef"[b&15]), 16)
	return "{" + x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:] + "}"
}

// parentImage is a disk of four blocks of "p".
func parentImage() *sparse {
	entries := map[int64]uint64{}
	for i := range int64(4) {
		entries[i] = uint64(4+i)*mib | 6
	}
	s := craft{size: 4 * mib, entries: entries, dataWrite: 0xa1}.image()
	s.fill(4*mib, 4*mib, 'p')
	return s
}

// childImage is a child of parentImage with a block in each state, and five blocks.
func childImage(sector uint32, locator map[string]string) *sparse {
	ratio := int64(1<<23) * int64(sector) / mib
	s := craft{
		size: 5 * mib, sector: sector, flags: 2, locator: locator, dataWrite: 0xc1,
		entries: map[int64]uint64{0: 5*mib | 6, 1: 6*mib | 7, 2: 2, ratio: 4*mib | 6},
	}.image()
	s.fill(5*mib, 2*mib, 'c')
	// Sectors 0, 1, 9 and the last of block 1 are in the child. The lowest bit comes first.
	bits := int64(4*mib) + mib/int64(sector)/8
	s.put(bits, 0b11, 0b10)
	s.put(bits+mib/int64(sector)/8-1, 0x80)
	return s
}

func childContents(sector int) []byte {
	want := bytes.Repeat([]byte{'p'}, 5*mib)
	copy(want, bytes.Repeat([]byte{'c'}, mib))
	for _, x := range []int{0, 1, 9, mib/sector - 1} {
		copy(want[mib+x*sector:], bytes.Repeat([]byte{'c'}, sector))
	}
	clear(want[2*mib : 3*mib])
	clear(want[4*mib:])
	return want
}

// TestChild: each state of a block of a differencing disk, for both sector sizes.
func TestChild(t *testing.T) {
	for _, sector := range []uint32{512, 4096} {
		dir := t.TempDir()
		parentImage().file(t, filepath.Join(dir, "parent.vhdx"))
		name := childImage(sector, map[string]string{"parent_linkage": linkage(0xa1), "relative_path": `.\parent.vhdx`, "absolute_win32_path": `C:\x\parent.vhdx`}).file(t, filepath.Join(dir, "child.vhdx"))
		img, err := vhdx.Open(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(contents(t, img), childContents(int(sector))) {
			t.Errorf("sectors of %d bytes: the contents are wrong", sector)
		}
		depths := map[int]bool{}
		for e := range img.Extents(0, img.Size()) {
			depths[e.Depth] = true
		}
		if len(depths) != 2 || !depths[1] {
			t.Errorf("depths %v, want 0 and 1", depths)
		}
		if img.Subformat() != "differencing" || img.ParentPath() != filepath.Join(dir, "parent.vhdx") {
			t.Errorf("%s with the parent %s", img.Subformat(), img.ParentPath())
		}
		if path, ok := img.RecordedParent(); path != `.\parent.vhdx` || !ok {
			t.Errorf("recorded parent %q, %v", path, ok)
		}
		if got := len(img.ParentFindings()); (sector == 4096) != (got == 1) {
			t.Errorf("sectors of %d bytes: %d findings about the parent", sector, got)
		}
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestWithoutParent: data of the parent is not read as zeros.
func TestWithoutParent(t *testing.T) {
	img := mustOpen(t, childImage(512, map[string]string{"parent_linkage": linkage(0xa1)}))
	p := make([]byte, 512)
	if _, err := img.ReadAt(p, 0); err != nil || p[0] != 'c' {
		t.Errorf("own block: %q, %v", p[0], err)
	}
	for _, off := range []int64{mib + 1024, 3 * mib} {
		if _, err := img.ReadAt(p, off); !errors.Is(err, vhdx.ErrNoParent) {
			t.Errorf("read at %d: %v, want ErrNoParent", off, err)
		}
	}
	var last error
	for _, err := range img.Extents(0, img.Size()) {
		last = err
	}
	if !errors.Is(last, vhdx.ErrNoParent) {
		t.Errorf("extents: %v, want ErrNoParent", last)
	}
}

// TestParentSearch: an image leads only to files in its directory and below it, unless the caller
// permits more.
func TestParentSearch(t *testing.T) {
	type dirs struct{ child, other string }
	for name, c := range map[string]struct {
		locator map[string]string
		options func(d dirs) disk.ParentSearch
		parent  func(d dirs) string // "" for none
		want    error
	}{
		"beside the child": {
			locator: map[string]string{"relative_path": `parent.vhdx`},
			parent:  func(d dirs) string { return filepath.Join(d.child, "parent.vhdx") },
		},
		"below the child": {
			locator: map[string]string{"relative_path": `sub\parent.vhdx`},
			parent:  func(d dirs) string { return filepath.Join(d.child, "sub", "parent.vhdx") },
		},
		"by the name of a path of Windows": {
			locator: map[string]string{"absolute_win32_path": `D:\disks\parent.vhdx`},
			parent:  func(d dirs) string { return filepath.Join(d.child, "parent.vhdx") },
		},
		"by the second linkage": {
			locator: map[string]string{"relative_path": `parent.vhdx`, "parent_linkage": linkage(0x77), "parent_linkage2": linkage(0xa1)},
			parent:  func(d dirs) string { return filepath.Join(d.child, "parent.vhdx") },
		},
		"elsewhere": {
			locator: map[string]string{"relative_path": `..\other\parent.vhdx`},
			parent:  func(d dirs) string { return filepath.Join(d.other, "parent.vhdx") },
			want:    vhdx.ErrParentNotFound,
		},
		"elsewhere, trusted": {
			locator: map[string]string{"relative_path": `..\other\parent.vhdx`},
			options: func(dirs) disk.ParentSearch { return disk.ParentSearch{Trust: true} },
			parent:  func(d dirs) string { return filepath.Join(d.other, "parent.vhdx") },
		},
		"elsewhere, given": {
			locator: map[string]string{},
			options: func(d dirs) disk.ParentSearch {
				return disk.ParentSearch{Files: []string{filepath.Join(d.other, "parent.vhdx")}}
			},
			parent: func(d dirs) string { return filepath.Join(d.other, "parent.vhdx") },
		},
		"in a directory of the caller, renamed": {
			locator: map[string]string{"relative_path": `old.vhdx`},
			options: func(d dirs) disk.ParentSearch { return disk.ParentSearch{Dirs: []string{d.other}} },
			parent:  func(d dirs) string { return filepath.Join(d.other, "parent.vhdx") },
		},
		"another machine": {
			locator: map[string]string{"relative_path": `\\server\share\other.vhdx`},
			options: func(dirs) disk.ParentSearch { return disk.ParentSearch{Trust: true} },
			parent:  func(d dirs) string { return filepath.Join(d.child, "parent.vhdx") },
			want:    vhdx.ErrParentNotFound,
		},
		"another image": {
			locator: map[string]string{"relative_path": `parent.vhdx`, "parent_linkage": linkage(0x77)},
			parent:  func(d dirs) string { return filepath.Join(d.child, "parent.vhdx") },
			want:    vhdx.ErrParentMismatch,
		},
		"itself": {
			locator: map[string]string{"relative_path": `child.vhdx`, "parent_linkage": linkage(0xc1)},
			parent:  func(d dirs) string { return filepath.Join(d.child, "parent.vhdx") },
			want:    vhdx.ErrParentLoop,
		},
		"no path": {
			locator: map[string]string{},
			parent:  func(d dirs) string { return filepath.Join(d.child, "parent.vhdx") },
			want:    vhdx.ErrParentNotFound,
		},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			d := dirs{filepath.Join(top, "child"), filepath.Join(top, "other")}
			for _, dir := range []string{filepath.Join(d.child, "sub"), d.other} {
				if err := os.MkdirAll(dir, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			parentImage().file(t, c.parent(d))
			locator := map[string]string{"parent_linkage": linkage(0xa1)}
			for k, v := range c.locator {
				locator[k] = v
			}
			child := childImage(512, locator).file(t, filepath.Join(d.child, "child.vhdx"))
			o := &vhdx.OpenOptions{}
			if c.options != nil {
				o.Parents = c.options(d)
			}
			img, err := vhdx.Open(child, o)
			if c.want != nil {
				var pe *vhdx.ParentError
				if !errors.Is(err, c.want) || !errors.As(err, &pe) {
					t.Fatalf("%v, want a ParentError with %v", err, c.want)
				}
				o.Parents.Partial = true
				img, err = vhdx.Open(child, o)
				if err != nil {
					t.Fatal(err)
				}
				defer img.Close()
				if img.Parent() != nil || !errors.Is(img.ParentErr(), c.want) {
					t.Errorf("parent %v, %v; want none, and %v", img.Parent(), img.ParentErr(), c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			if img.ParentPath() != c.parent(d) && filepath.Clean(img.ParentPath()) != c.parent(d) {
				t.Errorf("parent %s, want %s", img.ParentPath(), c.parent(d))
			}
			if !bytes.Equal(contents(t, img), childContents(512)) {
				t.Error("the contents are wrong")
			}
		})
	}
}

// TestLongChain: the parents of parents are opened, and a loop among them ends.
func TestLongChain(t *testing.T) {
	dir := t.TempDir()
	parentImage().file(t, filepath.Join(dir, "parent.vhdx"))
	childImage(512, map[string]string{"parent_linkage": linkage(0xa1), "relative_path": "parent.vhdx"}).file(t, filepath.Join(dir, "child.vhdx"))
	grandchild := func(parent string, id byte) string {
		return craft{
			size: 5 * mib, flags: 2, dataWrite: 0xe1,
			locator: map[string]string{"parent_linkage": linkage(id), "relative_path": parent},
		}.image().file(t, filepath.Join(dir, "grandchild.vhdx"))
	}
	img, err := vhdx.Open(grandchild("child.vhdx", 0xc1), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if !bytes.Equal(contents(t, img), childContents(512)) {
		t.Error("the contents are wrong")
	}
	// The child now has the grandchild as its parent.
	childImage(512, map[string]string{"parent_linkage": linkage(0xe1), "relative_path": "grandchild.vhdx"}).file(t, filepath.Join(dir, "child.vhdx"))
	if _, err := vhdx.Open(filepath.Join(dir, "grandchild.vhdx"), nil); !errors.Is(err, vhdx.ErrParentLoop) {
		t.Errorf("a loop: %v, want ErrParentLoop", err)
	}
}

// TestCheckChain: the check of a chain reports faults of parents with their path.
func TestCheckChain(t *testing.T) {
	dir := t.TempDir()
	child := childImage(512, map[string]string{"parent_linkage": linkage(0xa1), "relative_path": "parent.vhdx"}).file(t, filepath.Join(dir, "child.vhdx"))
	check := func() (ids []string) {
		f, err := os.Open(child)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		size, err := disk.FileSize(f)
		if err != nil {
			t.Fatal(err)
		}
		c := vhdx.NewChecker(f, size, &vhdx.CheckOptions{Chain: true})
		for f, err := range c.Findings(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, f.ID+" "+filepath.Base(f.File))
		}
		return ids
	}
	if ids := check(); len(ids) != 1 || ids[0] != "parent-missing ." {
		t.Errorf("without the parent: %q", ids)
	}
	p := parentImage()
	p.put64(batAt+8, 4*mib|6)
	p.file(t, filepath.Join(dir, "parent.vhdx"))
	if ids := check(); len(ids) != 2 || ids[0] != "bat-overlap parent.vhdx" || ids[1] != "leak parent.vhdx" {
		t.Errorf("with a damaged parent: %q", ids)
	}
}
