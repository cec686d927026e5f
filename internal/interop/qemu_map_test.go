package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// mapped is an entry of qemu-img map.
type mapped struct {
	Start, Length int64
	Data          bool
	Offset        int64
}

// merged merges adjacent entries.
func merged(all []mapped) []mapped {
	var out []mapped
	for _, e := range all {
		if n := len(out); n > 0 {
			last := &out[n-1]
			if last.Data == e.Data && (!e.Data || last.Offset+last.Length == e.Offset) {
				last.Length += e.Length
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

// TestMapLikeQEMU compares the extents of dynamic images, packed and aligned, with the output of
// qemu-img map.
func TestMapLikeQEMU(t *testing.T) {
	all := oracle.QEMUs(t)
	for _, align := range []int64{512, 4096} {
		for _, block := range []int64{64 * kib, 2 * mib} {
			t.Run(fmt.Sprintf("align=%d/block=%d", align, block), func(t *testing.T) {
				image := filepath.Join(t.TempDir(), "image.vhd")
				// Whole blocks: qemu ignores bitmaps.
				createWritten(t, image, vhd.CreateOptions{Size: 40 * mib, Exact: true, DataAlign: align, BlockSize: block}, []write{
					{off: 30 * mib, n: 6 * mib, value: 1}, {off: 2 * mib, n: 2 * mib, value: 2}, {off: 38 * mib, n: 2 * mib, value: 3}, {off: 4 * mib, n: 2 * mib, value: 4},
				})
				img, err := vhd.Open(image, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer img.Close()
				var want []mapped
				for e, err := range img.Extents(0, img.Size()) {
					if err != nil {
						t.Fatal(err)
					}
					m := mapped{Start: e.Off, Length: e.Len, Data: e.State == disk.Data}
					if m.Data {
						m.Offset = e.FileOff
					}
					want = append(want, m)
				}
				for _, q := range all {
					var got []mapped
					if err := json.Unmarshal([]byte(q.Img(t, "map", "-f", "vpc", "--output=json", image)), &got); err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(merged(got), merged(want)); diff != "" {
						t.Errorf("qemu %s and we: %s", q.Version, diff)
					}
				}
			})
		}
	}
}

// TestSizeLikeQEMU sets the creators of many programs in images whose geometry is smaller than
// their current size. Since qemu 10, qemu and the engine agree on the size.
func TestSizeLikeQEMU(t *testing.T) {
	all := oracle.QEMUs(t)
	for _, kind := range []vhd.DiskType{vhd.Fixed, vhd.Dynamic} {
		for _, creator := range []string{"vpc ", "qemu", "qem2", "vs  ", "win ", "wa\x00\x00", "vbox", "tap\x00", "CTXS", "d2v ", "dutl", "rsme", "\x00\x00\x00\x00", "abcd"} {
			t.Run(fmt.Sprintf("%v/%q", kind, creator), func(t *testing.T) {
				image := filepath.Join(t.TempDir(), "image.vhd")
				const size = 5*mib + 512*5
				img, err := vhd.Create(image, &vhd.CreateOptions{Size: size, Exact: true, Type: kind, Creator: vhd.CreatorWindows})
				if err != nil {
					t.Fatal(err)
				}
				if err := img.Close(); err != nil {
					t.Fatal(err)
				}
				editFooters(t, image, func(f *vhd.Footer) {
					copy(f.Creator[:], creator)
					f.Geometry = vhd.GeometryOf(size / 512)
				})
				img, err = vhd.Open(image, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer img.Close()
				if by := vhd.GeometryOf(size/512).Product() * 512; img.Size() != size && img.Size() != by || by == size {
					t.Fatalf("a disk of %d bytes, want %d or %d, which must differ", img.Size(), size, by)
				}
				for _, q := range all {
					// qemu never writes such a geometry with its own creator. It still uses the
					// geometry as the size, and loses the end of the disk.
					if creator == "qemu" {
						if img.Size() != size {
							t.Errorf("we see %d bytes of an image that another program has resized, want %d", img.Size(), size)
						}
						break
					}
					if n := q.VirtualSize(t, "vpc", image); q.Major() >= 10 && n != img.Size() {
						t.Errorf("qemu %s sees %d bytes, we see %d", q.Version, n, img.Size())
					}
				}
			})
		}
	}
}

// editFooters changes the trailing footer of an image, and the copy unless the image is fixed.
func editFooters(t *testing.T, image string, edit func(*vhd.Footer)) {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	f := vhd.DecodeFooter((*[512]byte)(b[len(b)-512:]))
	edit(&f)
	e := f.Encode()
	copy(b[len(b)-512:], e[:])
	if f.Type != vhd.Fixed {
		copy(b, e[:])
	}
	if err := os.WriteFile(image, b, 0o666); err != nil {
		t.Fatal(err)
	}
}
