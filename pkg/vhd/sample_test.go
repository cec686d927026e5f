package vhd_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/internal/samples"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// TestSamples reads the images of all producers. Each has the contents of its source disk, and
// a check of it and its parents finds no error and no leak.
func TestSamples(t *testing.T) {
	for _, s := range samples.Images(t) {
		if filepath.Ext(s.Name) != ".vhd" {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			image := samples.Unpack(t, s.Name)
			img, err := vhd.Open(image, nil)
			must(t, err)
			defer img.Close()
			if img.Size() != s.Size {
				t.Fatalf("a disk of %d bytes, want %d", img.Size(), s.Size)
			}
			hash := sha256.New()
			_, err = io.Copy(hash, io.NewSectionReader(img, 0, img.Size()))
			must(t, err)
			if got := hex.EncodeToString(hash.Sum(nil)); got != s.SHA256 {
				t.Errorf("contents with the SHA-256 %s, want %s", got, s.SHA256)
			}
			f, size, err := disk.OpenFile(image, false, nil)
			must(t, err)
			defer f.Close()
			checker := vhd.NewChecker(f, size, &vhd.CheckOptions{Deep: true, Chain: true})
			for x, err := range checker.Findings(context.Background()) {
				must(t, err)
				if x.Severity != vhd.Warning {
					t.Errorf("%v: %v", x.Severity, x)
				}
			}
		})
	}
}

// TestLayout: the parts of new images are at the offsets in the vectors.
func TestLayout(t *testing.T) {
	for _, l := range samples.Layouts(t) {
		o := vhd.CreateOptions{Size: l.Size, Exact: true, BlockSize: l.BlockSize, DataAlign: l.DataAlign}
		if n, err := o.FileLength(l.Entries); err != nil || n != l.FullLength {
			t.Errorf("%+v: a file of %d bytes, %v", l, n, err)
		}
		if blocks, blockSize, err := o.BlockLayout(); err != nil || blocks != l.Entries || blockSize != l.BlockSize {
			t.Errorf("%+v: %d blocks of %d bytes, %v", l, blocks, blockSize, err)
		}
		if l.BAT > mib {
			continue // too large to make for each line
		}
		path := filepath.Join(t.TempDir(), "disk.vhd")
		img, err := vhd.Create(path, &o)
		must(t, err)
		last := (l.Entries - 1) * l.BlockSize
		write(t, img, []byte{1}, 0)
		write(t, img, []byte{2}, last)
		must(t, img.Close())
		img, err = vhd.Open(path, nil)
		must(t, err)
		// Offset on the disk: offset in the file.
		want := map[int64]int64{0: l.FirstData, last: l.FirstData}
		if last > 0 {
			want[last] += l.Stride
		}
		for off, at := range want {
			for e, err := range img.Extents(off, 1) {
				must(t, err)
				if e.State != disk.Data || e.FileOff != at {
					t.Errorf("%+v: byte %d of the disk is %v at offset %d, want data at %d", l, off, e.State, e.FileOff, at)
				}
			}
		}
		must(t, img.Close())
		bitmap := firstBytes(t, path, int(l.FirstData))[l.FirstData-l.Bitmap]
		if bitmap&0x80 == 0 {
			t.Errorf("%+v: the bitmap at offset %d starts with %#x, want its first bit set", l, l.FirstData-l.Bitmap, bitmap)
		}
	}
}

// TestDamagedSamples: a check reports the damage of each image.
func TestDamagedSamples(t *testing.T) {
	for _, d := range samples.Damages(t) {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			f, size, err := disk.OpenFile(d.Unpack(t), false, nil)
			must(t, err)
			defer f.Close()
			var found []string
			for x, err := range vhd.NewChecker(f, size, nil).Findings(context.Background()) {
				must(t, err)
				found = append(found, x.ID)
			}
			if !slices.Contains(found, d.Finding) {
				t.Errorf("findings %q, want %s among them", found, d.Finding)
			}
		})
	}
}
