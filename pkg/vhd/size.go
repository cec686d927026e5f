package vhd

import "fmt"

// SizeRule says which field of the footer is the disk's size. Products
// disagree: Virtual PC and qemu's default images are as large as their
// geometry, all others as large as the current size.
type SizeRule uint8

const (
	// SizeAuto chooses by creator and geometry, as qemu 10.0 does: the
	// geometry for creators "vpc " and "qemu", unless it is 0 or the largest,
	// and the current size for all others.
	SizeAuto SizeRule = iota
	// SizeFromGeometry takes the geometry unless it is 0 or the largest.
	SizeFromGeometry
	// SizeFromCurrent takes the current size.
	SizeFromCurrent
)

// String returns the name of the field that the rule takes.
func (r SizeRule) String() string {
	switch r {
	case SizeFromGeometry:
		return "geometry"
	case SizeFromCurrent:
		return "current size"
	}
	return "auto"
}

// resolve turns SizeAuto into one of the others, and the geometry into the
// current size where it says nothing.
func (r SizeRule) resolve(f *Footer) SizeRule {
	if f.Geometry == MaxGeometry || f.Geometry.Product() == 0 {
		return SizeFromCurrent
	}
	if r == SizeAuto {
		if f.Creator.sizedByGeometry() {
			return SizeFromGeometry
		}
		return SizeFromCurrent
	}
	return r
}

// virtualSize is the disk's size by the rule, given that the file has room for
// so many bytes of it. A geometry that spans more than the room is cut to it:
// qemu of 2012 rounded the geometry of fixed disks up, but not the file. A
// current size that spans more means that data is missing, and is let pass
// only for a caller who asked for the geometry.
func (c *footerCopy) virtualSize(rule SizeRule, room int64) (int64, []finding) {
	asked := rule == SizeFromGeometry && rule.resolve(&c.Footer) == SizeFromGeometry
	if c.CurrentSize > uint64(room) && !asked {
		f := finding{Finding: Finding{
			ID: "fixed-length", Severity: Error, Offset: c.off + 48, Field: "footer: current size",
			Got: fmt.Sprint(c.CurrentSize), Want: fmt.Sprintf("at most %d, what stands before the footer", room),
		}}
		if c.Type != Fixed {
			f.ID, f.Want = "bat-too-small", fmt.Sprintf("at most %d, what the BAT has entries for", room)
		}
		return 0, []finding{f}
	}
	size := c.CurrentSize
	if rule.resolve(&c.Footer) == SizeFromGeometry {
		size = uint64(c.Geometry.Product()) * SectorSize
	}
	return int64(min(size, uint64(room))) / SectorSize * SectorSize, nil
}
