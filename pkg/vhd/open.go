package vhd

import (
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// OpenOptions say how to open an image. The zero value opens for reading, by
// the format's own rules.
type OpenOptions struct {
	// Write opens for reading and writing.
	Write bool
	// SizeRule overrides which field is the disk's size (qemu's
	// force_size_calc).
	SizeRule SizeRule
	// IgnoreChecksums believes a footer and a header whose checksum is wrong,
	// if nothing else about them is: images changed by hand.
	IgnoreChecksums bool
	// NoLock opens the image even if another process uses it. Reading it then may
	// give a mix of old and new.
	NoLock bool
	// Force opens the image of a suspended virtual machine for writing.
	Force bool
	// Parents says where the parents of a differencing image may be. They are
	// opened for reading, all of them, and closed with the image.
	Parents disk.Parents
	// Parent, if set, is the parent of a differencing image, opened by the caller,
	// and closed with the image. Its unique id must be the right one; a disk that
	// is not an *Image is a raw parent.
	Parent disk.Disk

	// tolerateBAT opens the image although its BAT has entries that cannot be
	// right, to repair it.
	tolerateBAT bool
}

// Open opens the named image; a nil o means the zero value. Errors are those of
// the file system, ErrNotVHD, or wrap ErrCorrupt, ErrUnsupported or
// ErrSavedState; a *ParentError says why the parent of a differencing image cannot
// be had. The caller closes the image.
//
// On Linux the file is locked while it is open, as qemu locks its images: it can
// have several readers or one writer, or else ErrLocked is returned.
func Open(name string, o *OpenOptions) (*Image, error) {
	f, size, err := disk.OpenFile(name, o != nil && o.Write)
	if err != nil {
		return nil, err
	}
	if o == nil || !o.NoLock {
		err = imagelock.Lock(f, o != nil && o.Write)
	}
	var img *Image
	if err == nil {
		img, err = NewImage(f, size, o)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return img, nil
}

// NewImage opens the image in the first size bytes of r, which must be a
// [disk.File] if it is opened for writing. Closing the image closes r, if that
// can be closed; after an error r is still the caller's.
func NewImage(r io.ReaderAt, size int64, o *OpenOptions) (*Image, error) {
	if o == nil {
		o = &OpenOptions{}
	}
	img := &Image{r: r}
	if o.Write {
		f, ok := r.(disk.File)
		if !ok {
			return nil, errors.New("this source cannot be written")
		}
		img.f = f
	}
	fs, err := locateFooters(r, size)
	if err != nil {
		return nil, err
	}
	choose := fs.choose
	if o.IgnoreChecksums {
		choose = fs.ignoringChecksum
	}
	c, err := choose()
	if err != nil {
		return nil, err
	}
	img.footer, img.footerAt, img.trailing = c.Footer, c.off, c == &fs.trailing
	if err := refusal(c.validate("footer"), o.IgnoreChecksums); err != nil {
		return nil, err
	}
	if o.Write && c.SavedState != 0 && !o.Force {
		return nil, ErrSavedState
	}
	img.rule = o.SizeRule.resolve(&c.Footer)
	switch c.Type {
	case Fixed:
		fixed, found := c.virtualSize(o.SizeRule, c.off)
		img.size = fixed
		img.alloc.length = size
		return img, refusal(found, false)
	}
	end := size
	if img.trailing {
		end = c.off
	}
	if err := img.openDynamic(c, size, end, o); err != nil {
		return nil, err
	}
	if o.Write {
		img.alloc.open(img, &fs, size)
	}
	if img.differencing() {
		if err := img.openDifferencing(size, o); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// openDifferencing reads what the image says of its parent, and opens that.
func (img *Image) openDifferencing(size int64, o *OpenOptions) (err error) {
	if img.parentage, err = readParentage(img.r, size, &img.header); err != nil {
		return err
	}
	switch {
	case o.Parent != nil:
		return img.adopt(o.Parent)
	case o.Parents.None:
		return nil
	}
	return img.openParents(o)
}

// openDynamic reads the header and the BAT of a file of size bytes, in which
// blocks end at limit.
func (img *Image) openDynamic(c *footerCopy, size, limit int64, o *OpenOptions) error {
	h, found, err := readHeader(img.r, c, limit)
	if err == nil {
		err = refusal(found, o.IgnoreChecksums)
	}
	if err != nil {
		return err
	}
	img.header = h
	if err := refusal(h.validateTable(img.footer.DataOffset, limit), false); err != nil {
		return err
	}
	blockSize := int64(h.BlockSize)
	img.size, found = c.virtualSize(o.SizeRule, int64(h.MaxTableEntries)*blockSize)
	if err := refusal(found, false); err != nil {
		return err
	}
	img.lay = layoutOf(&img.footer, &h, limit)
	m, err := readBatmap(img.r, &img.footer, img.lay.batEnd(), size)
	if err != nil {
		return err
	}
	if m != nil {
		if m.encrypted && !o.Parents.None {
			return fmt.Errorf("%w: the image is encrypted by XenServer", ErrUnsupported)
		}
		img.batmap, img.lay.batmap = m, m.regions(size)
	}
	blocks := blocksHeld(&img.footer, &h, img.size)
	if img.bat, err = readBAT(img.r, img.lay.batOff, blocks); err != nil {
		return err
	}
	img.lay.addLocators(&img.footer, &h, img.bat, size)
	if !o.tolerateBAT {
		img.bat.validate(&img.lay, func(f Finding) bool {
			err = f.err()
			return false
		})
	}
	img.bitmaps.init(blocks, img.f == nil)
	return err
}

// blocksHeld is how many blocks an image of that virtual size has. Where the
// geometry is the size, the current size may be larger; what it spans is not
// shown, but kept.
func blocksHeld(f *Footer, h *Header, size int64) int64 {
	blockSize := int64(h.BlockSize)
	held := max(size, int64(min(f.CurrentSize, uint64(h.MaxTableEntries)*uint64(blockSize))))
	return (held + blockSize - 1) / blockSize
}

// readHeader reads the dynamic disk header that the footer points to in a file
// in which metadata must end at limit. The findings say what keeps it from being
// read, and what is odd about it.
func readHeader(r io.ReaderAt, c *footerCopy, limit int64) (Header, []Finding, error) {
	off := c.DataOffset
	if off < footerSize || off%SectorSize != 0 || limit < headerSize || off > uint64(limit-headerSize) {
		return Header{}, []Finding{{
			ID: "data-offset", Severity: Error, Offset: c.off + 16, Field: "footer: data offset", Got: fmt.Sprint(off),
			Want: fmt.Sprintf("a multiple of 512 from 512 to %d, where a header of 1024 bytes fits before the footer", max(0, limit-headerSize)),
		}}, nil
	}
	var b [headerSize]byte
	if err := readFull(r, b[:], int64(off)); err != nil {
		return Header{}, nil, fmt.Errorf("dynamic disk header: %w", err)
	}
	h := DecodeHeader(&b)
	return h, h.validate(int64(off), c.Type), nil
}

// validateTable lists what keeps the BAT from being read: the header, found at
// off, says where it stands in a file in which metadata must end at limit.
func (h *Header) validateTable(off uint64, limit int64) []Finding {
	odd := func(id string, at uint64, field, got, want string) []Finding {
		return []Finding{{
			ID: id, Severity: Error, Offset: int64(off + at),
			Field: "dynamic disk header: " + field, Got: got, Want: want,
		}}
	}
	t, n := h.TableOffset, int64(h.MaxTableEntries)*4
	switch {
	case t < footerSize || t%SectorSize != 0 || t > uint64(limit):
		return odd("table-offset", 16, "table offset", fmt.Sprint(t), fmt.Sprintf("a multiple of 512 from 512 to %d, before the footer", limit))
	case t < off+headerSize && t+uint64(n) > off:
		return odd("table-offset", 16, "table offset", fmt.Sprint(t), fmt.Sprintf("a place for the BAT outside of the header, which is at %d to %d", off, off+headerSize))
	case n > limit-int64(t):
		return odd("max-table-entries", 28, "max table entries", fmt.Sprint(h.MaxTableEntries),
			fmt.Sprintf("at most %d, as many as fit between the table offset and the footer", (limit-int64(t))/4))
	}
	return nil
}

// layoutOf says where things stand in a dynamic image in whose file blocks end
// at limit.
func layoutOf(f *Footer, h *Header, limit int64) layout {
	blockSize := int64(h.BlockSize)
	headerOff, batOff := int64(f.DataOffset), int64(h.TableOffset)
	return layout{
		batOff:     batOff,
		blockSize:  blockSize,
		bitmapSize: bitmapSizeFor(blockSize),
		limit:      limit,
		regions: []region{
			{"copy of the footer", 0, footerSize},
			{"dynamic disk header", headerOff, headerOff + headerSize},
			{"BAT", batOff, batOff + batBytes(int64(h.MaxTableEntries))},
		},
	}
}

// addLocators notes where the texts of a differencing image's parent locators
// stand in a file of size bytes. One that stands in a block has lost its place to
// it.
func (l *layout) addLocators(f *Footer, h *Header, t bat, size int64) {
	l.locators = nil
	if f.Type != Differencing {
		return
	}
	for _, x := range h.locatorRegions(size) {
		if t.over(l, x.start, x.end) < 0 {
			l.locators = append(l.locators, x)
		}
	}
}

// batEnd is the first byte behind the BAT.
func (l *layout) batEnd() int64 { return l.regions[2].end }

// Close ends the use of the image and closes its file. An image that was
// written is made durable first, as by Sync; a new one is completed, and takes
// its name. After an error a new image is gone, and an old one as it was at
// the last Sync.
func (img *Image) Close() error {
	err := img.finish()
	if perr := img.closeParents(); err == nil {
		err = perr
	}
	if img.out != nil {
		if err != nil {
			img.out.Discard()
			return err
		}
		return img.out.Commit(false)
	}
	if c, ok := img.r.(io.Closer); ok {
		if cerr := c.Close(); err == nil {
			err = cerr
		}
	}
	return err
}

// Discard gives up a new image instead of closing it: no file is left behind.
// It does nothing for an image that was opened, or closed.
func (img *Image) Discard() {
	if img.out != nil {
		_ = img.closeParents()
		img.out.Discard()
	}
}

// finish completes a new image, and syncs an old one that was written.
func (img *Image) finish() error {
	switch {
	case img.f == nil:
		return nil
	case img.alloc.fresh:
		return img.complete(false)
	case img.wrote.Load():
		return img.Sync()
	}
	return nil
}
