package interop

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// qemuOptions are options for each kind of image of qemu.
var qemuOptions = []string{
	"subformat=dynamic", "subformat=dynamic,force_size", "subformat=fixed", "subformat=fixed,force_size",
}

// TestReadTheirs reads images that qemu-img created and qemu-io wrote to, at any offset.
func TestReadTheirs(t *testing.T) {
	oracle.Need(t, "qemu-img", "qemu-io")
	for _, options := range qemuOptions {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("%s/%d", options, seed), func(t *testing.T) {
				t.Parallel()
				r, _ := newRand(100 + seed)
				size := 1 + r.Int64N(9*mib)
				image := filepath.Join(t.TempDir(), "qemu.vhd")
				oracle.QemuImg(t, "create", "-q", "-f", "vpc", "-o", options, image, fmt.Sprint(size))
				m := make(model, sizeTheirs(t, image))
				ws := randomWrites(r, int64(len(m)), 30)
				theirs(t, image, ws)
				m.apply(ws)
				readAlike(t, image, m)
				same(t, "read by qemu", readTheirs(t, image), m)
			})
		}
	}
}

// TestReadTheirConversions reads images that qemu-img converted from raw disks.
func TestReadTheirConversions(t *testing.T) {
	all := oracle.QEMUs(t)
	for name, source := range sources(t) {
		for _, options := range qemuOptions {
			for _, sparse := range []string{"0", "4k"} {
				for _, q := range all {
					t.Run(fmt.Sprintf("%s/%s/S=%s/qemu %s", name, options, sparse, q.Version), func(t *testing.T) {
						t.Parallel()
						image := filepath.Join(t.TempDir(), "qemu.vhd")
						q.Img(t, "convert", "-f", "raw", "-O", "vpc", "-S", sparse, "-o", options, source, image)
						want, err := os.ReadFile(source)
						if err != nil {
							t.Fatal(err)
						}
						m := make(model, sizeTheirs(t, image))
						copy(m, want)
						readAlike(t, image, m)
					})
				}
			}
		}
	}
}

// readAlike compares an image with the model: read as a whole, in random pieces, by its extents
// and by a conversion.
func readAlike(t *testing.T, image string, m model) {
	t.Helper()
	checkClean(t, image)
	same(t, "read by us", readOurs(t, image), m)
	img, err := vhd.Open(image, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	r, _ := newRand(uint64(len(m)))
	for range 200 {
		n := 1 + r.IntN(3*4096)
		off := r.Int64N(int64(len(m)))
		b := make([]byte, min(int64(n), int64(len(m))-off))
		if k, err := img.ReadAt(b, off); k != len(b) {
			t.Fatalf("read of %d bytes at %d: %d, %v", len(b), off, k, err)
		}
		same(t, fmt.Sprintf("read at %d", off), b, m[off:off+int64(len(b))])
	}
	next := int64(0)
	for e, err := range img.Extents(0, img.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Off != next || e.Len <= 0 {
			t.Fatalf("extent at %d with %d bytes, want one at %d", e.Off, e.Len, next)
		}
		next = e.End()
		b := make([]byte, e.Len)
		if e.State == disk.Data {
			if _, err := e.File.ReadAt(b, e.FileOff); err != nil {
				t.Fatal(err)
			}
		}
		same(t, fmt.Sprintf("extent %v at %d", e.State, e.Off), b, m[e.Off:e.End()])
	}
	if next != int64(len(m)) {
		t.Fatalf("the extents end at %d, want %d", next, len(m))
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "ours.raw"))
	if err != nil {
		t.Fatal(err)
	}
	dst, err := raw.Create(f, img.Size())
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if err := convert.Copy(context.Background(), dst, img, nil); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	same(t, "converted by us", got, m)
}
