package vhd

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// SetParent makes another disk the parent of a differencing image. The image owns the new
// parent, and closes the former one. Only the parent record changes: unallocated sectors read
// from the new parent from then on. The new parent must not be larger than the image.
//
// Each step is durable before the next, and after a crash the image has the old or the new
// parent. Nothing else may use the image meanwhile. After an error the caller still owns the
// new parent, unless the error is from closing the former one.
//
// With a nil parent only the record changes; the image keeps its open parent, if any.
func (img *Image) SetParent(parent disk.Disk, p ParentRecord) error {
	if err := img.state.inPlace("changing the parent of"); err != nil {
		return err
	}
	if img.twoIDs {
		return ErrTwoIDs
	}
	if !img.differencing() {
		return fmt.Errorf("changing the parent of a %v disk: %w", img.footer.Type, ErrUnsupported)
	}
	if parent != nil && parent.Size() > img.size {
		return fmt.Errorf("parent of %d bytes: %w: larger than the image, which has %d", parent.Size(), ErrUnsupported, img.size)
	}
	if parent != nil {
		o := CreateOptions{Parent: parent, ParentRecord: p}
		p = o.parentRecord()
	}
	if p.ID == img.footer.UniqueID {
		return fmt.Errorf("%w: the parent has the image's own unique id", ErrParentLoop)
	}
	if err := img.Sync(); err != nil {
		return err
	}
	h := img.header
	end, err := p.encodeInto(&h, 0)
	if err != nil {
		return err
	}
	// Metadata before the blocks is best: XenServer's tools refuse locators after a block, and
	// VirtualBox's compact loses blocks after them. Without space there the locators go to the
	// end of the file, except in a packed file.
	if err := img.makeSpaceInFront(end + headerSize); err != nil && (img.lay.packed() || !errors.Is(err, errNoSpace)) {
		return err
	}
	x, extended, err := img.findSpace(end + headerSize)
	if err != nil {
		return err
	}
	if err := img.writeLocators(&p, &h, x.start); err != nil {
		if extended {
			err = img.undoExtension(x, err)
		}
		return err
	}
	err = img.state.change(func() error {
		if err := img.retireSyncedFooter(); err != nil {
			return err
		}
		// Until the header points to the texts, they must count as used.
		img.lay.locators = append(img.lay.locators, region{"parent locators", x.start, x.start + end})
		return img.replaceHeader(h, img.footer, x.start+end)
	})
	if err != nil {
		return err
	}
	img.parentRecord = p
	if parent != nil {
		err = img.closeParents()
		img.parent, img.parentPath = parent, ""
	}
	return err
}

// refillFront moves a block into the space of the former locators, before the first block, if
// it fits. If the file has other unused space, which is not its to reclaim, it does nothing.
func (img *Image) refillFront(ctx context.Context) error {
	first, _, blocks := img.blockSpan()
	if blocks == 0 {
		return nil
	}
	fits := false
	for _, g := range img.gaps() {
		if g[1]-g[0] < img.lay.stored() {
			continue
		}
		if g[0] >= first*SectorSize {
			return nil
		}
		fits = true
	}
	if !fits {
		return nil
	}
	return img.reclaim(ctx, nil)
}

// writeLocators writes the texts of a parent record from offset at on, durably, and sets the
// fields of the header h that point to them.
func (img *Image) writeLocators(p *ParentRecord, h *Header, at int64) error {
	if _, err := p.encodeInto(h, at); err != nil {
		return err
	}
	if err := img.writeTexts(p.texts(at)); err != nil {
		return err
	}
	return img.flush()
}

