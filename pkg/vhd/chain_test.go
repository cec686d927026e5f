package vhd_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// A path is a parent locator of a crafted child.
type path struct {
	code  string
	text  []byte
	slot  int
	space uint32 // 0: 512
}

// wide is UTF-16, little-endian as in locators.
func wide(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

// bigEndian is UTF-16 as in the parent name.
func bigEndian(s string) string {
	b := wide(s)
	for i := 0; i < len(b); i += 2 {
		b[i], b[i+1] = b[i+1], b[i]
	}
	return string(b)
}

const parentID = "the parent's id!"

// childOf is an image of four blocks with one written sector. Its parent has the given id, and
// these paths and that name.
func childOf(id, name string, paths ...path) []byte { return childOfSize(16*kib, id, name, paths...) }

// childOfSize is childOf for a disk of another size.
func childOfSize(size int64, id, name string, paths ...path) []byte {
	own := make([]byte, 4*kib)
	copy(own, pattern(sector, 9))
	c := craft{
		size: size, footer: []edit{u32(60, differencing), text(68, "id of this child")},
		header: []edit{text(40, id), text(64, bigEndian(name))},
		blocks: []block{{2, 200, append([]byte{0x80}, make([]byte, 511)...), own}},
	}
	for i, p := range paths {
		space := p.space
		if space == 0 {
			space = 512
		}
		c.header = append(c.header, func(b []byte) {
			e := b[576+24*p.slot:]
			copy(e, p.code)
			be.PutUint32(e[4:], space)
			be.PutUint32(e[8:], uint32(len(p.text)))
			be.PutUint64(e[16:], uint64(2048+4096*i))
		})
	}
	b := c.bytes()
	for i, p := range paths {
		copy(b[2048+4096*i:], p.text)
	}
	return b
}

// parentDisk is the contents of the parent, and its file.
func parentDisk(seed byte, es ...edit) (contents, file []byte) {
	contents = pattern(16*kib, seed)
	return contents, fixedImage(contents, append([]edit{text(68, parentID)}, es...)...)
}

// childDisk is the contents of a child made by childOf.
func childDisk(parent []byte) []byte {
	b := bytes.Clone(parent)
	copy(b[2*4*kib:], pattern(sector, 9))
	return b
}

// tree makes a directory of files by their paths.
func tree(t tb, dir string, files map[string][]byte) {
	t.Helper()
	for name, b := range files {
		name = filepath.Join(dir, filepath.FromSlash(name))
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		must(t, os.WriteFile(name, b, 0o644))
	}
}

// Every form of path to the parent is followed, in any slot.
func TestLocators(t *testing.T) {
	parent, file := parentDisk(1)
	for _, c := range []struct {
		name   string
		at     string // the parent's path, relative to the child's directory
		header string // the name in the header
		paths  []path
	}{
		{"W2ru", "sub/p.vhd", "", []path{{code: "W2ru", text: wide(`.\sub\p.vhd`)}}},
		{"W2ru in the last slot", "sub/p.vhd", "", []path{{code: "W2ru", text: wide(`.\sub\p.vhd`), slot: 7}}},
		{"W2ru without .\\", "sub/p.vhd", "", []path{{code: "W2ru", text: wide(`sub\p.vhd`)}}},
		{"W2ru with NULs at its end", "p.vhd", "", []path{{code: "W2ru", text: append(wide(`.\p.vhd`), 0, 0, 0, 0)}}},
		{"W2ru in other letters", "größe-磁盘-💾.vhd", "", []path{{code: "W2ru", text: wide(`.\größe-磁盘-💾.vhd`)}}},
		{"Wi2r", "sub/p.vhd", "", []path{{code: "Wi2r", text: []byte(`.\sub\p.vhd`), slot: 3}}},
		{"Wi2r in Latin-1", "größe.vhd", "", []path{{code: "Wi2r", text: []byte("gr\xf6\xdfe.vhd")}}},
		{"W2ku of Windows", "p.vhd", "", []path{{code: "W2ku", text: wide(`C:\Users\x\p.vhd`)}}},
		{"W2ku that is relative", "sub/p.vhd", "", []path{{code: "W2ku", text: wide(`.\sub\p.vhd`)}}},
		{"Wi2k", "p.vhd", "", []path{{code: "Wi2k", text: []byte(`D:\p.vhd`)}}},
		{"MacX", "p q.vhd", "", []path{{code: "MacX", text: []byte("file://localhost/nowhere/p%20q.vhd")}}},
		{"MacX that is relative", "sub/p.vhd", "", []path{{code: "MacX", text: []byte("file://./sub/p.vhd")}}},
		{"network path, by its last part", "p.vhd", "", []path{{code: "W2ku", text: wide(`\\server\share\p.vhd`)}}},
		{"name only", "p.vhd", "p.vhd", nil},
		{"name with directories of Windows", "p.vhd", `C:\images\p.vhd`, nil},
		{"an alias of Mac OS is skipped", "p.vhd", "p.vhd", []path{{code: "Mac ", text: []byte{0, 1, 2}}}},
		{"an unknown code is skipped", "p.vhd", "p.vhd", []path{{code: "Zzzz", text: []byte("x.vhd")}}},
		{"a text of odd length is skipped", "p.vhd", "p.vhd", []path{{code: "W2ru", text: []byte("x.v")}}},
		{"broken surrogates are skipped", "p.vhd", "p.vhd", []path{{code: "W2ru", text: []byte{0, 0xd8, 'x', 0}}}},
		{"the first that is right counts", "right.vhd", "", []path{
			{code: "W2ku", text: wide(`Z:\right.vhd`), slot: 0}, {code: "W2ru", text: wide(`.\wrong.vhd`), slot: 1},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			_, wrong := parentDisk(2, text(68, "another image id"))
			tree(t, dir, map[string][]byte{c.at: file, "wrong.vhd": wrong, "child.vhd": childOf(parentID, c.header, c.paths...)})
			img, err := vhd.Open(filepath.Join(dir, "child.vhd"), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			sameBytes(t, "contents", readAll(t, img), childDisk(parent))
			if got, want := img.ParentPath(), filepath.Join(dir, filepath.FromSlash(c.at)); got != want {
				t.Errorf("the parent is %s, want %s", got, want)
			}
		})
	}
}

// A record of Virtual PC leads to the parent: locators in slots 4 to 7, in two encodings. The
// bytes are those of a real image.
func TestVirtualPCLocators(t *testing.T) {
	dir := t.TempDir()
	header := make([]byte, 1024)
	put := func(at int, s string) {
		b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		must(t, err)
		copy(header[at:], b)
	}
	put(0, "6378737061727365 ffffffffffffffff 0000000000000600 00010000 00000100 00200000 ffffe1c1 d49c5c80350a4a89898a5ad6d10f6578 1922077c 00000000")
	copy(header[64:], bigEndian("dynamic.vhd"))
	put(576+4*24, "57326b75 00000200 0000002a 00000000 0000000000001200")
	put(576+5*24, "57327275 00000200 0000001a 00000000 0000000000001000")
	put(576+6*24, "5769326b 00000200 00000015 00000000 0000000000000e00")
	put(576+7*24, "57693272 00000200 0000000d 00000000 0000000000000c00")
	stored := be.Uint32(header[36:])
	sum(header, 36)
	if got := be.Uint32(header[36:]); got != stored {
		t.Fatalf("the header's checksum is %#x, and the image had %#x", got, stored)
	}
	footer := make([]byte, 512)
	b, err := hex.DecodeString(strings.ReplaceAll("636f6e656374697800000002 00010000 0000000000000200 192215f0 76706320 00010000 5769326b 0000000020000000 0000000020000000 0410103f 00000004 fffff023 40d56d369ab84fe4a31a121fe2bf15eb 00", " ", ""))
	must(t, err)
	copy(footer, b)
	child := bytes.Repeat([]byte{0xff}, 0x1400)
	copy(child, footer)
	copy(child[512:], header)
	copy(child[0x1200:], wide(`C:\VPCs\x\dynamic.vhd`))
	copy(child[0x1000:], wide(`.\dynamic.vhd`))
	copy(child[0xe00:], `C:\VPCs\x\dynamic.vhd`)
	copy(child[0xc00:], `.\dynamic.vhd`)
	child = append(child, footer...)
	parent := craft{size: 512 * mib, blockSize: 2 * mib, footer: []edit{func(b []byte) { copy(b[68:], header[40:56]) }}, blocks: []block{
		{0, 8, nil, pattern(4*kib, 3)},
	}}.bytes()
	tree(t, dir, map[string][]byte{"child.vhd": child, "dynamic.vhd": parent})
	img, err := vhd.Open(filepath.Join(dir, "child.vhd"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	// The geometry is the size of the disk for this creator.
	if want := int64(1040 * 16 * 63 * sector); img.Size() != want {
		t.Errorf("size %d, want %d", img.Size(), want)
	}
	p := make([]byte, 8*kib)
	if _, err := img.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "contents", p, append(pattern(4*kib, 3), make([]byte, 4*kib)...))
	record := img.ParentRecord()
	if record.Name != "dynamic.vhd" || record.ID.String() != "d49c5c80-350a-4a89-898a-5ad6d10f6578" || len(record.Locators) != 4 ||
		record.Locators[0] != (vhd.Locator{Code: "W2ku", Path: `C:\VPCs\x\dynamic.vhd`}) || record.Time != 0x1922077c {
		t.Errorf("recorded of the parent: %+v", record)
	}
}

// A child's paths are trusted only within its own directory.
func TestParentRefused(t *testing.T) {
	_, file := parentDisk(1)
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	tree(t, dir, map[string][]byte{"outside/p.vhd": file, "home/sub/inside.vhd": file})
	outside := filepath.Join(dir, "outside", "p.vhd")
	child := filepath.Join(home, "child.vhd")
	if runtime.GOOS != "windows" {
		must(t, os.Symlink(outside, filepath.Join(home, "link.vhd")))
		must(t, os.Symlink(filepath.Join(dir, "outside"), filepath.Join(home, "linkdir")))
		must(t, os.Symlink(filepath.Join("sub", "inside.vhd"), filepath.Join(home, "inner.vhd")))
		must(t, os.Symlink(filepath.Join(home, "sub", "inside.vhd"), filepath.Join(home, "absolute.vhd")))
		must(t, os.Symlink(filepath.Join(home, "sub"), filepath.Join(home, "absolutedir")))
		must(t, os.Symlink(filepath.Join(home, "link.vhd"), filepath.Join(home, "twice.vhd")))
	}
	back := strings.ReplaceAll(filepath.ToSlash(outside), "/", `\`)
	long := strings.Repeat(`x\`, 5000) + "p.vhd"
	for _, c := range []struct {
		name  string
		paths []path
		o     disk.ParentSearch
		want  error // nil: the image opens
	}{
		{"..", []path{{code: "W2ru", text: wide(`..\outside\p.vhd`)}}, disk.ParentSearch{}, vhd.ErrParentRefused},
		{".. further in", []path{{code: "W2ru", text: wide(`sub\..\..\outside\p.vhd`)}}, disk.ParentSearch{}, vhd.ErrParentRefused},
		{".. that stays inside", []path{{code: "W2ru", text: wide(`sub\..\sub\inside.vhd`)}}, disk.ParentSearch{}, nil},
		{"absolute", []path{{code: "W2ku", text: wide(back)}}, disk.ParentSearch{}, vhd.ErrParentRefused},
		{"absolute with slashes", []path{{code: "W2ku", text: wide(filepath.ToSlash(outside))}}, disk.ParentSearch{}, vhd.ErrParentRefused},
		{"URL", []path{{code: "MacX", text: []byte("file://" + filepath.ToSlash(outside))}}, disk.ParentSearch{}, vhd.ErrParentRefused},
		{"URL with escapes", []path{{code: "MacX", text: []byte("file://./%2e%2e/outside/p.vhd")}}, disk.ParentSearch{}, vhd.ErrParentRefused},
		{"symbolic link out", []path{{code: "W2ru", text: wide(`link.vhd`)}}, disk.ParentSearch{}, vhd.ErrParentRefused},
		{"symbolic link to a directory outside", []path{{code: "W2ru", text: wide(`linkdir\p.vhd`)}}, disk.ParentSearch{}, vhd.ErrParentRefused},
		{"symbolic link that stays inside", []path{{code: "W2ru", text: wide(`inner.vhd`)}}, disk.ParentSearch{}, nil},
		{"absolute symbolic link that stays inside", []path{{code: "W2ru", text: wide(`absolute.vhd`)}}, disk.ParentSearch{}, nil},
		{"absolute symbolic link to a directory inside", []path{{code: "W2ru", text: wide(`absolutedir\inside.vhd`)}}, disk.ParentSearch{}, nil},
		{"absolute symbolic link to one that leads out", []path{{code: "W2ru", text: wide(`twice.vhd`)}}, disk.ParentSearch{}, vhd.ErrParentRefused},
		{"other machine", []path{{code: "W2ku", text: wide(`\\server\share\q.vhd`)}}, disk.ParentSearch{}, vhd.ErrParentNotFound},
		{"other machine, trusted", []path{{code: "W2ku", text: wide(`\\server\share\q.vhd`)}}, disk.ParentSearch{Trust: true}, vhd.ErrParentNotFound},
		{"other machine in a URL, trusted", []path{{code: "MacX", text: []byte("file://server/share/q.vhd")}}, disk.ParentSearch{Trust: true}, vhd.ErrParentNotFound},
		{"device, trusted", []path{{code: "W2ku", text: wide(`\dev\zero`)}}, disk.ParentSearch{Trust: true}, vhd.ErrParentNotFound},
		{"proc, trusted", []path{{code: "W2ku", text: wide(`\proc\self\maps`)}}, disk.ParentSearch{Trust: true}, vhd.ErrParentNotFound},
		{"folder, trusted", []path{{code: "W2ru", text: wide(`sub`)}}, disk.ParentSearch{Trust: true}, vhd.ErrParentNotFound},
		{"very long", []path{{code: "W2ru", text: wide(long)}}, disk.ParentSearch{Trust: true}, vhd.ErrParentNotFound},
		{"the directory itself", []path{{code: "W2ru", text: wide(`.\`)}, {code: "W2ku", text: wide(`..`)}}, disk.ParentSearch{}, vhd.ErrParentNotFound},
		{"NUL inside", []path{{code: "W2ru", text: wide("sub\\inside.vhd\x00x")}}, disk.ParentSearch{}, vhd.ErrParentNotFound},
		{"..., trusted", []path{{code: "W2ru", text: wide(`..\outside\p.vhd`)}}, disk.ParentSearch{Trust: true}, nil},
		{"absolute, trusted", []path{{code: "W2ku", text: wide(back)}}, disk.ParentSearch{Trust: true}, nil},
		{"symbolic link out, trusted", []path{{code: "W2ru", text: wide(`link.vhd`)}}, disk.ParentSearch{Trust: true}, nil},
		{"named by the caller", []path{{code: "W2ru", text: wide(`gone.vhd`)}}, disk.ParentSearch{Files: []string{outside}}, nil},
		{"in a directory of the caller", []path{{code: "W2ru", text: wide(`gone\p.vhd`)}}, disk.ParentSearch{Dirs: []string{filepath.Dir(outside)}}, nil},
		{"absolute, in a directory of the caller", []path{{code: "W2ku", text: wide(back)}}, disk.ParentSearch{Dirs: []string{dir}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && (strings.Contains(c.name, "symbolic") || strings.Contains(c.name, "device") || strings.Contains(c.name, "proc")) {
				t.Skip("there are none here")
			}
			must(t, os.WriteFile(child, childOf(parentID, "", c.paths...), 0o644))
			img, err := vhd.Open(child, &vhd.OpenOptions{Parents: c.o})
			if err == nil {
				sameBytes(t, "contents", readAll(t, img), childDisk(pattern(16*kib, 1)))
				img.Close()
			}
			var pe *vhd.ParentError
			if !errors.Is(err, c.want) || c.want != nil && !errors.As(err, &pe) {
				t.Errorf("%v; want %v", err, c.want)
			}
		})
	}
}

// The parent has the id that the child records, and is not one of its children.
func TestParentMismatchAndLoops(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	_, right := parentDisk(1)
	_, other := parentDisk(1, text(68, "another image id"))
	_, nameless := parentDisk(1, text(68, string(make([]byte, 16))))
	a := func(id, parent string) []byte {
		b := childOf(parent, "", path{code: "W2ru", text: wide("b.vhd")})
		for _, end := range []int{0, len(b) - 512} {
			copy(b[end+68:], id)
			sum(b[end:end+512], 64)
		}
		return b
	}
	for _, c := range []struct {
		name  string
		files map[string][]byte
		want  error
		tells string
	}{
		{"right", map[string][]byte{"a.vhd": a("id of a, 16 char", parentID), "b.vhd": right}, nil, ""},
		{"another id", map[string][]byte{"a.vhd": a("id of a, 16 char", parentID), "b.vhd": other}, vhd.ErrParentMismatch, uuid.UUID([]byte("another image id")).String()},
		{"no id", map[string][]byte{"a.vhd": a("id of a, 16 char", parentID), "b.vhd": nameless}, vhd.ErrParentMismatch, "raw disk"},
		{"not a VHD", map[string][]byte{"a.vhd": a("id of a, 16 char", parentID), "b.vhd": pattern(10*kib, 1)}, vhd.ErrParentNotFound, "not a VHD"},
		{"damaged", map[string][]byte{"a.vhd": a("id of a, 16 char", parentID), "b.vhd": spoil(right, len(right)-400, 4)}, vhd.ErrParentNotFound, "damaged VHD"},
		{"empty", map[string][]byte{"a.vhd": a("id of a, 16 char", parentID), "b.vhd": nil}, vhd.ErrParentNotFound, "not a VHD"},
		{"itself by name", map[string][]byte{"b.vhd": a(parentID, parentID)}, vhd.ErrParentLoop, ""},
		{"a copy of itself", map[string][]byte{"a.vhd": a(parentID, parentID), "b.vhd": a(parentID, parentID)}, vhd.ErrParentLoop, ""},
		{"its parent's parent is a copy of it", map[string][]byte{
			"a.vhd": a("id of a, 16 char", parentID), "b.vhd": childOf("id of a, 16 char", "", path{code: "W2ru", text: wide("a.vhd")}),
		}, vhd.ErrParentMismatch, ""},
		{"A, B, A", map[string][]byte{
			"a.vhd": a("id of a, 16 char", "id of this child"), "b.vhd": childOf("id of a, 16 char", "", path{code: "W2ru", text: wide("a.vhd")}),
		}, vhd.ErrParentLoop, ""},
		{"the parent's parent is missing", map[string][]byte{
			"a.vhd": a("id of a, 16 char", "id of this child"), "b.vhd": childOf(parentID, "", path{code: "W2ru", text: wide("gone.vhd")}),
		}, vhd.ErrParentNotFound, "of " + at("b.vhd")},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree(t, dir, c.files)
			name := at("a.vhd")
			if _, ok := c.files["a.vhd"]; !ok {
				name = at("b.vhd")
			}
			img, err := vhd.Open(name, nil)
			if err == nil {
				img.Close()
			}
			if !errors.Is(err, c.want) || c.want != nil && !strings.Contains(err.Error(), c.tells) {
				t.Errorf("%v; want %v, and %q", err, c.want, c.tells)
			}
			f, size, err := disk.OpenFile(name, false, nil)
			must(t, err)
			defer f.Close()
			counts, err := checkImage(f, size, &vhd.CheckOptions{Chain: true}, func(vhd.Finding) {})
			if err != nil || (counts.Errors > 0) != (c.want != nil) {
				t.Errorf("check: %d errors, %v", counts.Errors, err)
			}
		})
	}
	t.Run("hard link to itself", func(t *testing.T) {
		name, link := at("self.vhd"), at("link.vhd")
		must(t, os.WriteFile(name, childOf("id of this child", "", path{code: "W2ru", text: wide("link.vhd")}), 0o644))
		must(t, os.Link(name, link))
		if _, err := vhd.Open(name, nil); !errors.Is(err, vhd.ErrParentLoop) {
			t.Errorf("%v; want ErrParentLoop", err)
		}
	})
}

// levelID is the unique id of image i of a chain.
func levelID(i int) string { return fmt.Sprintf("level %10d", i) }

// level is that image, without blocks: its parent is number i-1.
func level(i int) []byte {
	b := childOf(levelID(i-1), "", path{code: "W2ru", text: wide(fmt.Sprintf("%d.vhd", i-1))})
	for _, at := range []int{0, len(b) - 512} {
		copy(b[at+68:], levelID(i))
		sum(b[at:at+512], 64)
	}
	// Without the block, which makes the file long.
	be.PutUint32(b[1536+8:], unused)
	return append(b[:2560:2560], b[len(b)-512:]...)
}

// An absurdly long chain is refused without opening all of it.
func TestLongChain(t *testing.T) {
	dir := t.TempDir()
	const levels = 10000
	for i := range levels {
		b := level(i)
		if i == 0 {
			_, b = parentDisk(1, text(68, levelID(0)))
		}
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.vhd", i)), b, 0o644))
	}
	if _, err := vhd.Open(filepath.Join(dir, fmt.Sprintf("%d.vhd", levels-1)), nil); !errors.Is(err, vhd.ErrUnsupported) || !strings.Contains(err.Error(), "256 parents") {
		t.Errorf("%v; want ErrUnsupported and the bound", err)
	}
	img, err := vhd.Open(filepath.Join(dir, fmt.Sprintf("%d.vhd", vhd.MaxParents)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	sameBytes(t, "contents through 256 levels", readAll(t, img), pattern(16*kib, 1))
}

// A raw parent has no id, and only a raw disk is accepted for it.
func TestRawParent(t *testing.T) {
	dir := t.TempDir()
	parent := pattern(10*kib+100, 4) // smaller than the child, with a partial last sector
	tree(t, dir, map[string][]byte{
		"child.vhd": childOf(string(make([]byte, 16)), "", path{code: "W2ru", text: wide("base.raw")}), "base.raw": parent,
	})
	img, err := vhd.Open(filepath.Join(dir, "child.vhd"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	want := append(bytes.Clone(parent), make([]byte, 16*kib-len(parent))...)
	sameBytes(t, "contents", readAll(t, img), childDisk(want))
}

// An image that is opened without its parent reports its properties, but cannot read what it
// inherits.
func TestWithoutParent(t *testing.T) {
	b := childOf(parentID, "p.vhd")
	img := openBytes(t, b, &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
	p := make([]byte, sector)
	if _, err := img.ReadAt(p, 0); !errors.Is(err, vhd.ErrNoParent) {
		t.Errorf("ReadAt of what is the parent's: %v, want ErrNoParent", err)
	}
	if _, err := img.ReadAt(p, 2*4*kib); err != nil {
		t.Errorf("ReadAt of what is the image's own: %v", err)
	}
	sameBytes(t, "own sector", p, pattern(sector, 9))
	for _, err := range img.Extents(0, img.Size()) {
		if !errors.Is(err, vhd.ErrNoParent) {
			t.Errorf("Extents: %v, want ErrNoParent", err)
		}
		break
	}
	other := openBytes(t, fixedImage(pattern(16*kib, 1)), nil)
	if _, err := vhd.NewImage(bytes.NewReader(b), int64(len(b)), &vhd.OpenOptions{Parent: other}); !errors.Is(err, vhd.ErrParentMismatch) {
		t.Errorf("with another parent: %v, want ErrParentMismatch", err)
	}
}

// No path of a child is followed out of the child's directory.
func FuzzParentPath(f *testing.F) {
	for _, s := range []string{
		"p.vhd", `..\secret.vhd`, `.\..\secret.vhd`, "/etc/passwd", `\\h\s\x`, "file:///x/%2e%2e/secret.vhd", "link", `link\secret.vhd`, "C:x", "a\x00b", "", ".", "..", `sub\..\..\secret.vhd`, "file:", "file:////", "file://./../secret.vhd", "FILE://localhost/..",
	} {
		f.Add(s, uint8(0))
		f.Add(s, uint8(3))
	}
	top := f.TempDir()
	contents, file := parentDisk(1)
	secret := bytes.Repeat([]byte{0xee}, len(contents))
	tree(f, top, map[string][]byte{"secret.vhd": fixedImage(secret, text(68, parentID)), "home/p.vhd": file, "home/sub/q.vhd": file})
	home := filepath.Join(top, "home")
	if err := os.Symlink(top, filepath.Join(home, "link")); err != nil {
		f.Skip(err)
	}
	codes := []string{"W2ru", "W2ku", "Wi2r", "Wi2k", "MacX", "Mac "}
	f.Fuzz(func(t *testing.T, s string, code uint8) {
		p := path{code: codes[int(code)%len(codes)], text: []byte(s)}
		if strings.HasPrefix(p.code, "W2") {
			p.text = wide(s)
		}
		name := s
		if len(wide(name)) > 512 {
			name = ""
		}
		if len(p.text) > 2000 {
			return
		}
		child := filepath.Join(home, "child.vhd")
		must(t, os.WriteFile(child, childOf(parentID, name, p), 0o644))
		img, err := vhd.Open(child, nil)
		if err != nil {
			return
		}
		defer img.Close()
		sameBytes(t, "contents", readAll(t, img), childDisk(contents))
	})
}

// An error of the file ends an operation on a child. The disk stays the same, for this image
// and for others, and the next try succeeds. If a flush failed, the image must be opened again
// first.
func TestChainFails(t *testing.T) {
	full := errors.New("no space")
	parent := pattern(16*kib, 1)
	start := childOf(string(make([]byte, 16)), "p", path{code: "W2ru", text: wide("p")})
	withOwn := childDisk(parent)
	written := bytes.Clone(withOwn)
	copy(written[3000:], pattern(7000, 3))
	for _, c := range []struct {
		name  string
		do    func(img *vhd.Image) error
		after []byte
	}{
		{"write", func(img *vhd.Image) error {
			if _, err := img.WriteAt(pattern(7000, 3), 3000); err != nil {
				return err
			}
			return img.Sync()
		}, written},
		{"zeros", func(img *vhd.Image) error {
			if err := img.WriteZeroes(1000, 10000); err != nil {
				return err
			}
			return img.Sync()
		}, append(append(bytes.Clone(parent[:1000]), make([]byte, 10000)...), withOwn[11000:]...)},
		{"another parent", func(img *vhd.Image) error {
			return img.SetParent(nil, vhd.ParentRecord{Name: "q", Locators: []vhd.Locator{{Code: "W2ru", Path: strings.Repeat("x", 3000)}}})
		}, withOwn},
		{"no parent", func(img *vhd.Image) error { return img.Detach(context.Background(), nil) }, withOwn},
		{"empty", func(img *vhd.Image) error { return img.Empty(context.Background(), nil) }, parent},
	} {
		t.Run(c.name, func(t *testing.T) {
			for k, done := 0, false; !done; k++ {
				m := newMemFile(start)
				open := func() *vhd.Image {
					img, err := vhd.NewImage(m, m.size(), withParent(parent, true))
					if errors.Is(err, vhd.ErrParentMismatch) || err == nil && img.Type() == vhd.Dynamic {
						t.Fatalf("change %d failed, and the image is %v, %v", k, img, err)
					}
					must(t, err)
					return img
				}
				img := open()
				n, unflushed := 0, false
				m.before = func(ch change) (int, error) {
					if n++; n > k {
						unflushed = unflushed || ch.op == "sync"
						return 0, full
					}
					return len(ch.data), nil
				}
				err := c.do(img)
				m.before = nil
				if done = err == nil; !done && !errors.Is(err, full) {
					t.Fatalf("change %d fails: %v", k, err)
				}
				allowed := []state{{0, withOwn}, {0, c.after}}
				failed := hasFailed(t, img)
				if unflushed && !failed {
					t.Fatalf("flushing failed before change %d, and the image can be used", k)
				}
				if !failed {
					holds(t, readAll(t, img), allowed)
				}
				noErrors(t, m.bytes(), "trailing-footer", "footers-differ")
				if failed {
					if c.name != "no parent" || openBytes(t, m.bytes(), withParent(parent, false)).Type() == vhd.Differencing {
						img = open()
					} else {
						continue // it is so far that nothing is left to do
					}
				}
				if img.Type() == vhd.Differencing {
					if err := c.do(img); err != nil {
						t.Fatalf("change %d failed, and the next try: %v", k, err)
					}
				}
				if err := img.Close(); err != nil {
					t.Fatal(err)
				}
				sameBytes(t, fmt.Sprintf("change %d failed, after the next try", k), readAll(t, openBytes(t, m.bytes(), withParent(parent, false))), c.after)
				noErrors(t, m.bytes())
			}
		})
	}
}

// A partial write does not read and write back sectors that are in the file. Another writer may
// write the other parts of such a sector without waiting, once the block is complete.
func TestPartOfSectorOnly(t *testing.T) {
	parent := pattern(16*kib, 1)
	m := newMemFile(childOf(string(make([]byte, 16)), "p"))
	img, err := vhd.NewImage(m, m.size(), withParent(parent, true))
	must(t, err)
	write(t, img, pattern(2*sector, 5), 3*sector) // these sectors are in the file from now on
	var log []change
	m.before = func(c change) (int, error) {
		log = append(log, change{c.op, c.off, bytes.Clone(c.data)})
		return len(c.data), nil
	}
	for _, c := range []struct {
		off, n  int
		written [2]int // of the disk
	}{
		{3*sector + 100, 4, [2]int{3*sector + 100, 3*sector + 104}},
		{3*sector + 100, sector, [2]int{3*sector + 100, 4*sector + 100}},
		// The rest of the first sector is the parent's.
		{2*sector + 100, sector, [2]int{2 * sector, 3*sector + 100}},
		{4*sector + 100, sector, [2]int{4*sector + 100, 6 * sector}},
		{6*sector + 10, 20, [2]int{6 * sector, 7 * sector}},
	} {
		log = nil
		p := pattern(c.n, 9)
		want := readAll(t, img)
		copy(want[c.off:], p)
		write(t, img, p, int64(c.off))
		if len(log) != 1 || log[0].op != "write" || len(log[0].data) != c.written[1]-c.written[0] {
			t.Errorf("a write of %d bytes at %d makes %d changes, the first of %d bytes; want one of %d", c.n, c.off, len(log), len(log[0].data), c.written[1]-c.written[0])
		}
		sameBytes(t, "contents", readAll(t, img), want)
		sameBytes(t, "what is written", log[0].data, want[c.written[0]:c.written[1]])
	}
}
