package interop

import (
	"compress/bzip2"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// TestThirdParty reads images of other products that the project cannot distribute, from the
// directory that VHDTOOL_TEST_IMAGES names.
func TestThirdParty(t *testing.T) {
	folder := os.Getenv("VHDTOOL_TEST_IMAGES")
	if folder == "" {
		t.Skip("VHDTOOL_TEST_IMAGES does not name a directory of sample images")
	}
	for _, c := range []struct {
		file    string
		creator vhd.Creator
		size    int64
		rule    vhd.SizeRule
		other   int64 // size by the other rule
	}{
		{"hyperv2012r2-dynamic.vhd", vhd.CreatorWindows, 136365211648, vhd.SizeFromCurrent, 136363130880},
		{"virtualpc-dynamic.vhd", vhd.CreatorVirtualPC, 136363130880, vhd.SizeFromGeometry, 136365211648},
	} {
		t.Run(c.file, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), c.file)
			decompress(t, image, filepath.Join(folder, c.file+".bz2"))
			counts := checkClean(t, image)
			if counts.Size != c.size || counts.Allocated != 0 {
				t.Errorf("check: %d bytes, %d blocks allocated; want %d and 0", counts.Size, counts.Allocated, c.size)
			}
			img, err := vhd.Open(image, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			if img.Size() != c.size || img.SizedBy() != c.rule || img.Type() != vhd.Dynamic || img.Footer().Creator != c.creator {
				t.Errorf("%v disk of %d bytes by %v, creator %q; want dynamic, %d, %v, %q",
					img.Type(), img.Size(), img.SizedBy(), img.Footer().Creator, c.size, c.rule, c.creator)
			}
			if _, allocated := img.BlockCounts(); allocated != 0 {
				t.Errorf("%d blocks allocated, want none", allocated)
			}
			end := int64(0)
			for e, err := range img.Extents(0, img.Size()) {
				if err != nil {
					t.Fatal(err)
				}
				if e.State != disk.Unallocated {
					t.Errorf("%d bytes at %d are %v, want unallocated", e.Len, e.Off, e.State)
				}
				end = e.End()
			}
			if end != c.size {
				t.Errorf("the extents end at %d, want %d", end, c.size)
			}
			last := make([]byte, 4096)
			last[0] = 1
			if n, err := img.ReadAt(last, c.size-4096); n != 4096 || err != nil && err != io.EOF {
				t.Errorf("read at the end: %d, %v", n, err)
			}
			same(t, "the last 4 KiB", last, make([]byte, 4096))

			rules := map[vhd.SizeRule]int64{vhd.SizeAuto: c.size, c.rule: c.size}
			rules[vhd.SizeFromGeometry+vhd.SizeFromCurrent-c.rule] = c.other
			for rule, want := range rules {
				img, err := vhd.Open(image, &vhd.OpenOptions{SizeRule: rule})
				if err != nil {
					t.Fatal(err)
				}
				if img.Size() != want {
					t.Errorf("by rule %v: %d bytes, want %d", rule, img.Size(), want)
				}
				img.Close()
			}
			t.Run("qemu-img", func(t *testing.T) {
				oracle.Need(t, "qemu-img")
				if n := sizeTheirs(t, image); n != c.size {
					t.Errorf("qemu-img sees %d bytes, want %d", n, c.size)
				}
			})
		})
	}
}

func decompress(t *testing.T, to, from string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, bzip2.NewReader(in)); err != nil {
		t.Fatal(err)
	}
}
