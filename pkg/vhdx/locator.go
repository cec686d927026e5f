package vhdx

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// locatorType is the type of a parent locator that leads to a VHDX.
var locatorType = uuid.MustParse("b04aefb7-d19e-4a81-b789-25b8e9445913")

// ParentLocator is the parent record of a differencing image. Its paths are text from the image: do
// not trust them.
type ParentLocator struct {
	Linkage  uuid.UUID // data write GUID of the parent
	Linkage2 uuid.UUID // another one that the parent may have; or zero
	Relative string    // path relative to the image, with backslashes
	Volume   string    // path with the GUID of a volume
	Absolute string    // path with a drive letter
}

// Keys of a parent locator.
const (
	keyLinkage  = "parent_linkage"
	keyLinkage2 = "parent_linkage2"
	keyRelative = "relative_path"
	keyVolume   = "volume_path"
	keyAbsolute = "absolute_win32_path"
)

// decodeParentLocator decodes the parent locator in a metadata region at an offset of the file.
//
//	0  16 type
//	18 2  number of entries
//	20    entries: u32 key offset, u32 value offset, u16 key length, u16 value length
func decodeParentLocator(b []byte, at int64) (l ParentLocator, fault *finding) {
	fail := func(want, got string, args ...any) (ParentLocator, *finding) {
		f := newFinding("parent-locator", disk.Error, at, "metadata: parent locator", want, got, args...)
		return l, &f
	}
	if len(b) < 20 {
		return fail("at least 20 bytes", "%d", len(b))
	}
	le := binary.LittleEndian
	if t := guidAt(b); t != locatorType {
		_, f := fail("the type "+locatorType.String(), "%v", t)
		f.unsupported = true
		return l, f
	}
	count := int(le.Uint16(b[18:]))
	if 20+12*count > len(b) {
		return fail(fmt.Sprintf("at most %d entries in %d bytes", (len(b)-20)/12, len(b)), "%d", count)
	}
	values := map[string]string{}
	for i := range count {
		x := b[20+12*i:]
		key, ok := locatorText(b, le.Uint32(x), le.Uint16(x[8:]))
		value, ok2 := locatorText(b, le.Uint32(x[4:]), le.Uint16(x[10:]))
		if !ok || !ok2 {
			return fail("texts within the locator", "entry %d outside of it", i)
		}
		if _, twice := values[key]; twice {
			return fail("each key once", "%q twice", key)
		}
		values[key] = value
	}
	var err error
	if l.Linkage, err = uuid.Parse(values[keyLinkage]); err != nil {
		return fail("a GUID for parent_linkage", "%q", values[keyLinkage])
	}
	if v := values[keyLinkage2]; v != "" {
		if l.Linkage2, err = uuid.Parse(v); err != nil {
			return fail("a GUID for parent_linkage2", "%q", v)
		}
	}
	l.Relative, l.Volume, l.Absolute = values[keyRelative], values[keyVolume], values[keyAbsolute]
	return l, nil
}

// locatorText decodes n bytes of text at an offset of the locator.
func locatorText(b []byte, off uint32, n uint16) (string, bool) {
	if uint64(off)+uint64(n) > uint64(len(b)) || n%2 != 0 {
		return "", false
	}
	return decodeUTF16(b[off : off+uint32(n)]), true
}

// Paths returns the recorded paths, the most portable one first.
func (l *ParentLocator) Paths() []string {
	var paths []string
	for _, p := range []string{l.Relative, l.Absolute, l.Volume} {
		if p != "" {
			paths = append(paths, p)
		}
	}
	return paths
}

// accepts reports whether the parent may have this data write GUID.
func (l *ParentLocator) accepts(id uuid.UUID) bool {
	return id == l.Linkage || l.Linkage2 != uuid.Nil && id == l.Linkage2
}

// name is the file name at the end of a recorded path, or "".
func (l *ParentLocator) name() string {
	for _, p := range l.Paths() {
		p = strings.ReplaceAll(p, `\`, "/")
		if name := p[strings.LastIndexByte(p, '/')+1:]; name != "" && name != "." && name != ".." {
			return name
		}
	}
	return ""
}
