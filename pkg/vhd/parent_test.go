package vhd_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// An image that XenServer has encrypted cannot be read, also not through a child.
func TestEncryptedParent(t *testing.T) {
	dir := t.TempDir()
	parent := xenImage(craft{size: 16 * kib, footer: []edit{text(68, parentID)}, blocks: []block{{0, 4, nil, pattern(4*kib, 1)}}})
	child := childOf(parentID, "", path{code: "W2ru", text: wide("p.vhd")})
	name := filepath.Join(dir, "child.vhd")
	for _, encrypted := range []bool{false, true} {
		if encrypted {
			parent[2048+29] = 1 // in the header of the batmap
		}
		tree(t, dir, map[string][]byte{"child.vhd": child, "p.vhd": parent})
		given := openBytes(t, parent, &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
		for way, open := range map[string]func() (*vhd.Image, error){
			"found": func() (*vhd.Image, error) { return vhd.Open(name, nil) },
			"named": func() (*vhd.Image, error) {
				return vhd.Open(name, &vhd.OpenOptions{Parents: disk.ParentSearch{Files: []string{filepath.Join(dir, "p.vhd")}}})
			},
			"given": func() (*vhd.Image, error) { return vhd.Open(name, &vhd.OpenOptions{Parent: given}) },
		} {
			img, err := open()
			if err == nil {
				img.Close()
			}
			if refused := errors.Is(err, vhd.ErrUnsupported) && strings.Contains(err.Error(), "encrypted"); refused != encrypted || !encrypted && err != nil {
				t.Errorf("parent that is %s, encrypted: %t: %v", way, encrypted, err)
			}
		}
	}
}

// The size of the parent is that of its geometry or its current size, whichever the child
// needs: different programs may have made the two.
func TestParentSizedForChild(t *testing.T) {
	// Virtual PC's geometry of 160 sectors (80 KiB) spans 136 (68 KiB).
	spec, other := geometry(2, 4, 17), geometry(1, 4, 17)
	for _, c := range []struct {
		name     string
		child    int64
		current  int // of the parent
		geometry edit
		want     int // the parent's size in the child
	}{
		{"geometry smaller than the child, current size as large", 80 * kib, 80 * kib, spec, 80 * kib},
		{"geometry smaller than the child, current size larger", 72 * kib, 80 * kib, spec, 80 * kib},
		{"geometry as large as the child, current size larger", 68 * kib, 80 * kib, spec, 68 * kib},
		{"geometry that Virtual PC does not write", 16 * kib, 80 * kib, other, 80 * kib},
		{"both smaller than the child", 96 * kib, 80 * kib, spec, 68 * kib},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			contents := pattern(c.current, 1)
			tree(t, dir, map[string][]byte{
				"child.vhd": childOfSize(c.child, parentID, "", path{code: "W2ru", text: wide("p.vhd")}),
				"p.vhd":     fixedImage(contents, text(68, parentID), creator("vpc "), c.geometry),
			})
			img, err := vhd.Open(filepath.Join(dir, "child.vhd"), nil)
			must(t, err)
			defer img.Close()
			if got := img.Parent().Size(); got != int64(c.want) {
				t.Errorf("the parent has %d bytes, want %d", got, c.want)
			}
			want := make([]byte, c.child)
			copy(want, contents[:c.want])
			sameBytes(t, "contents", readAll(t, img), childDisk(want))
		})
	}
}

