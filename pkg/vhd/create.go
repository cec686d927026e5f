package vhd

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/vhdtool/vhdtool/internal/atomicfile"
	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Create makes a new image, as [CreateIn] does, under the given name. The file appears under
// its name when Close succeeds, and replaces an older file. To give up, call Discard instead.
func Create(name string, o *CreateOptions) (*Image, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out, err := atomicfile.Create(name)
	if err != nil {
		return nil, err
	}
	img, err := CreateIn(filesystem.NewFile(out.File), o)
	if err != nil {
		out.Discard()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	img.out = out
	return img, nil
}

// CreateIn makes a new image in f, which is empty or a device. The disk reads as zeros and can
// be written. The file is a VHD when Close or Sync has completed it; until then no reader
// recognises it.
//
// Errors wrap ErrTooLarge or ErrUnsupported, or are those of the file. The error for a device
// that is too small wraps [syscall.ENOSPC]. With an error the image is nil. Closing the image
// does not close f.
func CreateIn(f disk.File, o *CreateOptions) (*Image, error) {
	if o == nil {
		o = &CreateOptions{}
	}
	footer, header, err := o.metadata()
	if err != nil {
		return nil, err
	}
	img := &Image{
		r: f, f: f, footer: footer, header: header, trailer: trailerOf(f, true), copiesAgree: true,
		size: int64(footer.CurrentSize), rule: SizeAuto.resolve(&footer),
	}
	img.state.set(phaseCreating)
	if o.Parent != nil {
		img.parentRecord = o.parentRecord()
		if err := img.adopt(o.Parent); err != nil {
			return nil, err
		}
		img.size, _ = (&footerCopy{Footer: footer}).virtualSize(SizeAuto, int64(footer.CurrentSize))
	}
	// Keep the random and the current values when the size changes.
	img.plan = *o
	img.plan.Time = footer.Timestamp.Time()
	if !o.DeriveID {
		img.plan.UniqueID = footer.UniqueID
	}
	a := &img.alloc
	a.syncedFooterAt = -1
	a.unwrittenBitmaps = map[int64]bool{}
	if !img.dynamic() {
		a.end = img.size
	} else {
		img.lay = o.layout(&footer, &header)
		blocks := int64(header.MaxTableEntries)
		img.bat = newBAT(blocks)
		img.bitmaps.init(blocks, false)
		a.batSpace = img.lay.tableEnd() - img.lay.batOff
		if o.Growing {
			a.batSpace = max(a.batSpace, min(growingBATSpace, img.lay.stored()-SectorSize-dataAlign))
		}
		a.end = img.lay.batOff + a.batSpace
		img.lay.locators = img.header.locatorRegions(math.MaxInt64)
		for _, x := range img.lay.locators {
			a.end = max(a.end, x.end)
		}
	}
	a.length = a.end + footerSize
	if !img.trailer.onDevice() {
		err = filesystem.SetLength(f, a.length)
	} else {
		err = img.startOnDevice()
	}
	if err != nil {
		return nil, err
	}
	return img, nil
}

// startOnDevice checks that the empty image fits a device, and zeroes whatever a reader could
// recognise as an image.
func (img *Image) startOnDevice() error {
	length, err := disk.FileSize(img.f)
	if err != nil {
		return err
	}
	img.alloc.deviceFooterAt = lastSector(length)
	if img.alloc.end > img.alloc.deviceFooterAt {
		return fmt.Errorf("%w: the device has %d bytes, the image needs at least %d", errNoSpace, length, img.alloc.end+footerSize)
	}
	return img.clearDevice()
}

// clearDevice zeroes the footers that a device may have. It also zeroes the contents of a fixed
// disk; the blocks of a dynamic one are zeroed when they are allocated.
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
	return filesystem.Zero(img.f, 0, img.size)
}

// growingBATSpace is the space reserved for the BAT of an image of unknown size, in bytes. For
// small blocks it is less than a block, so that the unused part is no leak.
const growingBATSpace = 256 << 10

