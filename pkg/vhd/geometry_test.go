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
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

const maxCHS = 65535 * 16 * 255

// tooLarge stands for a size that cannot be had.
const tooLarge = -1

// chs is short for use in tables.
type chs = vhd.Geometry

// geometries are sizes in sectors with the specification's geometry, and the
// geometry and size that qemu-img 7.2 gives an image of that size.
var geometries = []struct {
	sectors     int64
	note        string
	spec        vhd.Geometry
	product     int64
	qemu        vhd.Geometry
	qemuSectors int64
}{
	{0, "empty", chs{0, 4, 17}, 0, chs{0, 0, 0}, 0},
	{1, "", chs{0, 4, 17}, 0, chs{1, 4, 17}, 68},
	{67, "below one 4x17 cylinder", chs{0, 4, 17}, 0, chs{1, 4, 17}, 68},
	{68, "one cylinder", chs{1, 4, 17}, 68, chs{1, 4, 17}, 68},
	{2048, "1 MiB", chs{30, 4, 17}, 2040, chs{31, 4, 17}, 2108},
	{6144, "3 MiB", chs{90, 4, 17}, 6120, chs{91, 4, 17}, 6188},
	{8192, "4 MiB, as Windows 10 has it", chs{120, 4, 17}, 8160, chs{121, 4, 17}, 8228},
	{131072, "64 MiB", chs{963, 8, 17}, 130968, chs{964, 8, 17}, 131104},
	{262144, "128 MiB", chs{963, 16, 17}, 261936, chs{964, 16, 17}, 262208},
	{278527, "last 17 spt", chs{1023, 16, 17}, 278256, chs{562, 16, 31}, 278752},
	{278528, "17*1024*16: 31 spt", chs{561, 16, 31}, 278256, chs{562, 16, 31}, 278752},
	{278529, "", chs{561, 16, 31}, 278256, chs{562, 16, 31}, 278752},
	{507903, "last 31 spt", chs{1023, 16, 31}, 507408, chs{504, 16, 63}, 508032},
	{507904, "31*1024*16: 63 spt", chs{503, 16, 63}, 507024, chs{504, 16, 63}, 508032},
	{507905, "", chs{503, 16, 63}, 507024, chs{504, 16, 63}, 508032},
	{524288, "256 MiB", chs{520, 16, 63}, 524160, chs{521, 16, 63}, 525168},
	{1048576, "512 MiB, as Virtual PC has it", chs{1040, 16, 63}, 1048320, chs{1041, 16, 63}, 1049328},
	{2097152, "1 GiB", chs{2080, 16, 63}, 2096640, chs{2081, 16, 63}, 2097648},
	{4194304, "2 GiB", chs{4161, 16, 63}, 4194288, chs{4162, 16, 63}, 4195296},
	{10485760, "5 GiB, as Azure has it", chs{10402, 16, 63}, 10485216, chs{10403, 16, 63}, 10486224},
	{66058271, "65534*16*63 - 1", chs{65533, 16, 63}, 66057264, chs{65534, 16, 63}, 66058272},
	{66058272, "65534*16*63", chs{65534, 16, 63}, 66058272, chs{65534, 16, 63}, 66058272},
	{66058273, "", chs{65534, 16, 63}, 66058272, chs{16191, 16, 255}, 66059280},
	{66059279, "last 63 spt", chs{65534, 16, 63}, 66058272, chs{16191, 16, 255}, 66059280},
	{66059280, "65535*16*63: 255 spt", chs{16191, 16, 255}, 66059280, chs{16191, 16, 255}, 66059280},
	{66059281, "", chs{16191, 16, 255}, 66059280, chs{16192, 16, 255}, 66063360},
	{67108864, "32 GiB", chs{16448, 16, 255}, 67107840, chs{16449, 16, 255}, 67111920},
	{266338304, "127 GiB, as Hyper-V and Virtual PC have it", chs{65278, 16, 255}, 266334240, chs{65279, 16, 255}, 266338320},
	{267378719, "65534*16*255 - 1", chs{65533, 16, 255}, 267374640, chs{65534, 16, 255}, 267378720},
	{267378720, "65534*16*255", chs{65534, 16, 255}, 267378720, chs{65534, 16, 255}, 267378720},
	{267378721, "no rounding from here", chs{65534, 16, 255}, 267378720, chs{65535, 16, 255}, 267378721},
	{267382799, "", chs{65534, 16, 255}, 267378720, chs{65535, 16, 255}, 267382799},
	{267382800, "65535*16*255", chs{65535, 16, 255}, 267382800, chs{65535, 16, 255}, 267382800},
	{267382801, "", chs{65535, 16, 255}, 267382800, chs{65535, 16, 255}, 267382801},
	{268435456, "128 GiB", chs{65535, 16, 255}, 267382800, chs{65535, 16, 255}, 268435456},
	{4278190080, "2040 GiB", chs{65535, 16, 255}, 267382800, chs{65535, 16, 255}, 4278190080},
	{4278190081, "", chs{65535, 16, 255}, 267382800, chs{}, tooLarge},
}