// A path from an image cannot control a terminal when an error prints it.
func TestErrorsQuotePaths(t *testing.T) {
	const name = "p\x1b[2J\n.vhd"
	dir := t.TempDir()
	child := filepath.Join(dir, "child.vhd")
	files := map[string][]byte{"child.vhd": childOf(parentID, "", path{code: "W2ru", text: wide(name)})}
	wants := func(text string) {
		t.Helper()
		_, err := vhd.Open(child, nil)
		if !errors.Is(err, vhd.ErrParentNotFound) || strings.ContainsAny(err.Error(), "\x1b\n") || !strings.Contains(err.Error(), text+strconv.Quote(filepath.Join(dir, name))) {
			t.Errorf("%q; want the path quoted, after %q", err, text)
		}
	}
	tree(t, dir, files)
	wants("tried ")
	if runtime.GOOS == "windows" {
		return // it has no files with such names
	}
	// The same for the name of a parent whose own parent is missing.
	files["child.vhd"] = childOf("id of this child", "", path{code: "W2ru", text: wide(name)})
	own := childOf(parentID, "gone.vhd")
	for _, b := range [][]byte{files["child.vhd"][:512], files["child.vhd"][len(files["child.vhd"])-512:]} {
		text(68, "id of the leaf..")(b)
		sum(b, 64)
	}
	files[name] = own
	tree(t, dir, files)
	wants(", the parent of ")
}

// Paths are stored in images as Unicode. Other paths are refused if the child needs them, and
// otherwise omitted.
func TestParentNameNotUTF8(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("file names are Unicode here")
	}
	parent := openBytes(t, fixedImage(pattern(16*kib, 1)), nil)
	for i, s := range []vhd.PathStyle{vhd.PathsAll, vhd.PathsWindows, vhd.PathsXen} {
		dir := filepath.Join(t.TempDir(), "folder\xff")
		tree(t, dir, map[string][]byte{"p.vhd": nil, "p\xff.vhd": nil, "sub\xff/p.vhd": nil})
		for name, want := range map[string]string{
			"p.vhd": "", "p\xff.vhd": `"p\xff.vhd": a path that is not UTF-8`, "sub\xff/p.vhd": `"sub\xff/p.vhd": a path that is not UTF-8`,
		} {
			p, err := vhd.ParentRecordOf(filepath.Join(dir, "child.vhd"), filepath.Join(dir, name), parent, s)
			switch {
			case want != "":
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("style %d: %q: %v, want %s", i, name, err, want)
				}
				continue
			case err != nil:
				t.Errorf("style %d: %q: %v", i, name, err)
			case len(p.Locators) == 0 || p.Locators[0] != (vhd.Locator{Code: "W2ru", Path: `.\p.vhd`}):
				t.Errorf("style %d: locators %q, want a relative one first", i, p.Locators)
			}
			for _, l := range p.Locators {
				if strings.Contains(l.Path, "folder") || strings.Contains(l.Path, "%FF") {
					t.Errorf("style %d: the path %q leads through a directory whose name is not UTF-8", i, l.Path)
				}
			}
		}
	}
}

// A parent that the caller opens has the same limit of parents as one that is found.
func TestGivenParentTooDeep(t *testing.T) {
	var top disk.Disk = openBytes(t, fixedImage(pattern(16*kib, 1), text(68, levelID(0))), nil)
	for i := 1; i <= vhd.MaxParents; i++ {
		top = openBytes(t, level(i), &vhd.OpenOptions{Parent: top})
	}
	sameBytes(t, "contents through 256 levels", readAll(t, top), pattern(16*kib, 1))
	b := level(vhd.MaxParents + 1)
	_, opened := vhd.NewImage(bytes.NewReader(b), int64(len(b)), &vhd.OpenOptions{Parent: top})
	m := &memFile{}
	_, created := vhd.CreateIn(m, &vhd.CreateOptions{Parent: top, ParentRecord: vhd.ParentRecord{Name: "p.vhd"}})
	for what, err := range map[string]error{"opened": opened, "created": created} {
		if !errors.Is(err, vhd.ErrUnsupported) || !strings.Contains(err.Error(), "256 parents") {
			t.Errorf("one more is %s: %v; want ErrUnsupported and the bound", what, err)
		}
	}
	if m.size() > 0 {
		t.Errorf("%d bytes of an image that was not created", m.size())
	}
}
