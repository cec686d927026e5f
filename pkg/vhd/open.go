package vhd

import (
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// OpenOptions control opening an image. The zero value opens for reading, by the rules of the
// format.
type OpenOptions struct {
	// Write opens for reading and writing.
	Write bool
	// SizeRule overrides which footer field is the size of the disk (qemu's force_size_calc).
	SizeRule SizeRule
	// IgnoreChecksums accepts a footer and a header with a wrong checksum, if everything else
	// in them is valid: for images edited by hand.
	IgnoreChecksums bool
	// NoLock opens the image even if another process uses it. Reads may then return a mixture
	// of old and new data.
	NoLock bool
	// Force opens the image of a suspended virtual machine for writing.
	Force bool
	// Salvage opens a damaged image and its parents as far as they can be read. Unreadable
	// sectors are zeros, and [Image.Lost] lists them. Salvage together with Write is an error.
	Salvage bool
	// Parents describes the search for the parents of a differencing image in an [os.File]. By
	// default all parents are opened, for reading; they are closed with the image.
	Parents disk.ParentSearch
	// Parent, if set, is the parent of a differencing image, opened by the caller. Its unique
	// id must match the parent record; a disk that is not an *Image is a raw parent. It is
	// closed with the image, but not if opening the image fails.
	Parent disk.Disk
	// OpenParent, if set, opens the parents, and replaces the search that Parents describes. A
	// chain then need not be in files. OpenParent is called with the image's parent record. If
	// it returns a differencing *Image without an open parent, it is called for that image
	// next, and so on. A disk that is not an *Image is a raw parent.
	//
	// The returned disks are closed with the image, or when opening the image fails. The record
	// is text from the image. Its ID identifies the parent, and is checked; its paths are not
	// to be trusted. Parent and Parents.None take precedence.
	OpenParent func(r ParentRecord) (disk.Disk, error)
	// Closer, if set, is closed with the image, such as the file that the caller opened for the
	// image alone. [Open] sets it.
	Closer io.Closer

	// tolerateBAT opens the image although its BAT has impossible entries, to repair it.
	tolerateBAT bool
}

// Open opens the named image; a nil o means the zero value. Errors are those of the file system
// or ErrNotVHD, or wrap ErrCorrupt, ErrUnsupported or ErrSavedState. A *ParentError says why
// the parent of a differencing image cannot be opened. The caller closes the image, which
// closes the file.
//
// On Linux the file is locked while it is open, as qemu locks its images. It has several
// readers or one writer; otherwise Open returns ErrLocked.
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

// NewImage opens the image in the first size bytes of r. For writing, r must be a [disk.File].
// A nil o means the zero value. Closing the image does not close r. NewImage does not lock r:
// if other processes may use the file, lock it before reading its size (see [disk.OpenFile]).
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

// openDynamic reads the header and the BAT of a file of size bytes. Blocks end at limit.
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

// Close ends the use of the image. It syncs an image that was written, and completes a new one.
// The file that [Create] started then appears under its name; if Sync was called before, the
// name is durable, too. Close closes the parents, and the file if [Open] or Create opened it;
// otherwise the caller closes the file.
//
// After an error the file that Create started is removed. An existing image is as after a
// crash: it opens, with everything of the last Sync. If the image had failed, Close writes
// nothing and returns the reason.
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

// Discard abandons a new image instead of closing it, and removes its file. It does nothing for
// an image that was opened, or is closed.
func (img *Image) Discard() {
	if img.out != nil && img.state.phase() != phaseClosed {
		img.state.set(phaseClosed)
		_ = img.closeParents()
		img.out.Discard()
	}
}

// finish completes a new image, and syncs an existing one that was written.
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
