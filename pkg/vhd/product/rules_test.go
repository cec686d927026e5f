package product_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

var be = binary.BigEndian

// now is the time that time stamps are compared with.
var now = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// image makes an image in memory, with a product's options and those in set. It writes a
// sector in each of these blocks of 2 MiB.
func image(t *testing.T, productName string, size int64, set disk.Options, blocks ...int64) []byte {
	t.Helper()
	o := disk.Options{"timestamp": "2020-01-01T00:00:00Z"}
	for k, v := range set {
		o[k] = v
	}
	if productName != "" {
		p, err := product.Find(productName)
		must(t, err)
		o = p.Options(o)
	}
	vo, err := vhd.ParseCreateOptions(size, o)
	must(t, err)
	return create(t, vo, blocks...)
}

func create(t *testing.T, o *vhd.CreateOptions, blocks ...int64) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.vhd")
	img, err := vhd.Create(name, o)
	must(t, err)
	for _, b := range blocks {
		if _, err := img.WriteAt([]byte("data"), b*2*mib); err != nil {
			t.Fatal(err)
		}
	}
	must(t, img.Close())
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

// seal corrects the checksums after changes, and copies the footer to the start if the image
// has a copy there.
func seal(b []byte) []byte {
	footer := b[len(b)-512:]
	sum(footer, 64)
	if string(b[:8]) == "conectix" {
		copy(b, footer)
		sum(b[512:1536], 36)
	}
	return b
}

func sum(b []byte, off int) {
	be.PutUint32(b[off:], 0)
	var n uint32
	for _, c := range b {
		n += uint32(c)
	}
	be.PutUint32(b[off:], ^n)
}

// edit changes bytes of the footer, and of the header.
type edit func(footer, header []byte)

func edited(b []byte, es ...edit) []byte {
	b = slices.Clone(b)
	var header []byte
	if len(b) > 1536 {
		header = b[512:1536]
	}
	for _, e := range es {
		e(b[len(b)-512:], header)
	}
	return seal(b)
}

func footer(off int, s string) edit { return func(f, _ []byte) { copy(f[off:], s) } }
func header(off int, s string) edit { return func(_, h []byte) { copy(h[off:], s) } }

// broken returns the names of the rules that an image breaks, without the product's prefix.
func broken(t *testing.T, name string, b []byte, parent disk.Disk, dir string) []string {
	t.Helper()
	p, err := product.Find(name)
	must(t, err)
	o := &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}, Parent: parent}
	img, err := vhd.NewImage(bytes.NewReader(b), int64(len(b)), o)
	must(t, err)
	var names []string
	for _, r := range p.Examine(img, product.Examination{Length: int64(len(b)), Dir: dir, Now: now}) {
		names = append(names, strings.TrimPrefix(r.Name, name+"-"))
		if _, err := json.Marshal(r); err != nil || r.Found == nil || r.Wanted.String() == "" {
			t.Errorf("%+v: %v; found and wanted must not be empty", r, err)
		}
	}
	return names
}

