package vhd_test

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// styles are records as products write them, with their style.
var styles = map[string]struct {
	record vhd.ParentRecord
	want   vhd.PathStyle
}{
	"all": {
		vhd.ParentRecord{Time: 1, Name: "base.vhd", Locators: []vhd.Locator{
			{Code: "W2ru", Path: `.\base.vhd`},
			{Code: "W2ku", Path: `\vm\base.vhd`},
			{Code: "MacX", Path: "file://localhost/vm/base.vhd"},
		}},
		vhd.PathsAll,
	},
	"Windows 10": {
		vhd.ParentRecord{Name: `C:\vm\base.vhd`, Locators: []vhd.Locator{
			{Code: "W2ru", Path: `.\base.vhd`},
			{Code: "W2ku", Path: `C:\vm\base.vhd`},
		}},
		vhd.PathsWindows,
	},
	"XenServer": {
		vhd.ParentRecord{Time: 1, Name: "base.vhd", Locators: []vhd.Locator{
			{Code: "W2ru", Path: `.\base.vhd`},
			{Code: "W2ku", Path: `.\base.vhd`},
			{Code: "MacX", Path: "file://./base.vhd"},
		}},
		vhd.PathsXen,
	},
	"VirtualBox on Linux": {
		vhd.ParentRecord{Time: 1, Name: "base.vhd", Locators: []vhd.Locator{
			{Code: "W2ku", Path: "/vm/base.vhd"},
			{Code: "W2ru", Path: "base.vhd"},
		}},
		vhd.PathStyle{Forms: []vhd.PathForm{{Code: "W2ku"}, {Code: "W2ru", Relative: true, Bare: true}}, Slashes: true},
	},
	"Virtual PC 2007": {
		vhd.ParentRecord{Time: 1, Name: "base.vhd", Locators: []vhd.Locator{
			{Code: "W2ku", Path: `C:\vm\base.vhd`},
			{Code: "W2ru", Path: `.\base.vhd`},
			{Code: "Wi2k", Path: `C:\vm\base.vhd`},
			{Code: "Wi2r", Path: `.\base.vhd`},
		}},
		vhd.PathStyle{Forms: []vhd.PathForm{
			{Code: "W2ku"}, {Code: "W2ru", Relative: true}, {Code: "Wi2k"}, {Code: "Wi2r", Relative: true},
		}},
	},
	"URL without a host": {
		vhd.ParentRecord{Time: 1, Name: "base.vhd", Locators: []vhd.Locator{{Code: "MacX", Path: "file:///vm/base.vhd"}}},
		vhd.PathStyle{Forms: []vhd.PathForm{{Code: "MacX"}}},
	},
	"relative URL without a dot": {
		vhd.ParentRecord{Time: 1, Name: "base.vhd", Locators: []vhd.Locator{{Code: "MacX", Path: "file://base.vhd"}}},
		vhd.PathStyle{Forms: []vhd.PathForm{{Code: "MacX", Relative: true, Bare: true}}},
	},
	"name only": {vhd.ParentRecord{Name: "base.vhd"}, vhd.PathStyle{NoTime: true}},
}

func TestParentRecordStyle(t *testing.T) {
	for name, c := range styles {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.record.Style()); diff != "" {
				t.Errorf("style (-want +got):\n%s", diff)
			}
		})
	}
}

// Another parent is recorded in the old style: with the same locators, in the same order and
// form, and a time only if there was one.
func TestParentRecordKeepsStyle(t *testing.T) {
	dir := t.TempDir()
	parent := filepath.Join(dir, "sub", "new base.vhd")
	tree(t, dir, map[string][]byte{filepath.Join("sub", "new base.vhd"): fixedImage(pattern(16*kib, 1))})
	d, err := vhd.Open(parent, nil)
	must(t, err)
	defer d.Close()
	slashed := filepath.ToSlash(parent)
	backslashed := strings.ReplaceAll(slashed, "/", `\`)
	url := "file://localhost/" + strings.ReplaceAll(strings.TrimPrefix(slashed, "/"), " ", "%20")
	want := map[string][]string{
		"all":                        {`.\sub\new base.vhd`, backslashed, url},
		"Windows 10":                 {`.\sub\new base.vhd`, backslashed},
		"XenServer":                  {`.\sub\new base.vhd`, `.\sub\new base.vhd`, "file://./sub/new%20base.vhd"},
		"VirtualBox on Linux":        {slashed, "sub/new base.vhd"},
		"Virtual PC 2007":            {backslashed, `.\sub\new base.vhd`, backslashed, `.\sub\new base.vhd`},
		"URL without a host":         {url},
		"relative URL without a dot": {"file://sub/new%20base.vhd"},
		"name only":                  nil,
	}
	for name, c := range styles {
		t.Run(name, func(t *testing.T) {
			p, err := vhd.ParentRecordOf(filepath.Join(dir, "child.vhd"), parent, d, c.record.Style())
			must(t, err)
			var codes, wantCodes, paths []string
			for _, l := range p.Locators {
				codes, paths = append(codes, l.Code), append(paths, l.Path)
			}
			for _, l := range c.record.Locators {
				wantCodes = append(wantCodes, l.Code)
			}
			if diff := cmp.Diff(wantCodes, codes) + cmp.Diff(want[name], paths); diff != "" {
				t.Errorf("locators (-want +got):\n%s", diff)
			}
			if (p.Time == 0) != (c.record.Time == 0) {
				t.Errorf("time %d, and that of the old parent was %d", p.Time, c.record.Time)
			}
			wantName := "new base.vhd"
			if c.want.FullName {
				wantName = backslashed
			}
			if p.Name != wantName {
				t.Errorf("name %q, want %q", p.Name, wantName)
			}
		})
	}
}

// The deprecated codes have 8-bit characters. Such text is read and written in the same
// encoding, and a path with other characters is refused.
func TestEightBitLocators(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the paths below are of other systems")
	}
	dir := t.TempDir()
	tree(t, dir, map[string][]byte{"bäse.vhd": fixedImage(pattern(16*kib, 1)), "база.vhd": fixedImage(pattern(16*kib, 1))})
	style := vhd.PathStyle{Forms: []vhd.PathForm{{Code: "Wi2r", Relative: true}}}
	for name, want := range map[string]string{"bäse.vhd": "", "база.vhd": "8-bit"} {
		parent, err := vhd.Open(filepath.Join(dir, name), nil)
		must(t, err)
		record, err := vhd.ParentRecordOf(filepath.Join(dir, "child.vhd"), filepath.Join(dir, name), parent, style)
		must(t, err)
		m := &memFile{}
		img, err := vhd.CreateIn(m, &vhd.CreateOptions{Parent: parent, ParentRecord: record})
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error about %s", name, err, want)
			}
			parent.Close()
			continue
		}
		must(t, err)
		must(t, img.Close())
		child := openBytes(t, m.bytes(), &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
		if got := child.ParentRecord().Locators; len(got) != 1 || got[0].Path != `.\`+name {
			t.Errorf("locators %q, want .\\%s", got, name)
		}
	}
}
