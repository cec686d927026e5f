package vhd

import (
	"fmt"
	"math"
	"strings"
)

// SizeRule says which field of the footer is the disk's size. Products
// disagree: Virtual PC and qemu's default images are as large as their
// geometry, all others as large as the current size.
type SizeRule uint8

const (
	// SizeAuto chooses by creator and geometry, as qemu 10.0 does: the geometry for
	// creators "vpc " and "qemu", unless it is 0 or the largest, and the current size
	// for all others. It differs where the geometry is smaller than the current size
	// in a way that the creator never writes: then another program has changed the
	// image, and the current size is the disk's.
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

// MarshalText returns the rule in lower case, with hyphens for spaces. It has no error.
func (r SizeRule) MarshalText() ([]byte, error) {
	return []byte(strings.ReplaceAll(r.String(), " ", "-")), nil
}

// resolve turns SizeAuto into one of the others, and the geometry into the
// current size where it says nothing.
func (r SizeRule) resolve(f *Footer) SizeRule {
	if f.Geometry == MaxGeometry || f.Geometry.Product() == 0 {
		return SizeFromCurrent
	}
	if r == SizeAuto {
		if f.sizedByGeometry() {
			return SizeFromGeometry
		}
		return SizeFromCurrent
	}
	return r
}

// sizedByGeometry reports whether the disk is as large as its geometry, and not as
// its current size says.
//
// qemu makes the two equal, or writes the largest geometry; that of 2012 rounded up
// the geometry only. Virtual PC rounds the geometry down by the specification, and
// shows its guests the geometry. Any other geometry below the current size was written
// by a program that goes by the current size, as VirtualBox does when it resizes.
func (f *Footer) sizedByGeometry() bool {
	sectors := int64(f.CurrentSize / SectorSize)
	whole := f.Geometry.Product() >= sectors
	switch f.Creator {
	case CreatorQEMU:
		return whole
	case CreatorVirtualPC:
		return whole || f.Geometry == GeometryOf(sectors)
	}
	return false
}

// BeyondGeometry returns how many bytes of the current size are not spanned by a
// geometry that some reader takes for the disk's size: all versions of qemu for
// creators "qemu" and "vpc ", and Virtual PC. It returns 0 if every reader sees the
// current size.
func (f *Footer) BeyondGeometry() int64 {
	if f.Creator != CreatorQEMU && f.Creator != CreatorVirtualPC || SizeFromGeometry.resolve(f) != SizeFromGeometry {
		return 0
	}
	return max(0, int64(min(f.CurrentSize, math.MaxInt64))-f.Geometry.Product()*SectorSize)
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
		if c.Type == Fixed && c.CurrentSize <= 1<<62 {
			f.Bytes = int64(c.CurrentSize) - room
		}
		if c.Type != Fixed {
			f.ID, f.Want = "bat-too-small", fmt.Sprintf("at most %d, what the BAT has entries for", room)
		}
		return 0, []finding{*f.number(c.CurrentSize, atMost(uint64(room)))}
	}
	size := c.CurrentSize
	if rule.resolve(&c.Footer) == SizeFromGeometry {
		size = uint64(c.Geometry.Product()) * SectorSize
	}
	return int64(min(size, uint64(room))) / SectorSize * SectorSize, nil
}
