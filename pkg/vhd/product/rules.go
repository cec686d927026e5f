package product

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// pageSize is the unit of the length of Hyper-V's files with blocks.
const pageSize = 4096

// Rules that several products share. Their names lack the product's prefix.

var (
	footerRule = Rule{
		Name: "footer", Field: "trailing footer", Wants: "a valid footer",
		Reason: "most readers recognise a VHD only by it",
		Source: "VHD specification",
		check: func(s *subject) (any, Want, bool) {
			return "none", oneOf("valid"), !s.trailing
		},
	}
	validRule = Rule{
		Name: "valid", Field: "errors found by check", Wants: "none",
		Reason: "no product accepts a damaged image",
		Source: "the other findings of `check`",
		check: func(s *subject) (any, Want, bool) {
			return s.errors, oneOf(int64(0)), s.errors > 0
		},
	}
	idRule = Rule{
		Name: "unique-id", Field: "unique id", Wants: "an id that is not zero",
		Reason: "children identify the image by it",
		Source: "VHD specification; `vhd-util check`",
		check: func(s *subject) (any, Want, bool) {
			return s.footer.UniqueID.String(), oneOf("non-zero"), s.footer.UniqueID == uuid.Nil
		},
	}
	shownSizeRule = Rule{
		Name: "shown-size", Field: "current size", Wants: "the size that qemu and Virtual PC use",
		Reason: "the product uses the current size, so the disk would differ in size from elsewhere",
		Source: "behaviour of the product",
		check: func(s *subject) (any, Want, bool) {
			return number(s.footer.CurrentSize), oneOf(s.size), number(s.footer.CurrentSize) != s.size
		},
	}
	rawParentRule = Rule{
		Name: "raw-parent", Field: "parent unique id", Wants: "the id of a VHD",
		Reason: "only XenServer supports parents that are raw disks",
		Source: "VHD specification",
		check: func(s *subject) (any, Want, bool) {
			return uuid.Nil.String(), oneOf("non-zero"), s.rawParent()
		},
	}
)

func typeRule(source string, types ...vhd.DiskType) Rule {
	var names []string
	for _, t := range types {
		names = append(names, t.String())
	}
	want := oneOf(names...)
	return Rule{
		Name: "type", Field: "disk type", Wants: want.String(),
		Reason: "the product opens no others", Source: source,
		check: func(s *subject) (any, Want, bool) {
			return s.footer.Type.String(), want, !slices.Contains(types, s.footer.Type)
		},
	}
}

// sizeRule wants a size in a range of bytes.
func sizeRule(source string, least, most int64) Rule {
	want := Want{Min: least, Max: most}
	if least == 0 {
		want.Min = nil
	}
	return Rule{
		Name: "size", Field: "current size", Wants: want.String(),
		Reason: "the product refuses smaller and larger disks", Source: source,
		check: func(s *subject) (any, Want, bool) {
			n := number(s.footer.CurrentSize)
			return n, want, n < least || n > most
		},
	}
}

func sizeMultipleRule(source, reason string, unit int64) Rule {
	want := Want{MultipleOf: unit}
	return Rule{
		Name: "size-multiple", Field: "current size", Wants: want.String(),
		Reason: reason, Source: source,
		check: func(s *subject) (any, Want, bool) {
			n := number(s.footer.CurrentSize)
			return n, want, n%unit != 0
		},
	}
}

func blockSizeRule(source, reason string, sizes ...int64) Rule {
	want := oneOf(sizes...)
	return Rule{
		Name: "block-size", Field: "block size", Wants: want.String(),
		Reason: reason, Source: source,
		check: func(s *subject) (any, Want, bool) {
			n := int64(s.header.BlockSize)
			return n, want, s.dynamic() && !slices.Contains(sizes, n)
		},
	}
}

