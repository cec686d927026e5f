package vhd_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/internal/samples"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

const maxCHS = 65535 * 16 * 255

// chs is short for use in tables.
type chs = vhd.Geometry

func TestGeometryOf(t *testing.T) {
	for _, c := range samples.Geometries(t) {
		if c.Spec == "" {
			continue
		}
		for n := c.First; n <= c.Last; n++ {
			if g := vhd.GeometryOf(n).String(); g != c.Spec {
				t.Errorf("GeometryOf(%d) = %v, want %v (%s)", n, g, c.Spec, c.Note)
			}
		}
	}
}

func TestRoundToGeometry(t *testing.T) {
	for _, c := range samples.Geometries(t) {
		for n := c.First; n <= c.Last; n++ {
			o := vhd.CreateOptions{Size: n * sector}
			size, err := o.VirtualSize()
			if c.QEMU == "" {
				if !errors.Is(err, vhd.ErrTooLarge) {
					t.Errorf("VirtualSize of %d sectors: %v, want ErrTooLarge", n, err)
				}
				continue
			}
			if g, got := vhd.RoundToGeometry(n); g.String() != c.QEMU || got != c.QEMUSectors {
				t.Errorf("RoundToGeometry(%d) = %v, %d; want %v, %d (%s)", n, g, got, c.QEMU, c.QEMUSectors, c.Note)
			}
			if size != c.QEMUSectors*sector || err != nil {
				t.Errorf("VirtualSize of %d sectors = %d, %v; want %d", n, size, err, c.QEMUSectors*sector)
			}
		}
	}
}

// The product of the specification's geometry falls at these sizes and at no others. Elsewhere
// more sectors never have a smaller product.
func TestGeometryProductFalls(t *testing.T) {
	want := []int64{69632, 87040, 104448, 121856, 139264, 156672, 174080, 191505, 226321, 243729, 507904}
	var got []int64
	before := int64(0)
	for n := int64(0); n < 600000; n++ {
		p := vhd.GeometryOf(n).Product()
		if p > n {
			t.Fatalf("the product for %d sectors is %d", n, p)
		}
		if p < before {
			got = append(got, n)
		}
		before = p
	}
	if !slices.Equal(got, want) {
		t.Errorf("the product falls at %d, want %d", got, want)
	}
}

// overshoot is the most that rounding may add to a size.
func overshoot(n int64) int64 {
	switch {
	case n < 69632:
		return 84
	case n < 278528:
		return 495
	case n < 507904:
		return 623
	case n < 66059280:
		return 1007
	case n < maxCHS:
		return 4079
	}
	return 0
}

func TestRoundToGeometryIsIdempotentAndMonotonic(t *testing.T) {
	holds := func(t tb, n int64) int64 {
		g, size := vhd.RoundToGeometry(n)
		if size < n || size > n+overshoot(n) {
			t.Fatalf("%d sectors are rounded to %d, want %d more at most", n, size, overshoot(n))
		}
		if g != vhd.MaxGeometry && g.Product() != size {
			t.Fatalf("%d sectors are rounded to %d, but the product of %v is %d", n, size, g, g.Product())
		}
		if g2, again := vhd.RoundToGeometry(size); again != size || g2 != g {
			t.Fatalf("%d sectors are rounded to %d (%v), and that to %d (%v)", n, size, g, again, g2)
		}
		return size
	}
	// Every size up to the first dips, then those around each change of rule.
	for _, r := range [][2]int64{
		{0, 90000},
		{121800, 121900},
		{173900, 174200},
		{261000, 279600},
		{507000, 509000},
		{66058000, 66060000},
		{maxCHS - 9000, maxCHS + 9000},
		{vhd.MaxSectors - 100, vhd.MaxSectors + 1},
	} {
		before := int64(0)
		for n := r[0]; n < r[1]; n++ {
			size := holds(t, n)
			if size < before {
				t.Fatalf("%d sectors are rounded to %d, one less to %d", n, size, before)
			}
			before = size
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, vhd.MaxSectors).Draw(t, "sectors")
		more := rapid.Int64Range(0, vhd.MaxSectors-n).Draw(t, "more")
		if a, b := holds(t, n), holds(t, n+more); a > b {
			t.Fatalf("%d sectors are rounded to %d, %d more to %d", n, a, more, b)
		}
	})
}

func TestGeometryAgainstQemuImg(t *testing.T) {
	oracle.Need(t, "qemu-img")
	sizes := []int64{
		0, 1, 511, 512, 513, 34816, 34817, 69632*sector - 1, 174080 * sector, 261121 * sector, 278528 * sector,
		66058273 * sector, 66059280*sector + 1, (maxCHS - 4079) * sector, maxCHS*sector + 1, vhd.MaxSectors*sector - 1,
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for len(sizes) < 44 {
		// Small sizes occur as often as large ones.
		sizes = append(sizes, rnd.Int64N(1<<(10+rnd.IntN(31))))
	}
	dir := t.TempDir()
	theirs, ours := filepath.Join(dir, "qemu.vhd"), filepath.Join(dir, "ours.vhd")
	for _, size := range sizes {
		for _, exact := range []bool{false, true} {
			force := "force_size=off"
			if exact {
				force = "force_size=on"
			}
			oracle.QemuImg(t, "create", "-q", "-f", "vpc", "-o", force, theirs, fmt.Sprint(size))
			img, err := vhd.Create(ours, &vhd.CreateOptions{Size: size, Exact: exact})
			if err != nil {
				t.Fatal(err)
			}
			if err := img.Close(); err != nil {
				t.Fatal(err)
			}
			// Original and current size, geometry, disk type.
			want, got := firstBytes(t, theirs, 512)[40:64], firstBytes(t, ours, 512)[40:64]
			if !bytes.Equal(got, want) {
				t.Errorf("size %d, %s: footer bytes 40 to 64 are %x, qemu-img's are %x", size, force, got, want)
			}
		}
	}
}

func firstBytes(t tb, name string, n int) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}
