package vhd

import (
	"fmt"
	"time"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// Consumer is a product that takes VHD images and has rules for them beyond
// the format's own.
type Consumer struct {
	Name  string // such as "azure"
	Title string // such as "Microsoft Azure"

	template CreateOptions
	children Spelling // of the paths to the parents of its differencing images
	minSize  int64    // bytes
	maxSize  int64
	rules    func() []consumerRule // built when asked for: most commands never ask
}

// consumerRule is one rule; its number is its place in the list, from 1.
type consumerRule struct {
	field string
	want  string
	// got returns what was found, if it breaks the rule.
	got func(s *subject) (string, bool)
}

// subject is an image that rules look at.
type subject struct {
	img    *Image
	length int64 // of the file
	now    time.Time
	same   bool // both footers are, where there are two
}

// The rules. Sources: the Azure documentation on uploading disks, the Windows
// documentation of New-VHD and virtdisk.h, the checks of XenServer's vhd-util,
// and the behaviour of Virtual PC, VirtualBox and AWS VM Import.
var consumers = []Consumer{
	{
		Name: "azure", Title: "Microsoft Azure",
		template: CreateOptions{Type: Fixed, Exact: true, Align: mib, Creator: CreatorWindows},
		minSize:  20 * mib, maxSize: 32 << 40,
		rules: func() []consumerRule {
			return []consumerRule{
				typeRule(Fixed),
				{"current size", "a whole number of MiB", func(s *subject) (string, bool) {
					n := s.img.footer.CurrentSize
					return fmt.Sprintf("%d bytes, %d over", n, n%mib), n%mib != 0
				}},
				{"length of the file", "the current size and 512 bytes", func(s *subject) (string, bool) {
					want := int64(s.img.footer.CurrentSize) + footerSize
					return fmt.Sprintf("%d bytes, and the current size is %d", s.length, s.img.footer.CurrentSize), s.length != want
				}},
				sizeRule(20*mib, 32<<40),
				idRule,
				{"creator host OS", `"Wi2k"`, func(s *subject) (string, bool) {
					os := Creator(s.img.footer.CreatorHostOS)
					return fmt.Sprintf("%q", os.String()), os.String() != "Wi2k"
				}},
			}
		},
	},
	{
		Name: "hyperv", Title: "Windows and Hyper-V",
		template: CreateOptions{Type: Dynamic, Exact: true, Creator: CreatorWindows},
		children: SpellWindows,
		minSize:  3 * mib, maxSize: 2040 * gib,
		rules: func() []consumerRule {
			return []consumerRule{
				typeRule(Fixed, Dynamic, Differencing),
				currentSizeRule,
				sizeRule(3*mib, 2040*gib),
				blockRule(512<<10, 2*mib),
				trailingRule,
			}
		},
	},
	{
		Name: "xen", Title: "XenServer and XCP-ng",
		template: CreateOptions{Type: Dynamic, Exact: true, Align: 2 * mib, Creator: CreatorXenServer},
		children: SpellXen,
		minSize:  2 * mib, maxSize: 2040 * gib,
		rules: func() []consumerRule {
			return []consumerRule{
				typeRule(Dynamic, Differencing),
				blockRule(2 * mib),
				{"creator application", `"tap"`, func(s *subject) (string, bool) {
					return fmt.Sprintf("%q", s.img.footer.Creator.String()), s.img.footer.Creator != CreatorXenServer
				}},
				sizeRule(2*mib, 2040*gib),
				{"current size", "a multiple of 2 MiB", func(s *subject) (string, bool) {
					return fmt.Sprintf("%d bytes", s.img.footer.CurrentSize), s.img.footer.CurrentSize%(2*mib) != 0
				}},
				{"disk geometry", "at most that of the current size", func(s *subject) (string, bool) {
					g, most := s.img.footer.Geometry, GeometryOf(int64(s.img.footer.CurrentSize/SectorSize))
					return fmt.Sprintf("%v, more than %v", g, most), g.packed() > most.packed()
				}},
				{"data offset of the dynamic disk header", hex64(noOffset), func(s *subject) (string, bool) {
					return hex64(s.img.header.DataOffset), s.img.dynamic() && s.img.header.DataOffset != noOffset
				}},
				{"features", "2, or 3 for a temporary disk", func(s *subject) (string, bool) {
					f := s.img.footer.Features
					return fmt.Sprint(f), f&^featureTemporary != featureReserved
				}},
				{"time stamp", "at most half an hour ahead", func(s *subject) (string, bool) {
					t := s.img.footer.Timestamp.Time()
					return t.Format(time.RFC3339), t.After(s.now.Add(30 * time.Minute))
				}},
				{"footers at the start and at the end", "the same in both places", func(s *subject) (string, bool) {
					return "two that differ, or only one", !s.same
				}},
				idRule,
			}
		},
	},
	{
		Name: "virtualbox", Title: "VirtualBox",
		template: CreateOptions{Type: Dynamic, Exact: true, Creator: CreatorWindows},
		maxSize:  2040 * gib,
		rules: func() []consumerRule {
			return []consumerRule{typeRule(Fixed, Dynamic, Differencing), currentSizeRule, trailingRule}
		},
	},
	{
		Name: "virtualpc", Title: "Virtual PC",
		template: CreateOptions{Type: Dynamic, Creator: CreatorVirtualPC},
		maxSize:  maxGeometrySectors * SectorSize,
		rules: func() []consumerRule {
			return []consumerRule{
				typeRule(Fixed, Dynamic, Differencing),
				{"disk geometry", "one that spans the current size", func(s *subject) (string, bool) {
					f := &s.img.footer
					return fmt.Sprintf("%v (%d bytes), and the current size is %d", f.Geometry, f.Geometry.Product()*SectorSize, f.CurrentSize),
						uint64(f.Geometry.Product())*SectorSize != f.CurrentSize
				}},
				blockRule(512<<10, 2*mib),
				trailingRule,
			}
		},
	},
	{
		Name: "aws", Title: "AWS VM Import",
		template: CreateOptions{Type: Dynamic, Exact: true, Creator: CreatorWindows},
		maxSize:  2040 * gib,
		rules:    func() []consumerRule { return []consumerRule{typeRule(Fixed, Dynamic), currentSizeRule, trailingRule} },
	},
}

func typeRule(types ...DiskType) consumerRule {
	want := types[0].String()
	for _, t := range types[1:] {
		want += " or " + t.String()
	}
	return consumerRule{"disk type", want, func(s *subject) (string, bool) {
		for _, t := range types {
			if s.img.footer.Type == t {
				return "", false
			}
		}
		return s.img.footer.Type.String(), true
	}}
}

func sizeRule(least, most int64) consumerRule {
	want := fmt.Sprintf("from %d (%d MiB) to %d bytes (%d GiB)", least, least/mib, most, most/gib)
	return consumerRule{"current size", want, func(s *subject) (string, bool) {
		n := s.img.footer.CurrentSize
		return fmt.Sprintf("%d bytes", n), n < uint64(least) || n > uint64(most)
	}}
}

func blockRule(sizes ...int64) consumerRule {
	want := fmt.Sprint(sizes[0])
	for _, n := range sizes[1:] {
		want += fmt.Sprintf(" or %d", n)
	}
	return consumerRule{"block size", want + " bytes", func(s *subject) (string, bool) {
		if !s.img.dynamic() {
			return "", false
		}
		for _, n := range sizes {
			if s.img.lay.blockSize == n {
				return "", false
			}
		}
		return fmt.Sprintf("%d bytes", s.img.lay.blockSize), true
	}}
}

var (
	idRule = consumerRule{"unique id", "an id", func(s *subject) (string, bool) {
		return "zeros", s.img.footer.UniqueID == [16]byte{}
	}}
	trailingRule = consumerRule{"footer at the end of the file", "one that is valid", func(s *subject) (string, bool) {
		return "none", !s.img.trailing
	}}
	currentSizeRule = consumerRule{"current size", "the size that the image shows elsewhere", func(s *subject) (string, bool) {
		return fmt.Sprintf("%d bytes, while %d are shown", s.img.footer.CurrentSize, s.img.size), int64(s.img.footer.CurrentSize) != s.img.size
	}}
)

// packed is the geometry as the 32-bit number that it is in the footer.
func (g Geometry) packed() uint32 {
	return uint32(g.Cylinders)<<16 | uint32(g.Heads)<<8 | uint32(g.Sectors)
}

// Consumers returns the products whose rules are known.
func Consumers() []*Consumer {
	all := make([]*Consumer, len(consumers))
	for i := range consumers {
		all[i] = &consumers[i]
	}
	return all
}

// FindConsumer returns the product of that name.
func FindConsumer(name string) (*Consumer, error) {
	known := ""
	for _, c := range Consumers() {
		if c.Name == name {
			return c, nil
		}
		known += " " + c.Name
	}
	return nil, fmt.Errorf("unknown consumer %q: want one of%s", name, known)
}

// CreateOptions returns the options for an image of at least size bytes that
// the product takes. They can be changed before they are used.
func (c *Consumer) CreateOptions(size int64) *CreateOptions {
	o := c.template
	o.Size = size
	return &o
}

// Spelling is how the product spells the paths to the parents of images.
func (c *Consumer) Spelling() Spelling { return c.children }

// CheckSize tells whether the product takes disks of so many bytes.
func (c *Consumer) CheckSize(size int64) error {
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
func (c *Consumer) Examine(img *Image, length int64, now time.Time) ([]Finding, error) {
	fs, err := locateFooters(img.r, length)
	if err != nil {
		return nil, err
	}
	s := &subject{img: img, length: length, now: now}
	s.same = !img.dynamic() || fs.trailing.valid() && fs.leading.valid() && fs.trailing.same(&fs.leading.Footer)
	var found []Finding
	for i, rule := range c.rules() {
		if got, broken := rule.got(s); broken {
			found = append(found, Finding{
				ID: fmt.Sprintf("%s-%d", c.Name, i+1), Severity: Error, Offset: img.footerAt,
				Field: fmt.Sprintf("rule %d of %s: %s", i+1, c.Title, rule.field), Got: got, Want: rule.want,
			})
		}
	}
	return found, nil
}
