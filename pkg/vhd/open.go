package vhd

import (
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/internal/filesystem"
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
	// Salvage opens a damaged image as far as it can be read, and as many of its parents
	// as can be opened. What cannot be read is zeros, and [Image.Lost] lists it. It is an
	// error together with Write.
	Salvage bool
	// Parents says where the parents of a differencing image in an [os.File] may be.
	// They are opened for reading, all of them unless it says otherwise, and closed with
	// the image.
	Parents disk.ParentSearch
	// Parent, if set, is the parent of a differencing image, opened by the caller. Its
	// unique id must be the one that the image records; a disk that is not an *Image is
	// a raw parent. It is closed with the image, but not if opening the image fails.
	Parent disk.Disk
	// OpenParent, if set, opens the parents instead of the search that Parents
	// describes, so that a chain need not be in files. It is called with what the image
	// records of its parent, and then for the disk that it returned, as long as that is
	// a differencing *Image whose own parent is not open: the calls follow the chain
	// from the image down. A disk that is not an *Image is a raw parent.
	//
	// Disks that it returned are closed with the image, or when opening the image fails.
	// The record is text from the image: its ID, which is checked, says which image is
	// the parent, and its paths are not to be trusted. Parent and Parents.None go first.
	OpenParent func(r ParentRecord) (disk.Disk, error)
	// Closer, if set, is closed with the image: the file that the caller opened for
	// the image alone. [Open] sets it.
	Closer io.Closer

	// tolerateBAT opens the image although its BAT has entries that cannot be
	// right, to repair it.
	tolerateBAT bool
}

// Open opens the named image; a nil o means the zero value. Errors are those of
// the file system, ErrNotVHD, or wrap ErrCorrupt, ErrUnsupported or
// ErrSavedState; a *ParentError says why the parent of a differencing image cannot
// be had. The caller closes the image, which closes the file.
//
// On Linux the file is locked while it is open, as qemu locks its images: it can
// have several readers or one writer, or else ErrLocked is returned.
func Open(name string, o *OpenOptions) (*Image, error) {
	var own OpenOptions
	if o != nil {
		own = *o
	}
	var lock disk.LockFunc
	if !own.NoLock {
		lock = Lock
	}
	f, size, err := disk.OpenFile(name, own.Write, lock)
	if errors.Is(err, ErrLocked) {
		err = fmt.Errorf("%s: %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	own.Closer = f
	img, err := NewImage(f, size, &own)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return img, nil
}

// NewImage opens the image in the first size bytes of r, which must be a
// [disk.File] if it is opened for writing; a nil o means the zero value. Closing the
// image does not close r. NewImage does not lock r: a file that other processes may use
// is locked before it is measured (see [disk.OpenFile]).
func NewImage(r io.ReaderAt, size int64, o *OpenOptions) (*Image, error) {
	if o == nil {
		o = &OpenOptions{}
	}
	if o.Write && o.Salvage {
		return nil, errSalvageWrite
	}
	if o.Salvage {
		return openSalvaged(r, size, o)
	}
	img := &Image{r: r, closer: o.Closer}
	if o.Write {
		f, ok := r.(disk.File)
		if !ok {
			return nil, fmt.Errorf("%T cannot be written, want a disk.File", r)
		}
		img.f = f
		img.state.set(phaseWriting)
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
	if errors.Is(err, ErrNotVHD) {
		err = errLostFixed(r, size)
	}
	if err != nil {
		return nil, err
	}
	if start, err := fs.secondImage(r); err != nil {
		return nil, err
	} else if start > 0 {
		return nil, fs.twoImages(start).err()
	}
	img.footer, img.footerAt = c.Footer, c.off
	img.trailer = trailerOf(r, c == &fs.trailing)
	if err := refusal(c.validate(), o.IgnoreChecksums); err != nil {
		return nil, err
	}
	if o.Write && c.SavedState != 0 && !o.Force {
		return nil, ErrSavedState
	}
	img.copiesAgree = c.Type == Fixed || fs.trailing.valid() && fs.leading.valid() && fs.trailing.same(&fs.leading.Footer)
	img.twoIDs = fs.twoIDs()
	moved, err := fs.unaligned(r)
	if err == nil {
		err = refusal(moved, false)
	}
	if err != nil {
		return nil, err
	}
	img.rule = o.SizeRule.resolve(&c.Footer)
	if c.Type == Fixed {
		var found []finding
		img.size, found = c.virtualSize(o.SizeRule, c.off)
		img.alloc.length, img.alloc.syncedFooterAt = size, -1
		img.reserved = o.Write && filesystem.Reserved(img.f)
		if err := refusal(found, false); err != nil {
			return nil, err
		}
		return img, nil
	}
	end := size
	if img.trailer.present() {
		end = c.off
	}
	if err := img.openDynamic(c, size, end, o); err != nil {
		return nil, err
	}
	if img.trailer.present() {
		copies, err := img.lay.imageCopy(r, c, img.bat)
		if err == nil {
			err = refusal(copies, false)
		}
		if err != nil {
			return nil, err
		}
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

// openDifferencing reads the parent record, and opens the parents.
func (img *Image) openDifferencing(size int64, o *OpenOptions) (err error) {
	if img.parentRecord, err = readParentRecord(img.r, size, &img.header); err != nil {
		return err
	}
	switch {
	case o.Parent != nil:
		return img.adopt(o.Parent)
	case o.Parents.None:
		return nil
	case o.OpenParent != nil:
		return img.openParentsWith(o.OpenParent)
	}
	last, err := img.openParents(o)
	if err != nil && o.Parents.Partial {
		last.parentErr = err
		return nil
	}
	if err != nil {
		_ = img.closeParents()
	}
	return err
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
	img.bitmaps.init(blocks, !o.Write)
	return err
}

// Close ends the use of the image. It makes an image that was written durable first, as
// Sync does. It completes a new one; the file that [Create] started then appears under
// its name, and if Sync was called before, the name is durable, too. Close closes the
// parents, and the file if [Open] or Create opened it; otherwise the file is the caller's
// to close.
//
// After an error the file that Create started is gone, and an old image is as a crash
// would have left it: it opens, with everything of the last Sync. If the image had
// failed, Close writes nothing and returns the reason.
func (img *Image) Close() error {
	err := img.finish()
	img.state.set(phaseClosed)
	if perr := img.closeParents(); err == nil {
		err = perr
	}
	if img.out != nil {
		if err != nil {
			img.out.Discard()
			return err
		}
		return img.out.Commit(img.synced)
	}
	if img.closer != nil {
		if cerr := img.closer.Close(); err == nil {
			err = cerr
		}
	}
	return err
}

// Discard gives up a new image instead of closing it: no file is left behind.
// It does nothing for an image that was opened, or closed.
func (img *Image) Discard() {
	if img.out != nil && img.state.phase() != phaseClosed {
		img.state.set(phaseClosed)
		_ = img.closeParents()
		img.out.Discard()
	}
}

// finish completes a new image, and syncs an old one that was written.
func (img *Image) finish() error {
	switch img.state.phase() {
	case phaseReading:
		return nil
	case phaseCreating:
		img.syncing.Lock()
		defer img.syncing.Unlock()
		return img.complete(false)
	case phaseWriting:
		if img.unsynced.Load() {
			return img.Sync()
		}
		return nil
	}
	return img.state.usable()
}
