package vhd

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// PathStyle is the style of the paths to the parent in an image. [ParentRecord.Style] detects
// it.
type PathStyle struct {
	Forms    []PathForm // forms of the locators, in their order
	Slashes  bool       // Windows paths have slashes, as VirtualBox writes them on Linux
	FullName bool       // the name is the absolute path instead of the file name
	NoTime   bool       // the parent's time is not recorded
}

// PathForm is the form of one locator.
type PathForm struct {
	Code     string // of [Locator]
	Relative bool   // relative to the image's directory
	Bare     bool   // a relative path without ".\" or "./" before it
}

// The styles of new images. Do not change these variables.
var (
	// PathsAll has a relative path, an absolute path and a URL.
	PathsAll = PathStyle{Forms: []PathForm{{Code: "W2ru", Relative: true}, {Code: "W2ku"}, {Code: "MacX"}}}
	// PathsWindows is the style of Windows 10: a relative and an absolute path, the absolute
	// path as the name, and no time.
	PathsWindows = PathStyle{Forms: []PathForm{{Code: "W2ru", Relative: true}, {Code: "W2ku"}}, FullName: true, NoTime: true}
	// PathsXen is the style of XenServer's vhd-util: the relative path in all three forms.
	PathsXen = PathStyle{Forms: []PathForm{{Code: "W2ru", Relative: true}, {Code: "W2ku", Relative: true}, {Code: "MacX", Relative: true}}}
)

// Style detects the style of the record's paths, so that another parent can be recorded in the
// same style.
func (p *ParentRecord) Style() PathStyle {
	s := PathStyle{NoTime: p.Time == 0, FullName: strings.ContainsAny(p.Name, `/\`)}
	slashes, backslashes := false, false
	for _, l := range p.Locators {
		if l.Code != "MacX" {
			slashes, backslashes = slashes || strings.Contains(l.Path, "/"), backslashes || strings.Contains(l.Path, `\`)
		}
		s.Forms = append(s.Forms, l.form())
	}
	s.Slashes = slashes && !backslashes
	return s
}

// form returns the form of the locator's path.
func (l *Locator) form() PathForm {
	f := PathForm{Code: l.Code}
	path := strings.ReplaceAll(l.Path, `\`, "/")
	if l.Code == "MacX" {
		rest, isURL := cutPrefixFold(path, "file:")
		rest, hasHost := strings.CutPrefix(rest, "//")
		host, _, _ := strings.Cut(rest, "/")
		if isURL && hasHost && strings.EqualFold(host, "localhost") {
			return f
		}
		path = rest
	}
	drive := len(path) >= 2 && path[1] == ':'
	f.Relative = l.Code == "W2ru" || l.Code == "Wi2r" || !strings.HasPrefix(path, "/") && !drive
	f.Bare = f.Relative && !strings.HasPrefix(path, "./")
	return f
}

// ParentRecordOf returns the parent record for an image in the file child. Its parent is the
// disk in the file name, which must exist; child need not. A disk that is not an [Image] is a
// raw parent. An absolute path that a VHD cannot hold is omitted, a relative one is an error.
func ParentRecordOf(child, name string, parent disk.Disk, s PathStyle) (ParentRecord, error) {
	var p ParentRecord
	if img, ok := parent.(*Image); ok {
		if p.ID = img.footer.UniqueID; p.ID == uuid.Nil {
			return p, fmt.Errorf("%s: %w: a parent whose unique id is zero", name, ErrUnsupported)
		}
	}
	st, err := os.Stat(name)
	if err != nil {
		return p, err
	}
	if !s.NoTime {
		p.Time = NearestTimestamp(st.ModTime())
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return p, err
	}
	childAbs, err := filepath.Abs(child)
	if err != nil {
		return p, err
	}
	relative, err := filepath.Rel(filepath.Dir(childAbs), abs)
	near := err == nil // otherwise it is on another drive
	p.Name = filepath.Base(abs)
	usable := utf8.ValidString(abs) && (runtime.GOOS == "windows" || !strings.Contains(abs, `\`))
	if s.FullName && usable {
		p.Name = s.windowsPath(abs)
	}
	if len(utf16.Encode([]rune(p.Name))) > nameUnits {
		p.Name = filepath.Base(abs)
	}
	for _, f := range s.Forms {
		switch {
		case f.Relative && near:
			if err := checkRelative(relative); err != nil {
				return p, err
			}
			p.Locators = append(p.Locators, Locator{f.Code, s.relative(f, relative)})
		case !usable || f.Code == "W2ru" || f.Code == "Wi2r":
		case f.Code == "MacX":
			p.Locators = append(p.Locators, Locator{f.Code, "file://localhost/" + escape(strings.TrimPrefix(filepath.ToSlash(abs), "/"))})
		default:
			p.Locators = append(p.Locators, Locator{f.Code, s.windowsPath(abs)})
		}
	}
	return p, nil
}

// checkRelative returns an error for a path that a VHD cannot hold.
func checkRelative(path string) error {
	switch {
	case runtime.GOOS != "windows" && strings.Contains(path, `\`):
		return fmt.Errorf("%s: a path with a backslash cannot be written in a VHD", path)
	case !utf8.ValidString(path):
		return fmt.Errorf("%q: a path that is not UTF-8 cannot be written in a VHD", path)
	}
	return nil
}

// relative returns a relative path in a locator form.
func (s *PathStyle) relative(f PathForm, path string) string {
	dot := "./"
	if f.Bare {
		dot = ""
	}
	if f.Code == "MacX" {
		return "file://" + dot + escape(filepath.ToSlash(path))
	}
	return s.windowsPath(dot + path)
}

// windowsPath returns a path with the separators of the style.
func (s *PathStyle) windowsPath(path string) string {
	path = filepath.ToSlash(path)
	if s.Slashes {
		return path
	}
	return strings.ReplaceAll(path, "/", `\`)
}

// escape escapes a path for a URL.
func escape(path string) string {
	u := url.URL{Path: path}
	return strings.TrimPrefix(u.EscapedPath(), "./")
}
