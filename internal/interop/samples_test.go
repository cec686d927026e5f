package interop

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/internal/samples"
)

// TestSamples: each release of qemu-img reads the disks that the manifest describes. It does not
// support parents, and reads the size of some creators from another field.
func TestSamples(t *testing.T) {
	releases := oracle.QEMUs(t)
	for _, s := range samples.Images(t) {
		if len(s.Parents) > 0 || filepath.Ext(s.Name) != ".vhd" {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			image := samples.Unpack(t, s.Name)
			out := image + ".raw"
			options := "driver=vpc,force_size_calc=current_size,file.filename=" + image
			for _, q := range releases {
				q.Img(t, "convert", "--image-opts", options, "-O", "raw", out)
				b, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				sum := sha256.Sum256(b)
				if got := hex.EncodeToString(sum[:]); int64(len(b)) != s.Size || got != s.SHA256 {
					t.Errorf("qemu-img %s: %d bytes with the SHA-256 %s, want %d with %s", q.Version, len(b), got, s.Size, s.SHA256)
				}
			}
		})
	}
}

// TestGeometryVectors: qemu-img 7 creates fixed images with the geometries of the vectors.
func TestGeometryVectors(t *testing.T) {
	oracle.Need(t, "qemu-img")
	dir := t.TempDir()
	for _, g := range samples.Geometries(t) {
		image := filepath.Join(dir, "image.vhd")
		args := []string{"create", "-q", "-f", "vpc", "-o", "subformat=fixed", image, fmt.Sprint(g.Last * 512)}
		if g.QEMU == "" {
			if out, status := oracle.Try(t, "qemu-img", args...); status == 0 {
				t.Errorf("%d sectors are made, want a refusal: %s", g.Last, out)
			}
			continue
		}
		oracle.QemuImg(t, args...)
		st, err := os.Stat(image)
		if err != nil {
			t.Fatal(err)
		}
		if want := g.QEMUSectors*512 + 512; st.Size() != want {
			t.Errorf("%d sectors: a file of %d bytes, want %d", g.Last, st.Size(), want)
		}
	}
}
