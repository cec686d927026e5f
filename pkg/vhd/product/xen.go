package product

import (
	"fmt"
	"math"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

const (
	vhdUtil = "`vhd-util check` of XenServer and XCP-ng"

	structureVersion = 0x00010000 // version of footer and header
	tapOldestVersion = 0x00010000 // version 0.1 has its sector bitmaps in the other bit order
	tapBatmapVersion = 0x00010002 // from this version on a batmap follows the BAT
	tapNewestVersion = 0x00010003

	// slack is the tolerance for time stamps in the future.
	slack = 30 * time.Minute
)

func xenRules() []Rule {
	return append([]Rule{
		footerRule, validRule,
		typeRule(vhdUtil, vhd.Dynamic, vhd.Differencing),
		blockSizeRule(vhdUtil, "its tools support no others", 2*mib),
		{
			Name: "creator", Field: "creator application", Wants: "tap",
			Reason: "its resize changes images of its own only", Source: "blktap",
			check: func(s *subject) (any, Want, bool) {
				return s.footer.Creator.String(), oneOf("tap"), s.footer.Creator != vhd.CreatorXenServer
			},
		},
		{
			Name: "tap-version", Field: "creator version", Wants: "from 1.0 to 1.3",
			Reason: "newer versions are refused; 0.1 has its sector bitmaps in the other bit order", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				v := s.footer.CreatorVersion
				return version(v), Want{Min: version(tapOldestVersion), Max: version(tapNewestVersion)},
					s.tap() && (v < tapOldestVersion || v > tapNewestVersion)
			},
		},
		{
			Name: "batmap", Field: "batmap", Wants: "one, if the creator version is 1.2 or 1.3",
			Reason: "the image is refused, and resize does nothing without one", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				return "none", oneOf("present"), s.tap() && s.dynamic() && s.footer.CreatorVersion >= tapBatmapVersion && !s.batmap
			},
		},
		{
			Name: "version", Field: "file format version", Wants: "1.0",
			Reason: "the image is refused", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				return version(s.footer.Version), oneOf(version(structureVersion)), s.footer.Version != structureVersion
			},
		},
		{
			Name: "header-version", Field: "header version", Wants: "1.0",
			Reason: "the image is refused", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				return version(s.header.Version), oneOf(version(structureVersion)), s.dynamic() && s.header.Version != structureVersion
			},
		},
		sizeRule("XenServer storage manager", 2*mib, 2040*gib),
		sizeMultipleRule("XenServer storage manager", "XenServer's disks are whole blocks of 2 MiB", 2*mib),
		{
			Name: "geometry", Field: "disk geometry", Wants: "no more than the specification's for the current size",
			Reason: "the image is refused (geometry too large)", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				g, most := s.footer.Geometry, vhd.GeometryOf(number(s.footer.CurrentSize)/vhd.SectorSize)
				return g, Want{Max: most}, asNumber(g) > asNumber(most)
			},
		},
		{
			Name: "header-data-offset", Field: "data offset of the header", Wants: "0xffffffffffffffff",
			Reason: "the image is refused", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				return hex64(s.header.DataOffset), oneOf(hex64(math.MaxUint64)), s.dynamic() && s.header.DataOffset != math.MaxUint64
			},
		},
		{
			Name: "metadata-first", Field: "first block", Wants: "after all metadata",
			Reason: "the image is refused (block clobbers headers)", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				return "before the end of the metadata", oneOf("after the metadata"), !s.metadataFirst()
			},
		},
		{
			Name: "features", Field: "features", Wants: "2, or 3 for a temporary disk",
			Reason: "the image is refused", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				f := s.footer.Features
				return int64(f), oneOf[int64](2, 3), f != 2 && f != 3
			},
		},
		{
			Name: "saved-state", Field: "saved state", Wants: "0 or 1",
			Reason: "the image is refused", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				return int64(s.footer.SavedState), oneOf[int64](0, 1), s.footer.SavedState > 1
			},
		},
		{
			Name: "hidden", Field: "hidden", Wants: "0 or 1",
			Reason: "the image is refused", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				return int64(s.footer.Reserved[0]), oneOf[int64](0, 1), s.footer.Reserved[0] > 1
			},
		},
		{
			Name: "reserved", Field: "reserved bytes", Wants: "zeros",
			Reason: "the image is refused", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				structures := s.reservedUsed()
				return structures, oneOf("zeros"), len(structures) > 0
			},
		},
		{
			Name: "timestamp", Field: "time stamp", Wants: "at most half an hour ahead",
			Reason: "the image is refused", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) { return s.ahead(s.footer.Timestamp) },
		},
		{
			Name: "footers", Field: "footers at the start and at the end", Wants: "two that are equal",
			Reason: "the image is refused", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				return "different", oneOf("equal"), s.trailing && !s.copiesAgree
			},
		},
		idRule,
	}, xenParentRules()...)
}

