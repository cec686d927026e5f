package vhd

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/google/uuid"
)

// DiskType is the footer's disk type.
type DiskType uint32

// The disk types in use. 0 is "none"; 1, 5 and 6 are reserved.
const (
	Fixed        DiskType = 2
	Dynamic      DiskType = 3
	Differencing DiskType = 4
)

// String returns the name of the type, which is also qemu's subformat.
func (t DiskType) String() string {
	switch t {
	case Fixed:
		return "fixed"
	case Dynamic:
		return "dynamic"
	case Differencing:
		return "differencing"
	}
	return fmt.Sprintf("type %d", uint32(t))
}

const (
	footerSize      = 512
	shortFooterSize = 511 // Virtual PC before 2004 writes a footer without its last byte

	formatVersion    = 0x00010000
	featureTemporary = 1 << 0
	featureReserved  = 1 << 1    // always set
	noOffset         = 1<<64 - 1 // "all ones": the specification has 32 of them, products write 64
)

var footerCookie = [8]byte{'c', 'o', 'n', 'e', 'c', 't', 'i', 'x'}

// Footer is the hard disk footer ("Hard Disk Footer Format"): the last 512
// bytes of every image, with a copy at the start of those that are not fixed.
//
//	off size field                off size field
//	  0    8 cookie                56    4 disk geometry: cylinders (2), heads, sectors
//	  8    4 features              60    4 disk type
//	 12    4 file format version   64    4 checksum
//	 16    8 data offset           68   16 unique id
//	 24    4 time stamp            84    1 saved state
//	 28    4 creator application   85  427 reserved
//	 32    4 creator version
//	 36    4 creator host OS
//	 40    8 original size
//	 48    8 current size
//
// All bytes are kept, known or not, so that decoding and encoding an unchanged
// footer gives the same bytes (but for the checksum).
type Footer struct {
	Cookie         [8]byte
	Features       uint32
	Version        uint32 // of the format: major in the upper 16 bits, minor in the lower
	DataOffset     uint64 // offset of the dynamic disk header, bytes; all ones for a fixed disk
	Timestamp      Timestamp
	Creator        Creator
	CreatorVersion uint32
	CreatorHostOS  [4]byte
	OriginalSize   uint64 // bytes, at creation
	CurrentSize    uint64 // bytes
	Geometry       Geometry
	Type           DiskType
	Checksum       uint32 // as in the file; Encode recomputes it
	// UniqueID is compared as bytes. Windows stores the first three groups little-endian,
	// others use RFC 4122 order, and no field says which.
	UniqueID   uuid.UUID
	SavedState uint8
	Reserved   [427]byte
}

// DecodeFooter decodes a footer. It accepts any contents, and checks none.
func DecodeFooter(b *[footerSize]byte) Footer {
	be := binary.BigEndian
	return Footer{
		Cookie:         [8]byte(b[0:8]),
		Features:       be.Uint32(b[8:]),
		Version:        be.Uint32(b[12:]),
		DataOffset:     be.Uint64(b[16:]),
		Timestamp:      Timestamp(be.Uint32(b[24:])),
		Creator:        Creator(b[28:32]),
		CreatorVersion: be.Uint32(b[32:]),
		CreatorHostOS:  [4]byte(b[36:40]),
		OriginalSize:   be.Uint64(b[40:]),
		CurrentSize:    be.Uint64(b[48:]),
		Geometry:       Geometry{be.Uint16(b[56:]), b[58], b[59]},
		Type:           DiskType(be.Uint32(b[60:])),
		Checksum:       be.Uint32(b[64:]),
		UniqueID:       uuid.UUID(b[68:84]),
		SavedState:     b[84],
		Reserved:       [427]byte(b[85:512]),
	}
}

// Encode returns the bytes of the footer with a correct checksum.
func (f *Footer) Encode() [footerSize]byte {
	var b [footerSize]byte
	be := binary.BigEndian
	copy(b[0:], f.Cookie[:])
	be.PutUint32(b[8:], f.Features)
	be.PutUint32(b[12:], f.Version)
	be.PutUint64(b[16:], f.DataOffset)
	be.PutUint32(b[24:], uint32(f.Timestamp))
	copy(b[28:], f.Creator[:])
	be.PutUint32(b[32:], f.CreatorVersion)
	copy(b[36:], f.CreatorHostOS[:])
	be.PutUint64(b[40:], f.OriginalSize)
	be.PutUint64(b[48:], f.CurrentSize)
	be.PutUint16(b[56:], f.Geometry.Cylinders)
	b[58], b[59] = f.Geometry.Heads, f.Geometry.Sectors
	be.PutUint32(b[60:], uint32(f.Type))
	copy(b[68:], f.UniqueID[:])
	b[84] = f.SavedState
	copy(b[85:], f.Reserved[:])
	be.PutUint32(b[64:], checksum(b[:], 64))
	return b
}

