package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"
)

// locator is one of the eight parent locator entries of a differencing image's
// header ("Parent Locator Entries"). It points to a path to the parent in the file.
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

// locatorCode reports whether the text of a platform code is UTF-16, and whether the code is
// known.
func locatorCode(code string) (wide, known bool) {
	switch code {
	case "W2ru", "W2ku":
		return true, true
	case "Wi2r", "Wi2k", "Mac ", "MacX":
		return false, true
	}
	return false, false
}

// locators returns the used entries, by their number from 0.
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

// LocatorEntry is one of the eight parent locator entries of the header, as it is in the file.
type LocatorEntry struct {
	Code     string // 4 bytes; NULs if the entry is not used
	Space    uint32 // bytes or sectors
	Length   uint32 // length of the text, bytes
	Reserved uint32
	Offset   uint64 // offset of the text in the file, bytes
}

// LocatorEntries returns the eight parent locator entries, used or not.
func (h *Header) LocatorEntries() []LocatorEntry {
	var all []LocatorEntry
	for b := range slices.Chunk(h.Locators[:], locatorSize) {
		be := binary.BigEndian
		all = append(all, LocatorEntry{string(b[:4]), be.Uint32(b[4:]), be.Uint32(b[8:]), be.Uint32(b[12:]), be.Uint64(b[16:])})
	}
	return all
}

// put encodes the entry into b.
func (l *locator) put(b []byte) {
	be := binary.BigEndian
	copy(b[:4], l.code)
	be.PutUint32(b[4:], l.space)
	be.PutUint32(b[8:], l.length)
	be.PutUint32(b[12:], l.reserved)
	be.PutUint64(b[16:], l.offset)
}

// maxLocatorText is the longest supported path, in bytes.
const maxLocatorText = 64 << 10

// errNoText says that the entry has no text that can be read as a path.
var errNoText = errors.New("no path")

// text reads the path from a file of size bytes. UTF-16 is little-endian here, although the
// parent name is big-endian. Broken surrogates become U+FFFD. The length may include NULs at
// the end of the text.
func (l *locator) text(r io.ReaderAt, size int64) (string, error) {
	wide, known := locatorCode(l.code)
	if !known || l.code == "Mac " || l.length == 0 || l.length > maxLocatorText || wide && l.length%2 != 0 ||
		l.offset > uint64(size) || uint64(l.length) > uint64(size)-l.offset {
		return "", errNoText
	}
	b := make([]byte, l.length)
	if err := readFull(r, b, int64(l.offset)); err != nil {
		return "", err
	}
	text := string(b)
	switch {
	case wide:
		var units []uint16
		for ; len(b) > 0; b = b[2:] {
			units = append(units, binary.LittleEndian.Uint16(b))
		}
		text = string(utf16.Decode(units))
	case l.code != "MacX": // 8-bit characters, read as Latin-1
		runes := make([]rune, len(b))
		for i, c := range b {
			runes[i] = rune(c)
		}
		text = string(runes)
	}
	text = strings.TrimRight(text, "\x00")
	if text == "" || strings.ContainsRune(text, 0) || !utf8.ValidString(text) {
		return "", errNoText
	}
	return text, nil
}

// region returns the region of the entry's text in a file of size bytes. It interprets the unit
// of the space as most writers do.
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

// locatorRegions returns the regions of the texts of all entries in a file of size bytes.
func (h *Header) locatorRegions(size int64) []region {
	var rs []region
	used := h.locators()
	for i := range locatorCount {
		if l, ok := used[i]; ok {
			if x, ok := l.region(i, size); ok {
				rs = append(rs, x)
			}
		}
	}
	return rs
}