// Each image breaks the listed rules, and no others.
func TestRules(t *testing.T) {
	azure := image(t, "azure", 22*mib, nil)
	hyperv := image(t, "hyperv", 22*mib, nil, 0, 3)
	xen := image(t, "xen", 22*mib, nil, 0, 3)
	vbox := image(t, "virtualbox", 22*mib, nil, 0, 3)
	vpc := image(t, "virtualpc", 22*mib, nil, 0, 3)
	aws := image(t, "aws", 22*mib, nil, 0, 3)
	// A geometry larger than the size, written by another program than qemu.
	hidden := edited(image(t, "", 22*mib, disk.Options{"data_align": "512", "file_align": "4k"}), footer(48, "\x00\x00\x00\x00\x01\x40\x00\x00"))
	noTrailer := func(b []byte) []byte { return slices.Clone(b[:len(b)-512]) }
	noID := footer(68, strings.Repeat("\x00", 16))
	for _, c := range []struct {
		name, product string
		file          []byte
		want          string
	}{
		{"own", "azure", azure, ""},
		{"dynamic", "azure", hyperv, "type file-length"},
		{"not whole MiB", "azure", image(t, "azure", 22*mib, disk.Options{"align": "512", "min_size": "23069184"}), "size-multiple"},
		{"longer file", "azure", append(make([]byte, 512), azure...), "file-length"},
		{"too small", "azure", image(t, "azure", 19*mib, disk.Options{"min_size": "0"}), "size"},
		{"no id", "azure", edited(azure, noID), "unique-id"},
		{"of a Mac", "azure", edited(azure, footer(36, "Mac ")), "host-os"},

		{"own", "hyperv", hyperv, ""},
		{"fixed", "hyperv", image(t, "hyperv", 22*mib, disk.Options{"subformat": "fixed"}), ""},
		{"geometry beyond the current size", "hyperv", hidden, "shown-size"},
		{"too small", "hyperv", image(t, "hyperv", 2*mib, disk.Options{"min_size": "0"}), "size"},
		{"small blocks", "hyperv", image(t, "hyperv", 22*mib, disk.Options{"block_size": "64k"}), "block-size"},
		{"blocks of 512 KiB", "hyperv", image(t, "hyperv", 22*mib, disk.Options{"block_size": "512k"}), ""},
		{"length not of pages", "hyperv", aws, "file-length"},
		{"no trailing footer", "hyperv", append(noTrailer(hyperv), make([]byte, 512)...), "footer"},

		{"own", "virtualbox", vbox, ""},
		{"fixed", "virtualbox", azure, ""},
		{"geometry beyond the current size", "virtualbox", hidden, "shown-size"},
		{"aligned", "virtualbox", aws, "packed"},
		{"small blocks", "virtualbox", image(t, "virtualbox", 22*mib, disk.Options{"block_size": "512k"}), "block-size"},
		{"blocks of 1 MiB", "virtualbox", image(t, "virtualbox", 22*mib, disk.Options{"block_size": "1M"}), "block-size"},
		{"no trailing footer", "virtualbox", noTrailer(vbox), "footer"},

		{"own", "virtualpc", vpc, ""},
		{"another size than the geometry's", "virtualpc", vbox, "geometry"},
		{"made by Virtual PC: rounded down", "virtualpc", edited(vbox, footer(28, "vpc ")), ""},
		{"too large", "virtualpc", image(t, "virtualpc", 200*gib, nil), "size geometry"},
		{"small blocks", "virtualpc", image(t, "virtualpc", 22*mib, disk.Options{"block_size": "64k"}), "block-size"},

		{"own", "aws", aws, ""},
		{"geometry beyond the current size", "aws", hidden, "shown-size"},
		{"fixed", "aws", azure, ""},

		{"own", "xen", xen, ""},
		{"fixed", "xen", azure, "type creator"},
		{"blocks of 512 KiB", "xen", image(t, "xen", 22*mib, disk.Options{"block_size": "512k"}), "block-size"},
		{"another creator", "xen", hyperv, "creator"},
		{"version 1.4", "xen", edited(xen, footer(32, "\x00\x01\x00\x04")), "tap-version"},
		{"version 0.1", "xen", edited(xen, footer(32, "\x00\x00\x00\x01")), "tap-version"},
		{"version 1.1 with a batmap", "xen", edited(xen, footer(32, "\x00\x01\x00\x01")), ""},
		{"version 1.3 without a batmap", "xen", edited(image(t, "hyperv", 22*mib, nil), footer(28, "tap\x00\x00\x01\x00\x03\x00\x00\x00\x00")), "batmap"},
		{"version 1.2 without a batmap", "xen", edited(image(t, "hyperv", 22*mib, nil), footer(28, "tap\x00\x00\x01\x00\x02\x00\x00\x00\x00")), "batmap"},
		{"version 1.1 without a batmap", "xen", edited(image(t, "hyperv", 22*mib, nil), footer(28, "tap\x00\x00\x01\x00\x01\x00\x00\x00\x00")), ""},
		{"format version 1.1", "xen", edited(xen, footer(12, "\x00\x01\x00\x01")), "version"},
		{"header version 1.1", "xen", edited(xen, header(24, "\x00\x01\x00\x01")), "header-version"},
		{"too small", "xen", image(t, "xen", mib, disk.Options{"min_size": "0", "align": "512"}), "size size-multiple"},
		{"3 MiB", "xen", image(t, "xen", 3*mib, disk.Options{"align": "512"}), "size-multiple"},
		{"geometry beyond the size", "xen", edited(xen, footer(56, "\x02\x97\x04\x11")), "geometry"},
		{"largest geometry", "xen", edited(xen, footer(56, "\xff\xff\x10\xff")), "geometry"},
		{"data offset of the header", "xen", edited(xen, header(8, strings.Repeat("\x00", 8))), "header-data-offset"},
		{"features 0", "xen", edited(xen, footer(8, "\x00\x00\x00\x00")), "features"},
		{"temporary", "xen", edited(xen, footer(8, "\x00\x00\x00\x03")), ""},
		{"saved state 1", "xen", edited(xen, footer(84, "\x01")), ""},
		{"saved state 2", "xen", edited(xen, footer(84, "\x02")), "saved-state"},
		{"hidden", "xen", edited(xen, footer(85, "\x01")), ""},
		{"hidden 2", "xen", edited(xen, footer(85, "\x02")), "hidden"},
		{"reserved in the footer", "xen", edited(xen, footer(511, "\x01")), "reserved"},
		{"reserved in the header", "xen", edited(xen, header(63, "\x01")), "reserved"},
		{"reserved at the end of the header", "xen", edited(xen, header(1023, "\x01")), "reserved"},
		{"half an hour ahead", "xen", edited(xen, footer(24, stamp(now.Add(30*time.Minute)))), ""},
		{"further ahead", "xen", edited(xen, footer(24, stamp(now.Add(30*time.Minute+time.Second)))), "timestamp"},
		{"footers that differ", "xen", differ(xen), "footers"},
		{"no id", "xen", edited(xen, noID), "unique-id"},
		{"no trailing footer", "xen", noTrailer(xen), "footer"},
		{"parent id in a dynamic image", "xen", edited(xen, header(40, "\x01")), "parent-fields"},
		{"parent time in a dynamic image", "xen", edited(xen, header(56, "\x01")), "parent-fields"},
		{"parent name in a dynamic image", "xen", edited(xen, header(64, "\x00x")), "parent-fields"},
		{"locator in a dynamic image", "xen", edited(xen, header(576, "W2ru\x00\x00\x02\x00")), "parent-fields"},
	} {
		t.Run(c.product+"/"+c.name, func(t *testing.T) {
			if got := strings.Join(broken(t, c.product, c.file, nil, ""), " "); got != c.want {
				t.Errorf("broken rules %q, want %q", got, c.want)
			}
		})
	}
}

