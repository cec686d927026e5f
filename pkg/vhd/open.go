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
	Parents disk.ParentSearch
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
	if err := refusal(c.validate(), o.IgnoreChecksums); err != nil {
		return nil, err
	}
	if o.Write && c.SavedState != 0 && !o.Force {
		return nil, ErrSavedState
	}
	img.copiesAgree = c.Type == Fixed || fs.trailing.valid() && fs.leading.valid() && fs.trailing.same(&fs.leading.Footer)
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
	if img.parentRecord, err = readParentRecord(img.r, size, &img.header); err != nil {
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
	blocks := blocksHeld(&img.footer, &h, img.size)
	if img.bat, err = readBAT(img.r, img.lay.batOff, blocks); err != nil {
		return err
	}
	m, err := readBatmap(img.r, &img.footer, img.lay.batEnd(), size)
	if err != nil {
		return err
	}
	if m != nil {
		if m.encrypted && !o.Parents.None {
			return errEncrypted
		}
		img.batmap, img.lay.batmap = m, m.regions(&img.lay, img.bat)
	}
	img.lay.addLocators(&img.footer, &h, img.bat, size)
	if !o.tolerateBAT {
		err = img.bat.refusal(&img.lay)
	}
	img.bitmaps.init(blocks, img.f == nil)
	return err
}

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
	case img.unsynced.Load():
		return img.Sync()
	}
	return nil
}