// resizeNew changes the size of a new image that is not complete yet.
func (img *Image) resizeNew(size int64) error {
	if img.differencing() {
		return fmt.Errorf("changing the size of a new differencing image: %w", ErrUnsupported)
	}
	o := img.plan
	o.Size = size
	footer, header, err := o.metadata()
	if err != nil {
		return err
	}
	a := &img.alloc
	blocks, end := int64(header.MaxTableEntries), int64(footer.CurrentSize)
	if blocks < img.bat.len() {
		for block := range img.bat.used() {
			if block >= blocks {
				return fmt.Errorf("cutting written blocks off a new image: %w", ErrUnsupported)
			}
		}
	}
	if !img.dynamic() && img.trailer.onDevice() && end > a.deviceFooterAt {
		return fmt.Errorf("%w: the device ends at byte %d", errNoSpace, a.deviceFooterAt+footerSize)
	}
	return img.state.change(func() error {
		if err := img.zeroLost(end); err != nil {
			return err
		}
		switch {
		case img.dynamic():
			lay := o.layout(&footer, &header)
			if err := img.reserveForBAT(lay.tableEnd() - lay.batOff); err != nil {
				return err
			}
			img.bat = img.bat.resized(blocks)
			img.bitmaps.grow(blocks)
		case img.trailer.onDevice():
			if err := filesystem.Zero(img.f, img.size, end-img.size); err != nil {
				return err
			}
			a.end = end
		default:
			if err := filesystem.SetLength(img.f, end+footerSize); err != nil {
				return err
			}
			a.end, a.length = end, end+footerSize
		}
		img.footer, img.header, img.size = footer, header, end
		return nil
	})
}

// reserveForBAT makes the space before the blocks of a new image at least n bytes. Blocks in
// that space move to the end of the file.
func (img *Image) reserveForBAT(n int64) error {
	a := &img.alloc
	if n <= a.batSpace {
		return nil
	}
	if img.bat.count() == 0 {
		a.batSpace = n
		a.end = img.lay.batOff + n
		return nil
	}
	end := img.lay.batOff + n
	if _, err := img.extend(a.end, max(0, end-a.end)); err != nil {
		return err
	}
	if err := img.lengthenTo(a.end); err != nil { // the last block may be written in part
		return err
	}
	var move []placedBlock
	first := a.end // start of the first block that stays
	for i, e := range img.bat.used() {
		if start := int64(e) * SectorSize; start < end {
			move = append(move, placedBlock{i, start})
		} else {
			first = min(first, start)
		}
	}
	slices.SortFunc(move, func(a, b placedBlock) int { return cmp.Compare(a.start, b.start) })
	stored := img.lay.stored()
	moveTo := func(b placedBlock, at int64) error {
		if err := img.copyBlock(at, b.start); err != nil {
			return fmt.Errorf("moving block %d: %w", b.block, err)
		}
		img.bat.store(b.block, uint32(at/SectorSize))
		return filesystem.Zero(img.f, b.start, stored)
	}
	for i, b := range move {
		x, err := img.extendForBlock(0)
		if err == nil {
			err = moveTo(b, x.start)
		}
		if err != nil {
			return err
		}
		// Space for a block before those that stay is a leak.
		if at := first - stored; i == len(move)-1 && at >= end {
			if err := moveTo(placedBlock{b.block, x.start}, at); err != nil {
				return err
			}
			a.end, first = x.endBefore, at
			break
		}
		first = min(first, x.start)
	}
	a.batSpace = first - img.lay.batOff
	return nil
}

// lengthenTo extends a shorter file to n bytes. A device keeps its length.
func (img *Image) lengthenTo(n int64) error {
	length, err := disk.FileSize(img.f)
	if err != nil || length >= n || img.trailer.onDevice() {
		return err
	}
	return filesystem.SetLength(img.f, n)
}

// zeroLost zeroes the part that a new disk loses and its file keeps. Otherwise the data would
// reappear when the disk grows.
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

// ReadsZero implements [disk.KnownZero]: the image is new, and nothing was written to it.
func (img *Image) ReadsZero() bool {
	img.syncing.Lock() // Sync clears unsynced before it has completed the image
	defer img.syncing.Unlock()
	return img.state.phase() == phaseCreating && !img.differencing() && !img.unsynced.Load()
}