// checksum returns the complement of the sum of all bytes. The four bytes of the checksum
// field, at off, count as zero.
func checksum(b []byte, off int) uint32 {
	var sum uint32
	for _, c := range b {
		sum += uint32(c)
	}
	for _, c := range b[off : off+4] {
		sum -= uint32(c)
	}
	return ^sum
}

// checksumWanted returns the checksum that matches the contents. XenServer's tap 0.1 and 1.1
// set the "hidden" flag, in the first reserved byte, without updating the checksum. For those
// versions a checksum without the flag matches, too.
func (f *Footer) checksumWanted() uint32 {
	enc := f.Encode()
	sum := binary.BigEndian.Uint32(enc[64:])
	if f.hiddenUnsummed() && sum != f.Checksum {
		return sum + uint32(f.Reserved[0])
	}
	return sum
}

// hiddenUnsummed reports whether the image comes from a tool that sets the hidden flag outside
// the checksum, in the leading copy only.
func (f *Footer) hiddenUnsummed() bool {
	return f.Creator == CreatorXenServer && (f.CreatorVersion == 0x00000001 || f.CreatorVersion == 0x00010001)
}

// SetCreator sets the creator application, and the version and the host OS that it writes.
// XenServer's version depends on whether the image has a batmap; see [Image.Marker]. If the
// size rule of the new creator gives the disk another size, the error wraps ErrUnsupported.
func (f *Footer) SetCreator(c Creator, batmap bool) error {
	g := *f
	g.Creator = c
	old, now := SizeAuto.resolve(f), SizeAuto.resolve(&g)
	sectors := int64(f.CurrentSize / SectorSize)
	if f.Geometry.Product() != sectors && (old != now || f.Geometry != MaxGeometry && f.Creator.trustedByOldQEMU() && !c.trustedByOldQEMU()) {
		return fmt.Errorf("creator %q: %w: readers would read a disk of %v sectors, but it has %d", c, ErrUnsupported, f.Geometry.Product(), sectors)
	}
	f.Creator, f.CreatorVersion, f.CreatorHostOS = c, c.version(), c.hostOS()
	if batmap && c == CreatorXenServer {
		f.CreatorVersion = creatorVersionBatmap
	}
	return nil
}

// VirtualSize returns the size of the disk in bytes, by SizeAuto, for a file of any length.
func (f *Footer) VirtualSize() int64 {
	size, _ := (&footerCopy{Footer: *f}).virtualSize(SizeAuto, math.MaxInt64)
	return size
}

// Hidden reports XenServer's mark of an image that serves only as a parent and is not to be
// attached itself.
func (f *Footer) Hidden() bool { return f.Creator == CreatorXenServer && f.Reserved[0] != 0 }

// SetHidden sets that mark. For images of other creators the error wraps ErrUnsupported.
func (f *Footer) SetHidden(on bool) error {
	if f.Creator != CreatorXenServer {
		return fmt.Errorf("hiding an image of creator %q: %w: only images of XenServer (tap) have that mark", f.Creator, ErrUnsupported)
	}
	f.Reserved[0] = 0
	if on {
		f.Reserved[0] = 1
	}
	return nil
}

// marked reports whether the footer has the cookie.
func (f *Footer) marked() bool { return f.Cookie == footerCookie }

// valid reports whether the footer is credible: cookie, checksum, major version and type are
// correct.
func (f *Footer) valid() bool {
	return f.marked() && f.Version>>16 == formatVersion>>16 && f.Checksum == f.checksumWanted() &&
		f.Type >= Fixed && f.Type <= Differencing
}

// same reports whether two copies of a footer have the same contents, apart from a hidden flag
// outside the checksum.
func (f *Footer) same(g *Footer) bool {
	a, b := *f, *g
	if a.hiddenUnsummed() {
		a.Reserved[0], b.Reserved[0] = 0, 0
		a.Checksum, b.Checksum = 0, 0
	}
	return a == b
}