func stamp(t time.Time) string {
	s, _ := vhd.TimestampOf(t)
	return string(be.AppendUint32(nil, uint32(s)))
}

// differ is an image whose copy of the footer differs.
func differ(b []byte) []byte {
	b = slices.Clone(b)
	b[27]++
	sum(b[:512], 64)
	return b
}

// XenServer's tools refuse a block before the end of the metadata.
func TestMetadataBehindBlocks(t *testing.T) {
	xen := image(t, "xen", 22*mib, nil, 0)
	b := slices.Clone(xen[:len(xen)-512])
	bat := int64(len(b))
	b = append(b, xen[1536:2048]...)
	b = append(b, xen[2048:3072]...) // the batmap, whose header points to the map
	be.PutUint64(b[bat+512+8:], uint64(bat)+1024)
	be.PutUint64(b[512+16:], uint64(bat))
	b = seal(append(b, xen[len(xen)-512:]...))
	if got := broken(t, "xen", b, nil, ""); !slices.Equal(got, []string{"metadata-first"}) {
		t.Errorf("broken rules %q", got)
	}
}

// child makes a child of XenServer's in dir, with its parent base.vhd.
func child(t *testing.T, dir string, s vhd.PathStyle) []byte {
	t.Helper()
	base := filepath.Join(dir, "base.vhd")
	must(t, os.WriteFile(base, image(t, "xen", 22*mib, nil), 0o666))
	parent, err := vhd.Open(base, nil)
	must(t, err)
	o := &vhd.CreateOptions{Parent: parent, Time: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)}
	o.ParentRecord, err = vhd.ParentRecordOf(filepath.Join(dir, "child.vhd"), base, parent, s)
	must(t, err)
	if o.ParentRecord.Time != 0 {
		o.ParentRecord.Time, _ = vhd.TimestampOf(now)
	}
	return create(t, o, 1)
}