// tap reports whether the creator is XenServer.
func (s *subject) tap() bool { return s.footer.Creator == vhd.CreatorXenServer }

// ahead checks that a time stamp is not in the future.
func (s *subject) ahead(t vhd.Timestamp) (any, Want, bool) {
	most := s.now.Add(slack).UTC()
	return t.Time().Format(time.RFC3339), Want{Max: most.Format(time.RFC3339)}, t.Time().After(most)
}

// reservedUsed names the structures whose reserved bytes are not zero.
func (s *subject) reservedUsed() []string {
	var structures []string
	if tail := s.footer.Reserved[1:]; strings.Trim(string(tail), "\x00") != "" {
		structures = append(structures, "footer")
	}
	if s.header.Reserved1 != [4]byte{} || s.header.Reserved2 != [256]byte{} {
		structures = append(structures, "dynamic disk header")
	}
	for i, l := range s.header.LocatorEntries() {
		if l.Reserved != 0 {
			structures = append(structures, fmt.Sprintf("parent locator %d", i+1))
		}
	}
	return structures
}

// xenParentRules returns the rules about the parent record.
func xenParentRules() []Rule {
	rule := func(name, field, wants string, check func(s *subject) (found []string, wanted Want)) Rule {
		return Rule{
			Name: name, Field: field, Wants: wants, Reason: "the image is refused", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				if s.footer.Type != vhd.Differencing {
					return nil, Want{}, false
				}
				found, wanted := check(s)
				return found, wanted, len(found) > 0
			},
		}
	}
	return []Rule{
		{
			Name: "parent-fields", Field: "parent fields of a dynamic image", Wants: "zeros",
			Reason: "the image is refused", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				if s.footer.Type != vhd.Dynamic {
					return nil, Want{}, false
				}
				used := s.parentFieldsUsed()
				return used, oneOf("zeros"), len(used) > 0
			},
		},
		{
			Name: "parent-time", Field: "parent time stamp", Wants: "at most half an hour ahead",
			Reason: "the image is refused", Source: vhdUtil,
			check: func(s *subject) (any, Want, bool) {
				found, want, broken := s.ahead(s.header.ParentTimestamp)
				return found, want, broken && s.footer.Type == vhd.Differencing
			},
		},
		rule("locator-code", "platform codes of parent locators", "known codes", func(s *subject) (found []string, wanted Want) {
			for _, l := range s.locators() {
				if !slices.Contains(knownCodes, l.Code) {
					found = append(found, l.Code)
				}
			}
			return found, oneOf(knownCodes...)
		}),
		rule("locator-twice", "platform codes of parent locators", "each code once", func(s *subject) (found []string, wanted Want) {
			seen := map[string]int{}
			for _, l := range s.locators() {
				if seen[l.Code]++; seen[l.Code] == 2 {
					found = append(found, l.Code)
				}
			}
			return found, oneOf("distinct")
		}),
		rule("locator-empty", "parent locators", "each with an offset, a space and a length, or all zero", func(s *subject) (found []string, wanted Want) {
			for i, l := range s.header.LocatorEntries() {
				empty := l.Offset == 0 || l.Space == 0 || l.Length == 0
				if unusedCode(l.Code) {
					empty = l.Offset != 0 || l.Space != 0 || l.Length != 0
				}
				if empty {
					found = append(found, fmt.Sprintf("parent locator %d", i+1))
				}
			}
			return found, oneOf("non-empty")
		}),
		rule("locator-missing", "parent locators", "a path with code W2ru, W2ku or MacX", func(s *subject) ([]string, Want) {
			want := oneOf("W2ru", "W2ku", "MacX")
			if len(s.paths()) == 0 {
				return []string{"none"}, want
			}
			return nil, want
		}),
		rule("locator-name", "file names of parent locators", "the parent name of the header", func(s *subject) (found []string, wanted Want) {
			for _, l := range s.paths() {
				if !isAny(l.Path, func(p string) bool { return path.Base(p) == s.parent.Name }) {
					found = append(found, l.Code+" "+l.Path)
				}
			}
			return found, oneOf(s.parent.Name)
		}),
		rule("locator-path", "paths of parent locators", "paths relative to the image that lead to a file", func(s *subject) (found []string, wanted Want) {
			if s.dir == "" {
				return nil, wanted
			}
			for _, l := range s.paths() {
				if !isAny(l.Path, s.leadsToFile) {
					found = append(found, l.Code+" "+l.Path)
				}
			}
			return found, oneOf("existing")
		}),
	}
}

