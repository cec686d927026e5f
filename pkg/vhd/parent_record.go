package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"github.com/google/uuid"
)

// ParentRecord has the fields of a differencing image that identify its parent ("Differencing
// Hard Disks").
type ParentRecord struct {
	// ID is the parent's unique id. It is zero if the parent is a raw disk, as XenServer
	// allows.
	ID uuid.UUID
	// Time is the time of the last change of the parent's file; 0 if it is not recorded.
	Time Timestamp
	// Name is the parent's file name, with or without its directories.
	Name string
	// Locators are paths to the parent, at most 8.
	Locators []Locator
}

// Locator is a path to the parent, as it is in the image.
type Locator struct {
	// Code is the form of the path: "W2ru" is relative with backslashes, "W2ku" is absolute
	// with backslashes, and "MacX" is a file URL. "Wi2r" and "Wi2k" are obsolete forms of the
	// first two.
	Code string
	// Path is the text. An image may contain any text, so it is not to be trusted.
	Path string
}

// nameUnits is the length of the name in the header, in UTF-16 units.
const nameUnits = 256

// placedText is the text of a locator, and its offset in the file.
type placedText struct {
	text []byte
	off  int64
}

// texts returns the texts of the locators, one after the other from offset at on, a multiple of
// 512.
func (p *ParentRecord) texts(at int64) []placedText {
	var texts []placedText
	for _, l := range p.Locators {
		t := placedText{l.encode(), at}
		texts = append(texts, t)
		at = t.end()
	}
	return texts
}

// end returns the offset after the space of the text.
func (t *placedText) end() int64 { return t.off + roundUp(int64(len(t.text)), SectorSize) }

// encodeInto sets the parent fields of a header whose texts start at offset at. It returns the
// end of the texts.
func (p *ParentRecord) encodeInto(h *Header, at int64) (int64, error) {
	if len(p.Locators) > locatorCount {
		return 0, fmt.Errorf("%d parent locators: an image has at most %d", len(p.Locators), locatorCount)
	}
	h.ParentID, h.ParentTimestamp = p.ID, p.Time
	h.ParentName, h.Locators = [512]byte{}, [192]byte{}
	name := utf16.Encode([]rune(p.Name))
	if len(name) > nameUnits {
		return 0, fmt.Errorf("parent name %q: a header has space for %d characters", p.Name, nameUnits)
	}
	for i, u := range name {
		binary.BigEndian.PutUint16(h.ParentName[2*i:], u)
	}
	for i, t := range p.texts(at) {
		code := p.Locators[i].Code
		if wide, _ := locatorCode(code); !wide && code != "MacX" && strings.ContainsFunc(p.Locators[i].Path, func(r rune) bool { return r > 0xff }) {
			return 0, fmt.Errorf("parent locator %q: %q cannot be written in 8-bit characters", code, p.Locators[i].Path)
		}
		if len(t.text) == 0 || len(t.text) > maxLocatorText {
			return 0, fmt.Errorf("parent locator %q: a path of %d bytes, want 1 to %d", code, len(t.text), maxLocatorText)
		}
		e := locator{code: code, space: uint32(t.end() - t.off), length: uint32(len(t.text)), offset: uint64(t.off)}
		e.put(h.Locators[i*locatorSize:])
		at = t.end()
	}
	return at, nil
}

// encode returns the text in the encoding of its code.
func (l *Locator) encode() []byte {
	var b []byte
	if wide, _ := locatorCode(l.Code); !wide {
		if l.Code == "MacX" {
			return []byte(l.Path)
		}
		for _, r := range l.Path { // Latin-1, as text decodes it
			b = append(b, byte(r))
		}
		return b
	}
	for _, u := range utf16.Encode([]rune(l.Path)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

// writeTexts writes the texts of locators.
func (img *Image) writeTexts(texts []placedText) error {
	for _, t := range texts {
		b := make([]byte, t.end()-t.off)
		copy(b, t.text)
		if _, err := img.f.WriteAt(b, t.off); err != nil {
			return fmt.Errorf("parent locator: %w", err)
		}
	}
	return nil
}

// ParentRecord returns the parent record of a differencing image, without invalid locators. It
// is zero for all other images.
func (img *Image) ParentRecord() ParentRecord { return img.parentRecord }

// readParentRecord reads the parent record from a file of size bytes.
func readParentRecord(r io.ReaderAt, size int64, h *Header) (ParentRecord, error) {
	p := ParentRecord{ID: h.ParentID, Time: h.ParentTimestamp, Name: h.parentName()}
	used := h.locators()
	for i := range locatorCount {
		l, ok := used[i]
		if !ok {
			continue
		}
		text, err := l.text(r, size)
		if errors.Is(err, errNoText) {
			continue
		}
		if err != nil {
			return p, fmt.Errorf("parent locator %d: %w", i+1, err)
		}
		p.Locators = append(p.Locators, Locator{l.code, text})
	}
	return p, nil
}

// parentName returns the name in the header, up to the first NUL.
func (h *Header) parentName() string {
	var units []uint16
	for b := h.ParentName[:]; len(b) > 0; b = b[2:] {
		u := binary.BigEndian.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