// The rules of XenServer's tools for a child's parent record.
func TestXenParentRules(t *testing.T) {
	dir := t.TempDir()
	own := child(t, dir, vhd.PathsXen)
	// locator edits an entry of the three locators.
	locator := func(i, off int, s string) edit { return header(576+24*i+off, s) }
	at := func(i int) int { return int(be.Uint64(own[512+576+24*i+16:])) }
	retext := func(i int, s string) []byte {
		b := slices.Clone(own)
		copy(b[at(i):], s)
		return b
	}
	for name, c := range map[string]struct {
		file []byte
		dir  string
		want string
	}{
		"own":                     {own, dir, ""},
		"absolute paths":          {child(t, dir, vhd.PathsAll), dir, "locator-path"},
		"Windows":                 {child(t, dir, vhd.PathsWindows), dir, "locator-name"},
		"parent time ahead":       {edited(own, header(56, stamp(now.Add(time.Hour)))), dir, "parent-time"},
		"no parent time":          {edited(own, header(56, "\x00\x00\x00\x00")), dir, ""},
		"unknown code":            {edited(own, locator(1, 0, "Zzzz")), dir, "locator-code"},
		"code for the 2nd time":   {edited(own, locator(1, 0, "W2ru")), dir, "locator-twice"},
		"empty":                   {edited(own, locator(1, 8, "\x00\x00\x00\x00")), dir, "locator-empty"},
		"no space":                {edited(own, locator(1, 4, "\x00\x00\x00\x00")), dir, "locator-empty"},
		"data in an unused entry": {edited(own, locator(5, 8, "\x00\x00\x00\x02")), dir, "locator-empty"},
		"reserved":                {edited(own, locator(1, 12, "\x00\x00\x00\x01")), dir, "reserved"},
		"no path":                 {edited(own, header(576, strings.Repeat("\x00", 72))), dir, "locator-missing"},
		"another name":            {edited(own, header(64, "\x00B")), dir, "locator-name"},
		"another directory":       {own, filepath.Join(dir, "gone"), "locator-path"},
		"path to another file":    {retext(2, "file://./bxse.vhd"), dir, "locator-name locator-path"},
		"directory not known":     {own, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(broken(t, "xen", c.file, nil, c.dir), " "); got != c.want {
				t.Errorf("broken rules %q, want %q", got, c.want)
			}
		})
	}
}

// sized is a raw parent.
type sized struct {
	disk.Disk
	size int64
}

func (s sized) Size() int64 { return s.size }

func (s sized) Close() error { return nil }

func TestParentRules(t *testing.T) {
	raw := create(t, &vhd.CreateOptions{Parent: sized{size: 22 * mib}, Creator: vhd.CreatorWindows, FileAlign: 4096, ParentRecord: vhd.ParentRecord{Name: "base.raw"}})
	for _, name := range []string{"hyperv", "virtualbox"} {
		if got := broken(t, name, raw, nil, ""); !slices.Equal(got, []string{"raw-parent"}) {
			t.Errorf("raw parent, %s: broken rules %q", name, got)
		}
	}
	for size, want := range map[int64]string{21 * mib: "child-size raw-parent", 22 * mib: "raw-parent", 23 * mib: "raw-parent"} {
		if got := strings.Join(broken(t, "hyperv", raw, sized{size: size}, ""), " "); got != want {
			t.Errorf("parent of %d bytes: broken rules %q, want %q", size, got, want)
		}
	}
}

// A file that cannot be opened breaks a rule, too.
func TestExamineUnreadable(t *testing.T) {
	for _, p := range product.All() {
		for want, got := range map[string][]product.BrokenRule{
			"footer": p.ExamineUnreadable(false, 0), "valid": p.ExamineUnreadable(true, 2),
		} {
			known := slices.ContainsFunc(p.Rules(), func(r product.Rule) bool { return r.Name == p.Name+"-"+want })
			if len(got) != 1 || got[0].Name != p.Name+"-"+want || !known {
				t.Errorf("%s: %v, want the rule %s, which is in the list: %t", p.Name, got, want, known)
			}
		}
	}
}

func TestBrokenRuleText(t *testing.T) {
	azure, err := product.Find("azure")
	must(t, err)
	o, err := azure.CreateOptions(20*mib + 1)
	must(t, err)
	o.Align = 512
	got, err := azure.ExaminePlan(o, "", now)
	must(t, err)
	const want = "[azure-size-multiple: current size: found 20972032, wanted a multiple of 1048576 (1 MiB)]"
	if fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	b, err := json.Marshal(got)
	must(t, err)
	const wantJSON = `[{"name":"azure-size-multiple","field":"current size","found":20972032,"wanted":{"multiple-of":1048576}}]`
	if string(b) != wantJSON {
		t.Errorf("%s, want %s", b, wantJSON)
	}
}