// Detach converts a differencing image to a dynamic one: it copies everything the image
// inherits into the image, and then removes the parent. It is as safe against crashes as
// SetParent. If ctx ends before the parent is removed, Detach ends early, and the image keeps
// its parent. progress counts the bytes of the disk that were examined.
func (img *Image) Detach(ctx context.Context, progress disk.Progress) error {
	if err := img.state.inPlace("detaching"); err != nil {
		return err
	}
	if img.twoIDs {
		return ErrTwoIDs
	}
	if !img.differencing() {
		return fmt.Errorf("detaching a %v disk: %w", img.footer.Type, ErrUnsupported)
	}
	if err := img.takeInherited(ctx, progress); err != nil {
		return err
	}
	if err := img.Sync(); err != nil {
		return err
	}
	h, f := img.header, img.footer
	if _, err := (&ParentRecord{}).encodeInto(&h, 0); err != nil {
		return err
	}
	f.Type = Dynamic
	x, _, err := img.findSpace(headerSize)
	if err != nil {
		return err
	}
	err = img.state.change(func() error {
		if err := img.retireSyncedFooter(); err != nil {
			return err
		}
		if err := img.replaceHeader(h, f, x.start); err != nil {
			return err
		}
		return img.refillFront(context.WithoutCancel(ctx))
	})
	if err != nil {
		return err
	}
	img.parentRecord = ParentRecord{}
	return img.closeParents()
}

// takeInherited copies the parent's contents into the image. It writes all sectors of allocated
// blocks, because readers disagree on the contents of a dynamic image under a clear bit.
func (img *Image) takeInherited(ctx context.Context, progress disk.Progress) error {
	buf := make([]byte, 1<<20)
	for e, err := range img.Extents(0, img.size) {
		if err != nil {
			return err
		}
		if progress != nil {
			progress(e.Off, img.size)
		}
		if e.Depth == 0 || e.State != disk.Data {
			continue
		}
		for off := e.Off; off < e.End(); {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(int64(len(buf)), e.End()-off)]
			if err := img.readInherited(b, off); err != nil {
				return err
			}
			if !allZero(b) {
				if _, err := img.WriteAt(b, off); err != nil {
					return err
				}
			}
			off += int64(len(b))
		}
	}
	for block, e := range img.bat.used() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := img.fillBlock(block, e); err != nil {
			return fmt.Errorf("block %d: %w", block, err)
		}
	}
	return nil
}

// fillBlock writes zeros to the sectors of an allocated block that are not in the file.
func (img *Image) fillBlock(block int64, e uint32) error {
	bm, err := img.bitmap(block, e)
	if err != nil || bm == nil {
		return err
	}
	bm.mu.Lock()
	defer bm.mu.Unlock()
	data := int64(e)*SectorSize + img.lay.bitmapSize
	sectors := img.lay.blockSize / SectorSize
	for s := int64(0); s < sectors; {
		end, set := bitmapRun(bm.bits, s, sectors)
		if !set {
			img.unsynced.Store(true)
			if err := filesystem.Zero(img.f, data+s*SectorSize, (end-s)*SectorSize); err != nil {
				return err
			}
			img.markWritten(bm, block, s, end)
		}
		s = end
	}
	return nil
}

// replaceHeader replaces the header, and the footers with it, so that a reader finds either
// both old or both new. It writes the new header to unused space at spare, points the footers
// to it, and then moves it back.
func (img *Image) replaceHeader(h Header, f Footer, spare int64) error {
	home := img.footer.DataOffset
	was, is := img.header.Encode(), h.Encode()
	if f == img.footer && bytes.Equal(was[SectorSize:], is[SectorSize:]) {
		if err := img.writeHeader(h); err != nil {
			return err
		}
		img.relayout()
		return img.cutFile()
	}
	for _, off := range []uint64{uint64(spare), home} {
		if _, err := img.f.WriteAt(is[:], int64(off)); err != nil {
			return fmt.Errorf("dynamic disk header: %w", err)
		}
		if err := img.flush(); err != nil {
			return err
		}
		f.DataOffset = off
		if err := img.writeFooters(f); err != nil {
			return err
		}
		img.header = h
		img.relayout()
	}
	return img.cutFile()
}

// relayout recomputes the layout of the metadata.
func (img *Image) relayout() {
	lay := layoutOf(&img.footer, &img.header, img.lay.limit)
	lay.batmap = img.lay.batmap
	lay.addLocators(&img.footer, &img.header, img.bat, img.alloc.length)
	img.lay.relocate(&lay)
}
