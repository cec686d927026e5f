package product

import (
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// subject is the object of the rules: an image, or a planned one.
type subject struct {
	footer   vhd.Footer
	header   vhd.Header
	size     int64 // size of the disk that the image shows, bytes
	length   int64 // length of the file
	trailing bool  // the trailing footer is valid
	errors   int64 // number of errors that a check has found

	copiesAgree bool // the two footers are valid and equal
	batmap      bool // the image has XenServer's batmap

	// These examine each block, and few products have a rule about them.
	packed        func() bool // blocks follow each other without gaps
	metadataFirst func() bool // before the first block

	parent     vhd.ParentRecord
	parentSize int64  // -1: unknown
	dir        string // of the file; "": not known
	now        time.Time
}

// dynamic reports whether the image has blocks.
func (s *subject) dynamic() bool { return s.footer.Type != vhd.Fixed }

func always() bool { return true }

// Examination has the facts that [Product.Examine] cannot read from the image. The zero value
// of each field but Length means unknown.
type Examination struct {
	Length int64     // length of the image's file, bytes
	Dir    string    // directory of the file; relative paths to the parent start there
	Errors int64     // number of errors that a check of the image has found
	Now    time.Time // the time that time stamps are compared with
	// Resized, if set, is the footer that the image will get; see [vhd.Image.ResizedFooter].
	Resized *vhd.Footer
}

// Examine returns the rules of the product that an image breaks. It examines the parent only if
// that is open.
func (p *Product) Examine(img *vhd.Image, e Examination) []BrokenRule {
	s := &subject{
		footer: img.Footer(), header: img.Header(), size: img.Size(), length: e.Length, errors: e.Errors,
		trailing: img.HasTrailingFooter(), copiesAgree: img.FooterCopiesAgree(),
		packed: always, metadataFirst: always,
		parent: img.ParentRecord(), parentSize: -1, dir: e.Dir, now: e.Now,
	}
	if s.dynamic() {
		s.packed, s.metadataFirst = img.Packed, img.MetadataFirst
	}
	_, s.batmap = img.Marker()
	if parent := img.Parent(); parent != nil {
		s.parentSize = parent.Size()
	}
	if e.Resized != nil {
		s.footer, s.size = *e.Resized, e.Resized.VirtualSize()
		if !s.dynamic() {
			s.length = int64(s.footer.CurrentSize) + vhd.SectorSize
		}
	}
	return p.broken(s)
}

// ExaminePlan returns the rules of the product that a new image with these options will break.
// dir is the directory of its file, or "". The error is that of [vhd.CreateOptions.Validate].
func (p *Product) ExaminePlan(o *vhd.CreateOptions, dir string, now time.Time) ([]BrokenRule, error) {
	f, h, err := o.Metadata()
	if err != nil {
		return nil, err
	}
	length, err := o.FileLength(0)
	// Without FileAlign the length is aligned only by chance.
	for n := int64(1); err == nil && f.Type != vhd.Fixed && o.FileAlign != pageSize && length%pageSize == 0; n++ {
		length, err = o.FileLength(n)
	}
	if err != nil {
		return nil, err
	}
	s := &subject{
		footer: f, header: h, size: f.VirtualSize(), length: length,
		trailing: true, copiesAgree: true, metadataFirst: always,
		packed: func() bool { return f.Type == vhd.Fixed || o.DataAlign == vhd.SectorSize },
		batmap: f.Creator == vhd.CreatorXenServer && f.CreatorVersion >= tapBatmapVersion,
		parent: o.ParentRecord, parentSize: -1, dir: dir, now: now,
	}
	s.parent.ID = h.ParentID
	if o.Parent != nil {
		s.parentSize = o.Parent.Size()
	}
	return p.broken(s), nil
}

// ExamineUnreadable returns the rules that an unreadable image breaks. footer says that its
// trailing footer is valid, and errors is the number of errors that a check has found.
func (p *Product) ExamineUnreadable(footer bool, errors int64) []BrokenRule {
	s := &subject{trailing: footer, errors: errors}
	var found []BrokenRule
	for _, r := range []Rule{footerRule, validRule} {
		if b, broken := r.examine(s); broken {
			b.Name = p.Name + "-" + b.Name
			found = append(found, b)
		}
	}
	return found
}

func (p *Product) broken(s *subject) []BrokenRule {
	var found []BrokenRule
	for _, r := range p.Rules() {
		if b, broken := r.examine(s); broken {
			found = append(found, b)
		}
	}
	return found
}

func (r *Rule) examine(s *subject) (BrokenRule, bool) {
	found, wanted, broken := r.check(s)
	return BrokenRule{Name: r.Name, Field: r.Field, Found: found, Wanted: wanted}, broken
}

// number converts a size in the footer, which may exceed an int64.
func number(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

// rawParent reports whether the image has a parent that is a raw disk.
func (s *subject) rawParent() bool {
	return s.footer.Type == vhd.Differencing && s.parent.ID == uuid.Nil
}