func azureRules() []Rule {
	const docs = "Azure documentation on uploading disks"
	return []Rule{
		footerRule, validRule,
		typeRule(docs, vhd.Fixed),
		sizeMultipleRule(docs, "Azure refuses the disk: the size must be a whole number of MiB", mib),
		{
			Name: "file-length", Field: "length of the file", Wants: "the current size and 512 bytes",
			Reason: "Azure derives the size of the disk from the blob's length", Source: docs,
			check: func(s *subject) (any, Want, bool) {
				want := number(s.footer.CurrentSize) + vhd.SectorSize
				return s.length, oneOf(want), s.length != want
			},
		},
		sizeRule(docs, 20*mib, 32<<40),
		idRule,
		{
			Name: "host-os", Field: "creator host OS", Wants: "Wi2k",
			Reason: "images of another host OS were refused", Source: "FreeBSD's mkimg, which was changed for Azure",
			check: func(s *subject) (any, Want, bool) {
				os := vhd.Creator(s.footer.CreatorHostOS).String()
				return os, oneOf("Wi2k"), os != "Wi2k"
			},
		},
	}
}

func hypervRules() []Rule {
	const docs = "Windows documentation of New-VHD and virtdisk.h"
	return []Rule{
		footerRule, validRule,
		typeRule(docs, vhd.Fixed, vhd.Dynamic, vhd.Differencing),
		shownSizeRule,
		sizeRule(docs, 3*mib, 2040*gib),
		blockSizeRule(docs, "Windows opens no others", 512<<10, 2*mib),
		{
			Name: "file-length", Field: "length of the file", Wants: "a multiple of 4096, except for a fixed disk",
			Reason: "Get-VHD reports alignment 0, and Windows places new blocks unaligned", Source: "images made by Windows",
			check: func(s *subject) (any, Want, bool) {
				return s.length, Want{MultipleOf: pageSize}, s.dynamic() && s.length%pageSize != 0
			},
		},
		childSizeRule("Windows refuses a child larger than its parent (0xC03A0017)", "Windows error codes of virtual disks"),
		rawParentRule,
	}
}

// childSizeRule refuses a child that is larger than its parent.
func childSizeRule(reason, source string) Rule {
	return Rule{
		Name: "child-size", Field: "current size", Wants: "no more than the parent's", Reason: reason, Source: source,
		check: func(s *subject) (any, Want, bool) {
			return s.size, Want{Max: s.parentSize}, s.parentSize >= 0 && s.size > s.parentSize
		},
	}
}

func virtualboxRules() []Rule {
	const trial = "trials with VirtualBox 7.2"
	return []Rule{
		footerRule, validRule,
		typeRule(trial, vhd.Fixed, vhd.Dynamic, vhd.Differencing),
		shownSizeRule,
		blockSizeRule(trial, "compact destroys disks with blocks of 512 KiB or 1 MiB, resize those of 512 KiB; blocks of 4 or 64 KiB are not opened", 2*mib),
		{
			Name: "packed", Field: "blocks in the file", Wants: "packed: one after the other without gaps",
			Reason: "compact assumes this layout, and destroys the disk if blocks are elsewhere", Source: trial,
			check: func(s *subject) (any, Want, bool) {
				return "with gaps", oneOf("packed"), !s.packed()
			},
		},
		childSizeRule("it cannot read a child larger than its parent", trial),
		rawParentRule,
	}
}

func virtualpcRules() []Rule {
	const docs = "Virtual PC and Virtual Server documentation"
	return []Rule{
		footerRule, validRule,
		typeRule(docs, vhd.Fixed, vhd.Dynamic, vhd.Differencing),
		sizeRule(docs, 0, 65535*16*255*vhd.SectorSize),
		{
			Name: "geometry", Field: "size by the geometry", Wants: "the disk's size",
			Reason: "Virtual PC shows its guests the geometry, so they would not see the end of the disk", Source: "images made by Virtual PC",
			check: func(s *subject) (any, Want, bool) {
				n := s.footer.Geometry.Product() * vhd.SectorSize
				return n, oneOf(s.size), n != s.size
			},
		},
		blockSizeRule(docs, "Virtual PC opens no others", 512<<10, 2*mib),
		rawParentRule,
	}
}

func awsRules() []Rule {
	const docs = "AWS VM Import documentation"
	return []Rule{
		footerRule, validRule,
		typeRule(docs, vhd.Fixed, vhd.Dynamic),
		shownSizeRule,
	}
}

// version formats a version as "MAJOR.MINOR".
func version(v uint32) string { return fmt.Sprintf("%d.%d", v>>16, v&0xffff) }