// validate returns findings about the contents of a footer.
func (c *footerCopy) validate() []finding {
	where := "footer"
	if c.leading {
		where = "leading footer copy"
	}
	var fs []finding
	odd := func(id string, sev Severity, off int64, field, got, want string) *finding {
		fs = append(fs, finding{Finding: Finding{ID: id, Severity: sev, Offset: c.off + off, Field: where + ": " + field, Got: got, Want: want}})
		return &fs[len(fs)-1]
	}
	if !c.marked() {
		odd("footer-cookie", Error, 0, "cookie", fmt.Sprintf("%q", c.Cookie[:]), fmt.Sprintf("%q", footerCookie[:]))
		return fs
	}
	if want := c.checksumWanted(); c.Checksum != want {
		odd("footer-checksum", Error, 64, "checksum", hex32(c.Checksum), hex32(want)).number(uint64(c.Checksum), oneOf(uint64(want))).checksum = true
	}
	if c.Version>>16 != formatVersion>>16 {
		odd("footer-version", Error, 12, "file format version", hex32(c.Version), hex32(formatVersion)).number(uint64(c.Version), oneOf(formatVersion)).unsupported = true
	}
	if c.Type < Fixed || c.Type > Differencing {
		odd("disk-type", Error, 60, "disk type", fmt.Sprint(uint32(c.Type)), "2 (fixed), 3 (dynamic) or 4 (differencing)").number(uint64(c.Type), oneOf(uint64(Fixed), uint64(Dynamic), uint64(Differencing)))
	}
	if c.Features&featureReserved == 0 || c.Features&^(featureReserved|featureTemporary) != 0 {
		odd("footer-features", Warning, 8, "features", hex32(c.Features), "0x00000002, or 3 for a temporary disk").
			number(uint64(c.Features), oneOf(featureReserved, featureReserved|featureTemporary))
	}
	reserved := c.Reserved
	if c.Creator == CreatorXenServer && reserved[0] == 1 {
		reserved[0] = 0 // XenServer's "hidden" flag
	}
	if reserved != [427]byte{} {
		odd("footer-reserved", Warning, 85, "reserved bytes", "data", "zeros")
	}
	switch {
	case c.SavedState == 1:
		odd("saved-state", Warning, 84, "saved state", "1: a suspended virtual machine depends on this image", "0").number(1, oneOf(0))
	case c.SavedState > 1:
		odd("saved-state", Warning, 84, "saved state", fmt.Sprint(c.SavedState), "0 or 1").number(uint64(c.SavedState), oneOf(0, 1))
	}
	if c.Type == Fixed && c.DataOffset != noOffset {
		odd("fixed-data-offset", Warning, 16, "data offset of a fixed disk", hex64(c.DataOffset), hex64(noOffset)).number(c.DataOffset, oneOf(noOffset))
	}
	switch {
	case c.CurrentSize == 0:
		odd("current-size", Error, 48, "current size", "0", "the disk's size").number(0, atLeast(1)).harmless = true
	case c.CurrentSize > maxFixedSize:
		odd("current-size", Error, 48, "current size", fmt.Sprint(c.CurrentSize), fmt.Sprintf("at most %d", uint64(maxFixedSize))).number(c.CurrentSize, atMost(maxFixedSize))
	case c.CurrentSize > MaxSectors*SectorSize && c.Type != Fixed: // VirtualBox makes such
		odd("large-disk", Warning, 48, "current size", fmt.Sprint(c.CurrentSize),
			fmt.Sprintf("at most %d (2040 GiB): Windows and qemu open no larger one", uint64(MaxSectors)*SectorSize)).number(c.CurrentSize, atMost(MaxSectors*SectorSize))
	case c.CurrentSize%SectorSize != 0:
		odd("current-size", Warning, 48, "current size", fmt.Sprint(c.CurrentSize), "a multiple of 512").number(c.CurrentSize, multipleOf(SectorSize))
	}
	// Virtual PC itself writes the specification's geometry, which rounds down.
	own := c.Creator == CreatorVirtualPC && c.Geometry == GeometryOf(int64(c.CurrentSize/SectorSize))
	if n := c.BeyondGeometry(); n > 0 && !own {
		odd("geometry-size", Warning, 56, "disk geometry", fmt.Sprintf("%v, which ends %d bytes before the current size", c.Geometry, n),
			"one that spans the current size, or the largest: qemu and Virtual PC do not show the bytes past it")
	} else if f, ok := c.oddGeometry(); ok {
		odd("geometry", Warning, 56, "disk geometry", f.Got, f.Want)
	}
	if c.UniqueID == uuid.Nil {
		odd("unique-id", Warning, 68, "unique id", "zeros", "an id that is not zero")
	}
	return fs
}

// oddGeometry compares the geometry with the current size.
func (f *Footer) oddGeometry() (Finding, bool) {
	g, sectors := f.Geometry, int64(f.CurrentSize>>9&(1<<54-1))
	if g == MaxGeometry || g == GeometryOf(sectors) && g.Product() > 0 || g.Product() == sectors {
		return Finding{}, false
	}
	return Finding{
		Got:  fmt.Sprintf("%v (%d sectors)", g, g.Product()),
		Want: fmt.Sprintf("%v, or a product of %d sectors", GeometryOf(sectors), sectors),
	}, true
}

func hex32(v uint32) string { return fmt.Sprintf("0x%08x", v) }
func hex64(v uint64) string { return fmt.Sprintf("0x%016x", v) }
