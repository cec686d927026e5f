package vhd

import (
	"bytes"
	"context"
	"fmt"

	"github.com/vhdtool/vhdtool/internal/sparse"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// SetParent makes another disk the parent of a differencing image, which takes it
// over and closes the former one. Only what the image records of its parent
// changes: what it inherits is the new parent's from then on. The new parent must
// not be larger than the image. Each step is durable before the next, and after a
// crash the image has the one parent or the other. Nothing else may use the image
// meanwhile.
//
// With a nil parent only the record changes; the image keeps the parent that it
// has open, if any.
func (img *Image) SetParent(parent disk.Disk, p ParentRecord) error {
	switch {
	case img.f == nil:
		return ErrReadOnly
	case !img.differencing() || img.alloc.fresh:
		return fmt.Errorf("%w: another parent for a disk that is %v, or new", ErrUnsupported, img.footer.Type)
	case parent != nil && parent.Size() > img.size:
		return fmt.Errorf("%w: a parent of %d bytes, larger than the image, which has %d", ErrUnsupported, parent.Size(), img.size)
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
	at, err := img.freeRoom(end)
	if err != nil {
		return err
	}
	if _, err := p.encodeInto(&h, at); err != nil {
		return err
	}
	if err := img.writeTexts(p.texts(at)); err != nil {
		return err
	}
	if err := img.flush(); err != nil {
		return err
	}
	// Until the header leads there, the texts must count as in use.
	img.lay.locators = append(img.lay.locators, region{"parent locators", at, at + end})
	if err := img.replaceHeader(h, img.footer); err != nil {
		return err
	}
	img.parentRecord = p
	if parent != nil {
		err = img.closeParents()
		img.parent, img.parentPath = parent, ""
	}
	return err
}

// Detach makes a dynamic image of a differencing one: it gets all that it
// inherits, and has no parent afterwards. It is as safe against crashes as
// SetParent.
func (img *Image) Detach(ctx context.Context, progress disk.Progress) error {
	switch {
	case img.f == nil:
		return ErrReadOnly
	case !img.differencing() || img.alloc.fresh:
		return fmt.Errorf("%w: taking the parent from a disk that is %v, or new", ErrUnsupported, img.footer.Type)
	}
	if err := img.takeInherited(); err != nil {
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
	if err := img.replaceHeader(h, f); err != nil {
		return err
	}
	img.parentRecord = ParentRecord{}
	return img.closeParents()
}

// takeInherited writes what the parent has into the image. In blocks that have a
// place all sectors are written then: readers disagree on what a dynamic image
// has under a clear bit.
func (img *Image) takeInherited() error {
	buf := make([]byte, 1<<20)
	for e, err := range img.Extents(0, img.size) {
		if err != nil {
			return err
		}
		if e.Depth == 0 || e.State != disk.Data {
			continue
		}
		for off := e.Off; off < e.End(); {
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
		if err := img.fillBlock(block, e); err != nil {
			return fmt.Errorf("block %d: %w", block, err)
		}
	}
	return nil
}

// fillBlock makes zeros of the sectors of an allocated block that are not in the
// file, for good.
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
			if err := sparse.Zero(img.f, data+s*SectorSize, (end-s)*SectorSize); err != nil {
				return err
			}
			img.markWritten(bm, block, s, end)
		}
		s = end
	}
	return nil
}

// replaceHeader replaces the header, and the footers with it, so that a reader
// finds both as they were or both as they become: the new header is written in
// another place, the footers lead there, and then it moves back.
func (img *Image) replaceHeader(h Header, f Footer) error {
	home := img.footer.DataOffset
	was, is := img.header.Encode(), h.Encode()
	if f == img.footer && bytes.Equal(was[SectorSize:], is[SectorSize:]) {
		if err := img.writeHeader(h); err != nil {
			return err
		}
		img.relayout()
		return nil
	}
	at, err := img.freeRoom(headerSize)
	if err != nil {
		return err
	}
	for _, off := range []uint64{uint64(at), home} {
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

// relayout says anew where things stand.
func (img *Image) relayout() {
	batmap, limit := img.lay.batmap, img.lay.limit
	img.lay = layoutOf(&img.footer, &img.header, limit)
	img.lay.batmap = batmap
	img.lay.addLocators(&img.footer, &img.header, img.bat, img.alloc.length)
}