type rounded struct {
	geometry vhd.Geometry
	sectors  int64
}

// dips are the sizes, multiples of 17*1024, at which the specification's
// product falls back for 17 sizes. spec is the geometry at n-1, n, n+16 and
// n+17, qemu the rounding of n-1, n, all of n+1 to n+16, and n+17.
var dips = []struct {
	n    int64
	spec [4]vhd.Geometry
	qemu [4]rounded
}{
	{69632, [4]chs{{1023, 4, 17}, {140, 16, 31}, {140, 16, 31}, {819, 5, 17}}, [4]rounded{{chs{820, 5, 17}, 69700}, {chs{820, 5, 17}, 69700}, {chs{820, 5, 17}, 69700}, {chs{820, 5, 17}, 69700}}},
	{87040, [4]chs{{1023, 5, 17}, {175, 16, 31}, {175, 16, 31}, {853, 6, 17}}, [4]rounded{{chs{854, 6, 17}, 87108}, {chs{854, 6, 17}, 87108}, {chs{854, 6, 17}, 87108}, {chs{854, 6, 17}, 87108}}},
	{104448, [4]chs{{1023, 6, 17}, {210, 16, 31}, {210, 16, 31}, {877, 7, 17}}, [4]rounded{{chs{878, 7, 17}, 104482}, {chs{878, 7, 17}, 104482}, {chs{878, 7, 17}, 104482}, {chs{878, 7, 17}, 104482}}},
	{121856, [4]chs{{1023, 7, 17}, {245, 16, 31}, {245, 16, 31}, {896, 8, 17}}, [4]rounded{{chs{896, 8, 17}, 121856}, {chs{896, 8, 17}, 121856}, {chs{897, 8, 17}, 121992}, {chs{897, 8, 17}, 121992}}},
	{139264, [4]chs{{1023, 8, 17}, {280, 16, 31}, {280, 16, 31}, {910, 9, 17}}, [4]rounded{{chs{911, 9, 17}, 139383}, {chs{911, 9, 17}, 139383}, {chs{911, 9, 17}, 139383}, {chs{911, 9, 17}, 139383}}},
	{156672, [4]chs{{1023, 9, 17}, {315, 16, 31}, {315, 16, 31}, {921, 10, 17}}, [4]rounded{{chs{922, 10, 17}, 156740}, {chs{922, 10, 17}, 156740}, {chs{922, 10, 17}, 156740}, {chs{922, 10, 17}, 156740}}},
	{174080, [4]chs{{1023, 10, 17}, {350, 16, 31}, {351, 16, 31}, {931, 11, 17}}, [4]rounded{{chs{351, 16, 31}, 174096}, {chs{351, 16, 31}, 174096}, {chs{351, 16, 31}, 174096}, {chs{931, 11, 17}, 174097}}},
	{191488, [4]chs{{1023, 11, 17}, {386, 16, 31}, {386, 16, 31}, {938, 12, 17}}, [4]rounded{{chs{939, 12, 17}, 191556}, {chs{939, 12, 17}, 191556}, {chs{939, 12, 17}, 191556}, {chs{939, 12, 17}, 191556}}},
	{208896, [4]chs{{1023, 12, 17}, {421, 16, 31}, {421, 16, 31}, {945, 13, 17}}, [4]rounded{{chs{946, 13, 17}, 209066}, {chs{946, 13, 17}, 209066}, {chs{946, 13, 17}, 209066}, {chs{946, 13, 17}, 209066}}},
	{226304, [4]chs{{1023, 13, 17}, {456, 16, 31}, {456, 16, 31}, {950, 14, 17}}, [4]rounded{{chs{951, 14, 17}, 226338}, {chs{951, 14, 17}, 226338}, {chs{951, 14, 17}, 226338}, {chs{951, 14, 17}, 226338}}},
	{243712, [4]chs{{1023, 14, 17}, {491, 16, 31}, {491, 16, 31}, {955, 15, 17}}, [4]rounded{{chs{956, 15, 17}, 243780}, {chs{956, 15, 17}, 243780}, {chs{956, 15, 17}, 243780}, {chs{956, 15, 17}, 243780}}},
	{261120, [4]chs{{1023, 15, 17}, {526, 16, 31}, {526, 16, 31}, {960, 16, 17}}, [4]rounded{{chs{960, 16, 17}, 261120}, {chs{960, 16, 17}, 261120}, {chs{961, 16, 17}, 261392}, {chs{961, 16, 17}, 261392}}},
}

