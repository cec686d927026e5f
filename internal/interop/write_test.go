package interop

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// sources creates the raw disks to convert.
func sources(t *testing.T) map[string]string {
	_, r := newRand(1)
	dir := t.TempDir()
	files := map[string]string{}
	add := func(name string, n int64, pieces map[int64][]byte) {
		files[name] = filepath.Join(dir, name)
		writeFile(t, files[name], n, pieces)
	}
	add("empty", 3*mib, nil)
	add("sparse", 17*mib, map[int64][]byte{
		0:             fill(r, 512),
		4*mib - 1:     fill(r, 2),
		9*mib + 12345: fill(r, 100_000),
		16*mib - 100:  fill(r, 200),
	})
	add("dense", 3*mib, map[int64][]byte{0: fill(r, 3*mib)})
	add("odd", 3*mib+1000, map[int64][]byte{3 * mib: fill(r, 1000)})
	// Data in the last sector, which is past the geometry of the specification. A reader that
	// uses the geometry would lose the sector.
	add("tail", 4*mib+512*13, map[int64][]byte{4*mib + 512*12: fill(r, 512)})
	return files
}

// TestPeersReadOurs creates images of every kind, and reads them with qemu-img and vhdiinfo.
// qemu 7.2 uses the geometry as the size for most creators, and must still see the whole disk.
func TestPeersReadOurs(t *testing.T) {
	oracle.Need(t, "qemu-img", "vhdiinfo")
	files := sources(t)
	for _, creator := range []vhd.Creator{
		vhd.CreatorQEMU, vhd.CreatorQEMUExact, vhd.CreatorWindows, vhd.CreatorVirtualPC, vhd.CreatorXenServer, vhd.CreatorVirtualBox,
	} {
		blocks := []int64{0, 512 * kib, 2 * mib} // 0: fixed
		if creator == vhd.CreatorQEMU {
			blocks = append(blocks, 4*kib, 64*kib, 16*mib)
		}
		for _, block := range blocks {
			for _, exact := range []bool{false, true} {
				for name, source := range files {
					o := vhd.CreateOptions{Type: vhd.Dynamic, Exact: exact, Creator: creator, BlockSize: block}
					if block == 0 {
						o.Type = vhd.Fixed
					}
					t.Run(fmt.Sprintf("%v/%v/block=%d/exact=%v/%s", creator, o.Type, block, exact, name), func(t *testing.T) {
						t.Parallel()
						peersRead(t, source, o)
					})
				}
			}
		}
	}
}

func peersRead(t *testing.T, source string, o vhd.CreateOptions) {
	image := filepath.Join(t.TempDir(), "image.vhd")
	size := create(t, image, source, o)
	want, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	asked := (int64(len(want)) + 511) / 512 * 512
	if o.Exact && size != asked || size < asked || size > asked+4079*512 {
		t.Errorf("a disk of %d bytes for a source of %d", size, len(want))
	}
	want = append(want, make([]byte, size-int64(len(want)))...)
	same(t, "read by qemu", readTheirs(t, image), want)
	same(t, "read by us", readOurs(t, image), want)
	if n := oracle.VHDInfoSize(t, image); n != size {
		t.Errorf("vhdiinfo sees %d bytes, want %d", n, size)
	}
	checkClean(t, image)
}

// TestEmptyLikeQEMU creates empty images of many sizes with vhdtool and qemu-img. They must be
// the same, byte for byte, except for time, id and checksum.
func TestEmptyLikeQEMU(t *testing.T) {
	all := oracle.QEMUs(t)
	sizes := []int64{
		1, 512, 513, 34816, 34817, 1 << 20, 69632 * 512, 69632*512 + 1, 1 << 30, 127 << 30,
		267378720 * 512, 267378721 * 512, 1 << 40, 2040 << 30,
	}
	r, _ := newRand(2)
	for range 6 {
		sizes = append(sizes, 1+r.Int64N(1<<(10+r.IntN(30))))
	}
	for _, size := range sizes {
		for subformat, diskType := range map[string]vhd.DiskType{"dynamic": vhd.Dynamic, "fixed": vhd.Fixed} {
			for force, exact := range map[string]bool{"off": false, "on": true} {
				if diskType == vhd.Fixed && size > 1<<40 {
					continue // more than some file systems allow
				}
				t.Run(fmt.Sprintf("%d/%s/force_size=%s", size, subformat, force), func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					ours := filepath.Join(dir, "ours.vhd")
					img, err := vhd.Create(ours, &vhd.CreateOptions{Size: size, Exact: exact, Type: diskType})
					if err != nil {
						t.Fatal(err)
					}
					if err := img.Close(); err != nil {
						t.Fatal(err)
					}
					for _, q := range all {
						theirs := filepath.Join(dir, "qemu-"+q.Version+".vhd")
						q.Img(t, "create", "-q", "-f", "vpc", "-o", "subformat="+subformat+",force_size="+force, theirs, fmt.Sprint(size))
						sameMetadata(t, ours, theirs)
					}
				})
			}
		}
	}
}

// sameMetadata compares two images without data.
func sameMetadata(t *testing.T, a, b string) {
	t.Helper()
	read := func(name string) (length int64, head, tail []byte) {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		head = make([]byte, min(st.Size(), 8*mib))
		tail = make([]byte, 512)
		_, err = f.ReadAt(head, 0)
		if err == nil {
			_, err = f.ReadAt(tail, st.Size()-512)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, footer := range [][]byte{head, head[len(head)-512:], tail} {
			if bytes.HasPrefix(footer, []byte("conectix")) {
				clear(footer[24:28]) // time
				clear(footer[64:84]) // checksum, id
			}
		}
		return st.Size(), head, tail
	}
	n, head, tail := read(a)
	m, wantHead, wantTail := read(b)
	if n != m {
		t.Errorf("the file has %d bytes, qemu's %d", n, m)
	}
	same(t, "trailing footer", tail, wantTail)
	same(t, "start of the file", head, wantHead)
}