// validateParent returns findings about the parent record of a differencing image in a file of
// size bytes. The parent is not opened.
func (h *Header) validateParent(f *Footer, lay *layout, t bat, size int64) []finding {
	var fs []finding
	odd := func(id string, sev Severity, at int, field, got, want string) *finding {
		fs = append(fs, finding{Finding: Finding{ID: id, Severity: sev, Offset: int64(f.DataOffset) + int64(at), Field: "dynamic disk header: " + field, Got: got, Want: want}})
		return &fs[len(fs)-1]
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
		wide, known := locatorCode(l.code)
		good := false
		switch over := l.over(lay, t, used, i); {
		case !known:
			odd("locator-code", Warning, at, field+"platform code", fmt.Sprintf("%q", l.code), "a known code")
		case l.length == 0 || l.length > maxLocatorText:
			odd("locator-length", Warning, at+8, field+"platform data length", fmt.Sprint(l.length), "from 1 to 65536").number(uint64(l.length), between(1, maxLocatorText))
		case wide && l.length%2 != 0:
			odd("locator-length", Warning, at+8, field+"platform data length", fmt.Sprint(l.length), "an even number, of UTF-16 text").number(uint64(l.length), multipleOf(2))
		case l.offset > uint64(size) || uint64(l.length) > uint64(size)-l.offset:
			odd("locator-place", Warning, at+16, field+"platform data offset", fmt.Sprint(l.offset),
				fmt.Sprintf("an offset followed by %d bytes in the file", l.length)).number(l.offset, atMost(uint64(max(0, size-int64(l.length)))))
		case over != "":
			odd("locator-place", Warning, at+16, field+"platform data offset", fmt.Sprintf("%d, a text in %s", l.offset, over), "an offset in unused space")
		default:
			good = true
		}
		if l.reserved != 0 {
			odd("locator-reserved", Warning, at+12, field+"reserved", hex32(l.reserved), "0").number(uint64(l.reserved), oneOf(0))
		}
		if good && !l.spacious() {
			odd("locator-space", Warning, at+4, field+"platform data space", fmt.Sprint(l.space),
				fmt.Sprintf("space for %d bytes, as a multiple of 512 (or less than 512, in sectors)", l.length))
		}
		if seen[l.code] {
			odd("locator-twice", Warning, at, field+"platform code", fmt.Sprintf("%q for the second time", l.code), "each code once")
		}
		if good {
			usable++
		}
		seen[l.code] = true
	}
	if usable == 0 { // Windows does not find the parent: an error, no warning
		for i := range fs {
			if fs[i].ID == "locator-length" || fs[i].ID == "locator-place" {
				fs[i].Severity = Error
			}
		}
	}
	if usable == 0 && [2]byte(h.ParentName[:]) == [2]byte{} {
		odd("parent-unnamed", Error, 64, "parent name and locators", "no usable path", "a path to the parent")
	}
	if h.ParentID == uuid.Nil && f.Creator != CreatorXenServer {
		odd("parent-id", Warning, 40, "parent unique id", "zeros: the parent is a raw disk", "an id: only XenServer's tools and vhdtool support raw parents")
	}
	return fs
}

// spacious reports whether the space holds the text, in the unit that most writers use.
func (l *locator) spacious() bool {
	space := int64(l.space)
	if l.space < SectorSize {
		space *= SectorSize
	}
	return space%SectorSize == 0 && space >= int64(l.length)
}

// over names what the text of locator i overlaps; "" for nothing.
func (l *locator) over(lay *layout, t bat, all map[int]locator, i int) string {
	start, end := int64(l.offset), int64(l.offset)+int64(l.length)
	if l.offset > math.MaxInt64-maxLocatorText || start == end {
		return ""
	}
	if r := regionOver(slices.Concat(lay.regions, lay.batmap), start, end); r != nil {
		return "the " + r.name
	}
	if end > lay.limit {
		return "the footer"
	}
	for k, x := range all {
		if k < i && x.length <= maxLocatorText && x.offset < uint64(end) && x.offset+uint64(x.length) > uint64(start) {
			return fmt.Sprintf("parent locator %d", k+1)
		}
	}
	if block := t.over(lay, start, end); block >= 0 {
		return fmt.Sprintf("block %d", block)
	}
	return ""
}