func TestGeometryOf(t *testing.T) {
	for _, c := range geometries {
		t.Run(fmt.Sprint(c.sectors, " ", c.note), func(t *testing.T) {
			if g := vhd.GeometryOf(c.sectors); g != c.spec || g.Product() != c.product {
				t.Errorf("GeometryOf = %v, product %d; want %v, product %d", g, g.Product(), c.spec, c.product)
			}
		})
	}
	for _, d := range dips {
		t.Run(fmt.Sprint("dip at ", d.n), func(t *testing.T) {
			for i, n := range []int64{d.n - 1, d.n, d.n + 16, d.n + 17} {
				if g := vhd.GeometryOf(n); g != d.spec[i] {
					t.Errorf("GeometryOf(%d) = %v, want %v", n, g, d.spec[i])
				}
			}
		})
	}
}

func TestRoundToGeometry(t *testing.T) {
	for _, c := range geometries {
		t.Run(fmt.Sprint(c.sectors, " ", c.note), func(t *testing.T) {
			o := vhd.CreateOptions{Size: c.sectors * sector}
			size, err := o.VirtualSize()
			if c.qemuSectors == tooLarge {
				if !errors.Is(err, vhd.ErrTooLarge) {
					t.Fatalf("VirtualSize: %v, want ErrTooLarge", err)
				}
				return
			}
			if g, n := vhd.RoundToGeometry(c.sectors); g != c.qemu || n != c.qemuSectors {
				t.Errorf("RoundToGeometry = %v, %d; want %v, %d", g, n, c.qemu, c.qemuSectors)
			}
			if size != c.qemuSectors*sector || err != nil {
				t.Errorf("VirtualSize = %d, %v; want %d", size, err, c.qemuSectors*sector)
			}
		})
	}
	for _, d := range dips {
		t.Run(fmt.Sprint("dip at ", d.n), func(t *testing.T) {
			is := func(n int64, want rounded) {
				if g, size := vhd.RoundToGeometry(n); g != want.geometry || size != want.sectors {
					t.Errorf("RoundToGeometry(%d) = %v, %d; want %v", n, g, size, want)
				}
			}
			is(d.n-1, d.qemu[0])
			is(d.n, d.qemu[1])
			for n := d.n + 1; n <= d.n+16; n++ {
				is(n, d.qemu[2])
			}
			is(d.n+17, d.qemu[3])
		})
	}
}

// The product of the specification's geometry falls at these sizes and at no
// others; elsewhere more sectors never have a smaller product.
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
		// Small sizes as often as large ones.
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
