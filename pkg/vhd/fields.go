package vhd

import "fmt"

// SetFooter replaces the footer. The fields that describe the file stay: data offset, sizes,
// geometry and type. SetFooter is durable when it returns. When the creator becomes or was
// XenServer, the image has no batmap afterwards, because other programs do not maintain one.
//
// If the copies of the footer have different unique ids, f must have another id than
// [Image.Footer] returns; else the error is ErrTwoIDs.
func (img *Image) SetFooter(f Footer) error {
	if err := img.state.inPlace("changing the footer of"); err != nil {
		return err
	}
	if err := img.Sync(); err != nil {
		return err
	}
	old := &img.footer
	if img.twoIDs && f.UniqueID == old.UniqueID {
		return ErrTwoIDs
	}
	f.Cookie, f.Version, f.DataOffset, f.Type = old.Cookie, old.Version, old.DataOffset, old.Type
	f.OriginalSize, f.CurrentSize, f.Geometry = old.OriginalSize, old.CurrentSize, old.Geometry
	return img.state.change(func() error {
		if !img.dynamic() {
			return img.writeFixedFooter(f)
		}
		if (f.Creator == CreatorXenServer) != (old.Creator == CreatorXenServer) {
			if err := img.dropBatmap(); err != nil {
				return err
			}
		}
		return img.writeFooters(f)
	})
}

// SetParentTime records when the parent of a differencing image was last changed; 0 means
// unknown. It is durable when it returns.
func (img *Image) SetParentTime(t Timestamp) error {
	if err := img.state.inPlace("changing the parent's time stamp of"); err != nil {
		return err
	}
	if !img.differencing() {
		return fmt.Errorf("setting the parent's time stamp of a %v disk: %w", img.footer.Type, ErrUnsupported)
	}
	if err := img.Sync(); err != nil {
		return err
	}
	h := img.header
	h.ParentTimestamp = t
	return img.state.change(func() error {
		if err := img.writeHeader(h); err != nil {
			return err
		}
		img.parentRecord.Time = t
		return nil
	})
}

// Marker returns a byte of the batmap's header that XenServer's tools set and read for their
// own use. ok is false for an image without a batmap.
func (img *Image) Marker() (marker byte, ok bool) {
	if img.batmap == nil {
		return 0, false
	}
	return img.batmap.marker, true
}

// SetMarker sets the marker. It is durable when it returns, and so are earlier writes.
func (img *Image) SetMarker(marker byte) error {
	if err := img.state.inPlace("changing the marker of"); err != nil {
		return err
	}
	if img.batmap == nil {
		return fmt.Errorf("setting the marker of an image without XenServer's batmap: %w", ErrUnsupported)
	}
	if err := img.Sync(); err != nil {
		return err
	}
	return img.state.change(func() error {
		if _, err := img.f.WriteAt([]byte{marker}, img.batmap.at+28); err != nil {
			return fmt.Errorf("batmap: %w", err)
		}
		img.batmap.marker = marker
		return img.flush()
	})
}

// writeHeader replaces the header, durably. Only fields in its first sector have changed.
func (img *Image) writeHeader(h Header) error {
	b := h.Encode()
	if _, err := img.f.WriteAt(b[:SectorSize], int64(img.footer.DataOffset)); err != nil {
		return fmt.Errorf("dynamic disk header: %w", err)
	}
	if err := img.flush(); err != nil {
		return err
	}
	img.header = h
	lay := layoutOf(&img.footer, &h, img.lay.limit)
	lay.batmap, lay.locators = img.lay.batmap, img.lay.locators
	img.lay.relocate(&lay)
	return nil
}

// writeFooters replaces both copies of the footer of a dynamic image, one after the other,
// durably. A reader finds the old or the new footer, never a mixture.
func (img *Image) writeFooters(f Footer) error {
	b := f.Encode()
	trailing := img.trailingFooterAt()
	for _, at := range []int64{0, trailing} {
		if _, err := img.f.WriteAt(b[:], at); err != nil {
			return fmt.Errorf("footer: %w", err)
		}
		if err := img.flush(); err != nil {
			return err
		}
	}
	a := &img.alloc
	a.repairLeading = false
	a.length = max(a.length, trailing+footerSize)
	img.footer, img.footerAt, img.trailer, img.copiesAgree = f, trailing, img.trailer.written(), true
	img.twoIDs = false
	return nil
}
