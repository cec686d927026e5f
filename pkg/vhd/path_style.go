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

// PathStyle is how an image spells the paths to its parent. [ParentRecord.Style] detects
// it.
type PathStyle struct {
	Forms    []PathForm // of the locators, in their order
	Slashes  bool       // Windows paths have slashes, as VirtualBox writes them on Linux
	FullName bool       // the name is the absolute path, not only the file name
	NoTime   bool       // the parent's time is not recorded
}

// PathForm is the form of one locator.
type PathForm struct {
	Code     string // of [Locator]
	Relative bool   // relative to the image's directory
	Bare     bool   // a relative path without ".\" or "./" before it
}

// The styles of new images. They are not to be changed.
var (
	// PathsAll has a relative and an absolute path, and a URL.
	PathsAll = PathStyle{Forms: []PathForm{{Code: "W2ru", Relative: true}, {Code: "W2ku"}, {Code: "MacX"}}}
	// PathsWindows has a relative and an absolute path, the latter also as the
	// name, and no time, as Windows 10 writes them.
	PathsWindows = PathStyle{Forms: []PathForm{{Code: "W2ru", Relative: true}, {Code: "W2ku"}}, FullName: true, NoTime: true}
	// PathsXen has the relative path in all three, as XenServer's vhd-util
	// writes them.
	PathsXen = PathStyle{Forms: []PathForm{{Code: "W2ru", Relative: true}, {Code: "W2ku", Relative: true}, {Code: "MacX", Relative: true}}}
)

// Style detects how the record spells its paths, so that another parent can be recorded
// in the same way.
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

// form is the form of the locator's path.
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

// ParentRecordOf is what an image in the file child is to record of its parent: the
// disk in the file name, which exists, while child need not. A disk that is not
// an [Image] is a raw parent. Paths that no VHD can hold are left out, unless they are
// relative: those are an error.
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
	near := err == nil // or else it is on another drive
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

// checkRelative checks that a path can be written in a VHD.
func checkRelative(path string) error {
	switch {
	case runtime.GOOS != "windows" && strings.Contains(path, `\`):
		return fmt.Errorf("%s: a path with a backslash cannot be written in a VHD", path)
	case !utf8.ValidString(path):
		return fmt.Errorf("%q: a path that is not UTF-8 cannot be written in a VHD", path)
	}
	return nil
}

// relative is a relative path as a locator of the form has it.
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

// windowsPath is a path with the separators of the style.
func (s *PathStyle) windowsPath(path string) string {
	path = filepath.ToSlash(path)
	if s.Slashes {
		return path
	}
	return strings.ReplaceAll(path, "/", `\`)
}

// escape writes a path as a part of a URL.
func escape(path string) string {
	u := url.URL{Path: path}
	return strings.TrimPrefix(u.EscapedPath(), "./")
}
