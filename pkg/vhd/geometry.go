package vhd

import (
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// SectorSize is the unit of the format, 512 bytes.
const SectorSize = disk.SectorSize

const (
	// MaxSectors is the size in sectors of the largest dynamic or differencing disk, 2040 GiB:
	// the limit of the specification, of Windows and of qemu. A fixed disk has no BAT, and may
	// be larger.
	MaxSectors = 0xff000000

	maxGeometrySectors = 65535 * 16 * 255
	// From this size on the specification uses 255 sectors per track.
	track255Sectors = 65535 * 16 * 63
)

// Geometry is the number of cylinders, heads and sectors per track in the footer.
type Geometry struct {
	Cylinders uint16 `json:"cylinders"`
	Heads     uint8  `json:"heads"`
	Sectors   uint8  `json:"sectors"` // per track
}

// MaxGeometry is the largest geometry. With it, every reader uses the current size of the
// footer as the size of the disk.
var MaxGeometry = Geometry{Cylinders: 65535, Heads: 16, Sectors: 255}

// Product returns the number of sectors that the geometry spans.
func (g Geometry) Product() int64 {
	return int64(g.Cylinders) * int64(g.Heads) * int64(g.Sectors)
}

// String returns cylinders/heads/sectors.
func (g Geometry) String() string {
	return fmt.Sprintf("%d/%d/%d", g.Cylinders, g.Heads, g.Sectors)
}

// GeometryOf returns the specification's geometry of a disk ("CHS Calculation", in the
// appendix). Its product is at most the number of sectors, and 0 below 68 sectors.
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

// RoundToGeometry returns the first geometry that spans the disk, searching upwards like
// qemu-img create, and the resulting size in sectors. That is the product of the geometry, or
// the requested size if the largest geometry is reached. The search is short: the product is at
// most 4079 sectors below the requested size.
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
