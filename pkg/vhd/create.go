package vhd

import (
	"fmt"
	"math"

	"github.com/vhdtool/vhdtool/internal/atomicfile"
	"github.com/vhdtool/vhdtool/internal/sparse"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Create makes a new image, as by [CreateIn], under the given name. The file
// takes the name when the image is closed, replacing an older file; a caller
// who gives up calls Discard instead.
func Create(name string, o *CreateOptions) (*Image, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out, err := atomicfile.Create(name)
	if err != nil {
		return nil, err
	}
	img, err := CreateIn(out.File, o)
	if err != nil {
		out.Discard()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	img.out = out
	return img, nil
}

// CreateIn makes a new image in f, which is empty or a device. The disk reads
// as zeros and can be written; the file is a VHD when Close or Sync has
// completed it, and no reader takes it for one before. Errors wrap ErrTooLarge
// or ErrUnsupported, or are those of the file; that of a device that is too small wraps
// [syscall.ENOSPC]. The image is nil if there is an error. Closing it does not close f.
func CreateIn(f disk.File, o *CreateOptions) (*Image, error) {
	if o == nil {
		o = &CreateOptions{}
	}
	footer, header, err := o.metadata()
	if err != nil {
		return nil, err
	}
	img := &Image{
		r: f, f: f, footer: footer, header: header, trailing: true, copiesAgree: true,
		size: int64(footer.CurrentSize), rule: SizeAuto.resolve(&footer),
	}
	if o.Parent != nil {
		img.parentRecord = o.parentRecord()
		if err := img.adopt(o.Parent); err != nil {
			return nil, err
		}
		img.size, _ = (&footerCopy{Footer: footer}).virtualSize(SizeAuto, int64(footer.CurrentSize))
	}
	// What was chosen at random, or by the clock, stays when the size changes.
	img.plan = *o
	img.plan.UniqueID, img.plan.Time = footer.UniqueID, footer.Timestamp.Time()
	a := &img.alloc
	a.fresh, a.syncedFooterAt, a.device = true, -1, disk.IsDevice(f)
	a.unwrittenBitmaps = map[int64]bool{}
	if !img.dynamic() {
		a.end = img.size
		a.length = img.size + footerSize
	} else {
		img.lay = layoutOf(&footer, &header, 0)
		blocks := int64(header.MaxTableEntries)
		img.bat = newBAT(blocks)
		img.bitmaps.init(blocks, false)
		a.batRoom = batBytes(blocks)
		if o.Growing {
			a.batRoom = max(a.batRoom, min(growingBATRoom, img.lay.stored()-SectorSize-dataAlign))
		}
		a.end = img.lay.batOff + a.batRoom
		img.lay.locators = img.header.locatorRegions(math.MaxInt64)
		for _, x := range img.lay.locators {
			a.end = max(a.end, x.end)
		}
		a.length = a.end + footerSize
	}
	if a.device {
		length, err := disk.FileSize(f)
		if err == nil && length < a.length {
			err = fmt.Errorf("%w: the device has %d bytes, and the image needs at least %d", errNoRoom, length, a.length)
		}
		if err != nil {
			return nil, err
		}
		a.deviceFooterAt = lastSector(length)
		if err := img.clearDevice(); err != nil {
			return nil, err
		}
	} else if err := f.Truncate(a.length); err != nil {
		return nil, err
	}
	return img, nil
}

// clearDevice takes from a device what could be taken for an image: its footers.
// Of a fixed disk it also zeroes the contents; blocks of a dynamic one are
// zeroed when they get their place.
func (img *Image) clearDevice() error {
	zeros := make([]byte, footerSize)
	for _, at := range []int64{0, img.alloc.deviceFooterAt} {
		if _, err := img.f.WriteAt(zeros, at); err != nil {
			return err
		}
	}
	if err := img.flush(); err != nil {
		return err
	}
	if img.dynamic() {
		return nil
	}
	return sparse.Zero(img.f, 0, img.size)
}

// growingBATRoom is the room for the BAT of an image of unknown size, or as much
// as is less than a block, so that what is left of it does not count as leaked.
const growingBATRoom = 256 << 10

// resizeNew gives a new image, not yet complete, another size.
func (img *Image) resizeNew(size int64) error {
	if img.differencing() {
		return fmt.Errorf("%w: another size for a new differencing image", ErrUnsupported)
	}
	o := img.plan
	o.Size = size
	footer, header, err := o.metadata()
	if err != nil {
		return err
	}
	a := &img.alloc
	blocks := int64(header.MaxTableEntries)
	for block := range img.bat.used() {
		if block >= blocks {
			return fmt.Errorf("%w: cutting what was written off a new image", ErrUnsupported)
		}
	}
	if err := img.zeroLost(int64(footer.CurrentSize)); err != nil {
		return err
	}
	if !img.dynamic() {
		a.end = int64(footer.CurrentSize)
		a.length = a.end + footerSize
		if !a.device {
			err = img.f.Truncate(a.length)
		} else if a.end > a.deviceFooterAt {
			err = fmt.Errorf("%w: the device ends at byte %d", errNoRoom, a.deviceFooterAt+footerSize)
		}
		if err != nil {
			return err
		}
	} else {
		img.bat = img.bat.resized(blocks)
		img.bitmaps.grow(blocks)
	}
	img.footer, img.header, img.size = footer, header, int64(footer.CurrentSize)
	return nil
}

// zeroLost zeroes what a new disk loses but its file keeps, so that it does not
// come back.
func (img *Image) zeroLost(size int64) error {
	end := img.size
	if img.dynamic() {
		end = min(end, roundUp(size, img.lay.blockSize))
	}
	if size >= end {
		return nil
	}
	return img.zero(size, end-size)
}

// ReadsZero implements [disk.KnownZero]: the image is new, and nothing was written
// to it yet.
func (img *Image) ReadsZero() bool {
	img.syncing.Lock() // while it is held, wrote says nothing
	defer img.syncing.Unlock()
	img.alloc.mu.Lock()
	defer img.alloc.mu.Unlock()
	return img.alloc.fresh && !img.differencing() && !img.unsynced.Load()
}
