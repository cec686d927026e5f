// Package product knows what Azure, Hyper-V, XenServer, VirtualBox, Virtual PC and
// AWS accept beyond the VHD format's own rules. It changes when they change, and
// not when the engine does.
package product

import (
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// Product is a product that takes VHD images and has rules for them beyond
// the format's own.
type Product struct {
	Name  string // such as "azure"
	Title string // such as "Microsoft Azure"

	template string        // options of an image for it, as behind -o; read when asked for
	children vhd.PathStyle // of the paths to the parents of its differencing images
	minSize  int64         // bytes
	maxSize  int64
	rules    func() []rule // built when asked for: most commands never ask
}

// rule is one rule; its number is its place in the list, from 1.
type rule struct {
	field string
	want  string
	// got returns what was found, if it breaks the rule.
	got func(s *subject) (string, bool)
}

// subject is an image that rules look at.
type subject struct {
	img    *vhd.Image
	length int64 // of the file
	now    time.Time
}

// The rules. Sources: the Azure documentation on uploading disks, the Windows
// documentation of New-VHD and virtdisk.h, the checks of XenServer's vhd-util,
// and the behaviour of Virtual PC, VirtualBox and AWS VM Import.
var products = []Product{
	{
		Name: "azure", Title: "Microsoft Azure",
		template: "subformat=fixed,force_size=on,align=1M,creator=win",
		minSize:  20 * mib, maxSize: 32 << 40,
		rules: func() []rule {
			return []rule{
				typeRule(vhd.Fixed),
				{"current size", "a whole number of MiB", func(s *subject) (string, bool) {
					n := s.img.Footer().CurrentSize
					return fmt.Sprintf("%d bytes, %d over", n, n%mib), n%mib != 0
				}},
				{"length of the file", "the current size and 512 bytes", func(s *subject) (string, bool) {
					want := int64(s.img.Footer().CurrentSize) + vhd.SectorSize
					return fmt.Sprintf("%d bytes, and the current size is %d", s.length, s.img.Footer().CurrentSize), s.length != want
				}},
				sizeRule(20*mib, 32<<40),
				idRule,
				{"creator host OS", `"Wi2k"`, func(s *subject) (string, bool) {
					os := vhd.Creator(s.img.Footer().CreatorHostOS)
					return fmt.Sprintf("%q", os.String()), os.String() != "Wi2k"
				}},
			}
		},
	},
	{
		Name: "hyperv", Title: "Windows and Hyper-V",
		template: "subformat=dynamic,force_size=on,creator=win",
		children: vhd.PathsWindows,
		minSize:  3 * mib, maxSize: 2040 * gib,
		rules: func() []rule {
			return []rule{
				typeRule(vhd.Fixed, vhd.Dynamic, vhd.Differencing),
				currentSizeRule,
				sizeRule(3*mib, 2040*gib),
				blockRule(512<<10, 2*mib),
				trailingRule,
			}
		},
	},
	{
		Name: "xen", Title: "XenServer and XCP-ng",
		template: "subformat=dynamic,force_size=on,align=2M,creator=tap",
		children: vhd.PathsXen,
		minSize:  2 * mib, maxSize: 2040 * gib,
		rules: func() []rule {
			return []rule{
				typeRule(vhd.Dynamic, vhd.Differencing),
				blockRule(2 * mib),
				{"creator application", `"tap"`, func(s *subject) (string, bool) {
					return fmt.Sprintf("%q", s.img.Footer().Creator.String()), s.img.Footer().Creator != vhd.CreatorXenServer
				}},
				sizeRule(2*mib, 2040*gib),
				{"current size", "a multiple of 2 MiB", func(s *subject) (string, bool) {
					return fmt.Sprintf("%d bytes", s.img.Footer().CurrentSize), s.img.Footer().CurrentSize%(2*mib) != 0
				}},
				{"disk geometry", "at most that of the current size", func(s *subject) (string, bool) {
					g, most := s.img.Footer().Geometry, vhd.GeometryOf(int64(s.img.Footer().CurrentSize/vhd.SectorSize))
					return fmt.Sprintf("%v, more than %v", g, most), packed(g) > packed(most)
				}},
				{"data offset of the dynamic disk header", hex64(math.MaxUint64), func(s *subject) (string, bool) {
					return hex64(s.img.Header().DataOffset), s.img.Type() != vhd.Fixed && s.img.Header().DataOffset != math.MaxUint64
				}},
				{"features", "2, or 3 for a temporary disk", func(s *subject) (string, bool) {
					f := s.img.Footer().Features
					return fmt.Sprint(f), f != 2 && f != 3
				}},
				{"time stamp", "at most half an hour ahead", func(s *subject) (string, bool) {
					t := s.img.Footer().Timestamp.Time()
					return t.Format(time.RFC3339), t.After(s.now.Add(30 * time.Minute))
				}},
				{"footers at the start and at the end", "the same in both places", func(s *subject) (string, bool) {
					return "two that differ, or only one", !s.img.FooterCopiesAgree()
				}},
				idRule,
			}
		},
	},
	{
		Name: "virtualbox", Title: "VirtualBox",
		template: "subformat=dynamic,force_size=on,creator=win",
		maxSize:  2040 * gib,
		rules: func() []rule {
			return []rule{typeRule(vhd.Fixed, vhd.Dynamic, vhd.Differencing), currentSizeRule, trailingRule}
		},
	},
	{
		Name: "virtualpc", Title: "Virtual PC",
		template: "subformat=dynamic,creator=vpc",
		maxSize:  65535 * 16 * 255 * vhd.SectorSize,
		rules: func() []rule {
			return []rule{
				typeRule(vhd.Fixed, vhd.Dynamic, vhd.Differencing),
				{"disk geometry", "one that spans the current size", func(s *subject) (string, bool) {
					f := s.img.Footer()
					return fmt.Sprintf("%v (%d bytes), and the current size is %d", f.Geometry, f.Geometry.Product()*vhd.SectorSize, f.CurrentSize),
						uint64(f.Geometry.Product())*vhd.SectorSize != f.CurrentSize
				}},
				blockRule(512<<10, 2*mib),
				trailingRule,
			}
		},
	},
	{
		Name: "aws", Title: "AWS VM Import",
		template: "subformat=dynamic,force_size=on,creator=win",
		maxSize:  2040 * gib,
		rules:    func() []rule { return []rule{typeRule(vhd.Fixed, vhd.Dynamic), currentSizeRule, trailingRule} },
	},
}

func typeRule(types ...vhd.DiskType) rule {
	want := types[0].String()
	for _, t := range types[1:] {
		want += " or " + t.String()
	}
	return rule{"disk type", want, func(s *subject) (string, bool) {
		for _, t := range types {
			if s.img.Footer().Type == t {
				return "", false
			}
		}
		return s.img.Footer().Type.String(), true
	}}
}

func sizeRule(least, most int64) rule {
	want := fmt.Sprintf("from %d (%d MiB) to %d bytes (%d GiB)", least, least/mib, most, most/gib)
	return rule{"current size", want, func(s *subject) (string, bool) {
		n := s.img.Footer().CurrentSize
		return fmt.Sprintf("%d bytes", n), n < uint64(least) || n > uint64(most)
	}}
}

func blockRule(sizes ...int64) rule {
	want := fmt.Sprint(sizes[0])
	for _, n := range sizes[1:] {
		want += fmt.Sprintf(" or %d", n)
	}
	return rule{"block size", want + " bytes", func(s *subject) (string, bool) {
		if s.img.Type() == vhd.Fixed {
			return "", false
		}
		for _, n := range sizes {
			if s.img.BlockSize() == n {
				return "", false
			}
		}
		return fmt.Sprintf("%d bytes", s.img.BlockSize()), true
	}}
}

var (
	idRule = rule{"unique id", "an id", func(s *subject) (string, bool) {
		return "zeros", s.img.Footer().UniqueID == uuid.Nil
	}}
	trailingRule = rule{"footer at the end of the file", "one that is valid", func(s *subject) (string, bool) {
		return "none", !s.img.HasTrailingFooter()
	}}
	currentSizeRule = rule{"current size", "the size that the image shows elsewhere", func(s *subject) (string, bool) {
		return fmt.Sprintf("%d bytes, while %d are shown", s.img.Footer().CurrentSize, s.img.Size()), int64(s.img.Footer().CurrentSize) != s.img.Size()
	}}
)

// packed is the geometry as the 32-bit number that it is in the footer.
func packed(g vhd.Geometry) uint32 {
	return uint32(g.Cylinders)<<16 | uint32(g.Heads)<<8 | uint32(g.Sectors)
}

// All returns the products whose rules are known.
func All() []*Product {
	all := make([]*Product, len(products))
	for i := range products {
		all[i] = &products[i]
	}
	return all
}

// Find returns the product of that name.
func Find(name string) (*Product, error) {
	known := ""
	for _, c := range All() {
		if c.Name == name {
			return c, nil
		}
		known += " " + c.Name
	}
	return nil, fmt.Errorf("unknown product %q: want one of%s", name, known)
}

// Options returns the options by name, as [vhd.ParseCreateOptions] reads them, for an
// image that the product accepts. The caller may change them, and merges its own over them.
func (c *Product) Options() disk.Options {
	list, err := optlist.Parse(c.template)
	if err != nil {
		panic(err) // the templates are above
	}
	o := disk.Options{}
	for _, x := range list {
		o[x.Key] = x.Value
	}
	return o
}

// CreateOptions returns the options for an image of at least size bytes that the product
// accepts. The caller may change them. The error is that of [vhd.ParseCreateOptions].
func (c *Product) CreateOptions(size int64) (*vhd.CreateOptions, error) {
	return vhd.ParseCreateOptions(size, c.Options())
}

// PathStyle is how the product writes the paths to the parents of images.
func (c *Product) PathStyle() vhd.PathStyle { return c.children }

// CheckSize tells whether the product takes disks of so many bytes.
func (c *Product) CheckSize(size int64) error {
	switch {
	case size < c.minSize:
		return fmt.Errorf("%s takes disks of %d MiB or more, and this one has %d bytes", c.Title, c.minSize/mib, size)
	case size > c.maxSize:
		return fmt.Errorf("%s takes disks of at most %d bytes, and this one has %d", c.Title, c.maxSize, size)
	}
	return nil
}

// Examine returns a finding for each of the product's rules that an image in a
// file of so many bytes breaks; its ID ends in the rule's number. Now is what
// time stamps are compared with.
func (c *Product) Examine(img *vhd.Image, length int64, now time.Time) []vhd.Finding {
	s := &subject{img: img, length: length, now: now}
	var found []vhd.Finding
	for i, rule := range c.rules() {
		if got, broken := rule.got(s); broken {
			found = append(found, vhd.Finding{
				ID: fmt.Sprintf("%s-%d", c.Name, i+1), Severity: vhd.Error, Offset: img.FooterOffset(),
				Field: fmt.Sprintf("rule %d of %s: %s", i+1, c.Title, rule.field), Got: got, Want: rule.want,
			})
		}
	}
	return found
}

func hex64(v uint64) string { return fmt.Sprintf("0x%016x", v) }