var knownCodes = []string{"W2ru", "W2ku", "Wi2r", "Wi2k", "Mac ", "MacX"}

func unusedCode(code string) bool { return strings.Trim(code, "\x00") == "" }

// locators returns the entries of the header that are in use.
func (s *subject) locators() []vhd.LocatorEntry {
	var used []vhd.LocatorEntry
	for _, l := range s.header.LocatorEntries() {
		if !unusedCode(l.Code) {
			used = append(used, l)
		}
	}
	return used
}

// parentFieldsUsed names the parent fields that are not zero.
func (s *subject) parentFieldsUsed() []string {
	var used []string
	if s.header.ParentID != uuid.Nil {
		used = append(used, "parent unique id")
	}
	if s.header.ParentTimestamp != 0 {
		used = append(used, "parent time stamp")
	}
	if s.header.ParentName != [512]byte{} {
		used = append(used, "parent name")
	}
	if s.header.Locators != [192]byte{} {
		used = append(used, "parent locators")
	}
	return used
}

// paths returns the locators that XenServer's tools read, with their interpretation of the
// paths. Relative paths start at the image's directory, and only a path that starts with a
// slash is absolute.
func (s *subject) paths() []vhd.Locator {
	var paths []vhd.Locator
	for _, l := range s.parent.Locators {
		p := l.Path
		switch l.Code {
		case "W2ru", "W2ku":
			if len(p) >= 2 && p[1] == ':' {
				p = p[2:]
			}
			p = strings.ReplaceAll(p, `\`, "/")
		case "MacX":
			p = strings.TrimPrefix(p, "file://")
		default:
			continue
		}
		paths = append(paths, vhd.Locator{Code: l.Code, Path: p})
	}
	return paths
}

// isAny reports whether a path has the property, literally or with URL escapes decoded.
func isAny(p string, property func(string) bool) bool {
	if property(p) {
		return true
	}
	plain, err := url.PathUnescape(p)
	return err == nil && plain != p && property(plain)
}

// leadsToFile reports whether a path is that of a file. It does not open the file.
func (s *subject) leadsToFile(p string) bool {
	p = filepath.FromSlash(p)
	if !filepath.IsAbs(p) {
		p = filepath.Join(s.dir, p)
	}
	st, err := os.Stat(p)
	return err == nil && !st.IsDir()
}

// asNumber returns the geometry as the 32-bit number in the footer.
func asNumber(g vhd.Geometry) uint32 {
	return uint32(g.Cylinders)<<16 | uint32(g.Heads)<<8 | uint32(g.Sectors)
}

func hex64(v uint64) string { return fmt.Sprintf("0x%016x", v) }
