package vhd

import (
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// SectorSize is the format's unit, 512 bytes.
const SectorSize = disk.SectorSize

const (
	// MaxSectors is the largest dynamic or differencing disk that is made, 2040 GiB in
	// sectors: the limit of the specification, of Windows and of qemu. A fixed disk has
	// no BAT, and may be larger.
	MaxSectors = 0xff000000

	maxGeometrySectors = 65535 * 16 * 255
	// From here on the specification uses 255 sectors per track.
	track255Sectors = 65535 * 16 * 63
)

// Geometry is the cylinders, heads and sectors per track of the footer.
type Geometry struct {
	Cylinders uint16 `json:"cylinders"`
	Heads     uint8  `json:"heads"`
	Sectors   uint8  `json:"sectors"` // per track
}

// MaxGeometry is the largest geometry. Every reader that meets it takes the
// footer's current size as the disk's size.
var MaxGeometry = Geometry{Cylinders: 65535, Heads: 16, Sectors: 255}

// Product is the number of sectors the geometry spans.
func (g Geometry) Product() int64 {
	return int64(g.Cylinders) * int64(g.Heads) * int64(g.Sectors)
}

// String returns cylinders/heads/sectors.
func (g Geometry) String() string {
	return fmt.Sprintf("%d/%d/%d", g.Cylinders, g.Heads, g.Sectors)
}

// GeometryOf is the specification's geometry of a disk ("CHS Calculation", in
// the appendix): its product is at most the number of sectors, and 0 below 68
// sectors.
func GeometryOf(sectors int64) Geometry {
	n := min(sectors, maxGeometrySectors)
	if n >= track255Sectors {
		return Geometry{uint16(n / 255 / 16), 16, 255}
	}
	spt := int64(17)
	tracks := n / spt
	heads := max(4, (tracks+1023)/1024)
	if tracks >= heads*1024 || heads > 16 {
		spt, heads = 31, 16
		tracks = n / spt
	}
	if tracks >= heads*1024 {
		spt, heads = 63, 16
		tracks = n / spt
	}
	return Geometry{uint16(tracks / heads), uint8(heads), uint8(spt)}
}

// RoundToGeometry finds the first geometry that holds the disk, searching
// upwards as qemu-img create does, and the disk's size that goes with it: the
// geometry's product, or the size asked for where the largest geometry is
// reached. The search is short: a product is never more than 4079 sectors
// behind.
func RoundToGeometry(sectors int64) (Geometry, int64) {
	want := min(sectors, maxGeometrySectors)
	var g Geometry
	for n := want; g.Product() < want; n++ {
		g = GeometryOf(n)
	}
	if g == MaxGeometry {
		return g, sectors
	}
	return g, g.Product()
}
