package vhd

import (
	"fmt"
	"math"
	"strings"
)

// SizeRule determines which field of the footer is the size of the disk. Products disagree:
// Virtual PC and qemu's default images use the geometry, all others the current size.
type SizeRule uint8

const (
	// SizeAuto chooses by creator and geometry, as qemu 10.0 does: the geometry for creators
	// "vpc " and "qemu", unless it is 0 or the largest, and the current size for all others. It
	// has one exception. A geometry below the current size that the creator never writes shows
	// that another program has changed the image. Then the current size is the size.
	SizeAuto SizeRule = iota
	// SizeFromGeometry uses the geometry unless it is 0 or the largest.
	SizeFromGeometry
	// SizeFromCurrent uses the current size.
	SizeFromCurrent
)

// String returns the name of the field.
func (r SizeRule) String() string {
	switch r {
	case SizeFromGeometry:
		return "geometry"
	case SizeFromCurrent:
		return "current size"
	}
	return "auto"
}

// MarshalText returns the rule in lower case, with hyphens for spaces. The error is always nil.
func (r SizeRule) MarshalText() ([]byte, error) {
	return []byte(strings.ReplaceAll(r.String(), " ", "-")), nil
}

// resolve turns SizeAuto into one of the other rules. It turns SizeFromGeometry into
// SizeFromCurrent if the geometry is 0 or the largest.
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

// sizedByGeometry reports whether the geometry is the size of the disk instead of the current
// size.
//
// qemu makes the two equal, or writes the largest geometry; qemu of 2012 rounds only the
// geometry up. Virtual PC rounds the geometry down by the specification, and shows it to its
// guests. Any other geometry below the current size comes from a program that uses the current
// size, as VirtualBox does when it resizes.
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

// BeyondGeometry returns the number of bytes of the current size past the geometry, if some
// reader uses the geometry as the size of the disk. These readers are all versions of qemu, for
// creators "qemu" and "vpc ", and Virtual PC. It returns 0 if every reader uses the current
// size.
func (f *Footer) BeyondGeometry() int64 {
	if f.Creator != CreatorQEMU && f.Creator != CreatorVirtualPC || SizeFromGeometry.resolve(f) != SizeFromGeometry {
		return 0
	}
	return max(0, int64(min(f.CurrentSize, math.MaxInt64))-f.Geometry.Product()*SectorSize)
}

// virtualSize returns the size of the disk by the rule; space is the number of bytes that the
// file can hold of it. It reduces a larger geometry to space: qemu of 2012 rounds the geometry
// of fixed disks up, but not the file. A larger current size means that data is missing. It is
// a finding, unless the caller asks for the geometry.
func (c *footerCopy) virtualSize(rule SizeRule, space int64) (int64, []finding) {
	asked := rule == SizeFromGeometry && rule.resolve(&c.Footer) == SizeFromGeometry
	if c.CurrentSize > uint64(space) && !asked {
		f := finding{Finding: Finding{
			ID: "fixed-length", Severity: Error, Offset: c.off + 48, Field: "footer: current size",
			Got: fmt.Sprint(c.CurrentSize), Want: fmt.Sprintf("at most %d, the number of bytes before the footer", space),
		}}
		if c.Type == Fixed && c.CurrentSize <= 1<<62 {
			f.Bytes = int64(c.CurrentSize) - space
		}
		if c.Type != Fixed {
			f.ID, f.Want = "bat-too-small", fmt.Sprintf("at most %d, the size that the BAT has entries for", space)
		}
		return 0, []finding{*f.number(c.CurrentSize, atMost(uint64(space)))}
	}
	size := c.CurrentSize
	if rule.resolve(&c.Footer) == SizeFromGeometry {
		size = uint64(c.Geometry.Product()) * SectorSize
	}
	return int64(min(size, uint64(space))) / SectorSize * SectorSize, nil
}
