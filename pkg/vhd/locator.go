package vhd

import (
	"encoding/binary"
	"fmt"
)

// locator is one of the eight parent locator entries of a differencing image's
// header ("Parent Locator Entries"): where in the file a path to the parent
// stands.
//
//	off size field
//	  0    4 platform code, 0 if the entry is not used
//	  4    4 platform data space: sectors in the specification, bytes in practice
//	  8    4 platform data length, bytes
//	 12    4 reserved
//	 16    8 platform data offset, bytes
type locator struct {
	code     string
	space    uint32
	length   uint32
	reserved uint32
	offset   uint64
}

const (
	locatorCount = 8
	locatorSize  = 24
)

// The platform codes, and whether the text is UTF-16.
var locatorCodes = map[string]bool{
	"W2ru": true, "W2ku": true, "Wi2r": false, "Wi2k": false, "Mac ": false, "MacX": false,
}

// locators returns the entries that are used, by their number from 0.
func (h *Header) locators() map[int]locator {
	used := map[int]locator{}
	for i := range locatorCount {
		b := h.Locators[i*locatorSize:][:locatorSize]
		if [4]byte(b) == [4]byte{} {
			continue
		}
		be := binary.BigEndian
		used[i] = locator{string(b[:4]), be.Uint32(b[4:]), be.Uint32(b[8:]), be.Uint32(b[12:]), be.Uint64(b[16:])}
	}
	return used
}

// region is what the entry's text takes of a file of size bytes, the unit of the
// space being what most writers mean by it.
func (l *locator) region(i int, size int64) (region, bool) {
	space := max(int64(l.space), roundUp(int64(l.length), SectorSize))
	if l.space > 0 && l.space < SectorSize {
		space = max(space, int64(l.space)*SectorSize)
	}
	if l.offset >= uint64(size) {
		return region{}, false
	}
	start := int64(l.offset)
	return region{fmt.Sprintf("parent locator %d", i+1), start, min(size, start+space)}, true
}

// validateParent lists what is odd about how a differencing image, whose header
// is at off in a file of size bytes, names its parent. The parent is not opened.
func (h *Header) validateParent(off, size int64) []Finding {
	var fs []Finding
	odd := func(id string, sev Severity, at int, field, got, want string) {
		fs = append(fs, Finding{ID: id, Severity: sev, Offset: off + int64(at), Field: "dynamic disk header: " + field, Got: got, Want: want})
	}
	used := h.locators()
	usable := 0
	seen := map[string]bool{}
	for i := range locatorCount {
		l, ok := used[i]
		if !ok {
			continue
		}
		at, field := 576+i*locatorSize, fmt.Sprintf("parent locator %d: ", i+1)
		utf16, known := locatorCodes[l.code]
		before := len(fs)
		switch {
		case !known:
			odd("locator-code", Warning, at, field+"platform code", fmt.Sprintf("%q", l.code), "a code that is known")
		case l.length == 0 || l.length > 64<<10:
			odd("locator-length", Warning, at+8, field+"platform data length", fmt.Sprint(l.length), "from 1 to 65536")
		case utf16 && l.length%2 != 0:
			odd("locator-length", Warning, at+8, field+"platform data length", fmt.Sprint(l.length), "an even number, of UTF-16 text")
		case l.offset > uint64(size) || uint64(l.length) > uint64(size)-l.offset:
			odd("locator-place", Warning, at+16, field+"platform data offset", fmt.Sprint(l.offset),
				fmt.Sprintf("one with %d bytes behind it in the file", l.length))
		case l.reserved != 0:
			odd("locator-reserved", Warning, at+12, field+"reserved", hex32(l.reserved), "0")
		case seen[l.code]:
			odd("locator-twice", Warning, at, field+"platform code", fmt.Sprintf("%q for the second time", l.code), "each code once")
		}
		if len(fs) == before {
			usable++
		}
		seen[l.code] = true
	}
	// XenServer has a zero id for a parent that is a raw disk.
	if usable == 0 && [2]byte(h.ParentName[:]) == [2]byte{} {
		odd("parent-unnamed", Error, 64, "parent name and locators", "none that is usable", "one that says where the parent is")
	}
	return fs
}
