package vhd

import (
	"context"
	"fmt"
	"io"

	"github.com/google/uuid"
)

// ErrFootersLost: the file has a dynamic disk header, but both copies of the footer are lost.
// Salvage reads such an image, and Repair may rebuild the footer. It wraps ErrCorrupt.
var ErrFootersLost = fmt.Errorf("%w: both copies of the footer are lost", ErrCorrupt)

// rebuiltFooter is a footer made from the dynamic disk header and the remains of the damaged
// copies. If no id remains, the unique id is zero.
type rebuiltFooter struct {
	footerCopy
	header    Header
	sizeKnown bool // otherwise the disk may be up to a block smaller
	idKnown   bool
	certain   bool // the header's checksum is correct, and all BAT entries are possible
}

// footersLost is the finding for a file that has a dynamic disk header but no trailing footer.
func footersLost(off int64) finding {
	f := missingFooter(off)
	f.Got = "no footer and no copy of it, but a dynamic disk header"
	return f
}

// lostCopy is the finding that the copy of the footer is lost, too.
func lostCopy() finding {
	return finding{Finding: Finding{
		ID: "leading-footer", Severity: Error, Offset: 0, Field: "copy of the footer at the start of the file", Got: "no valid footer", Want: "a footer",
	}}
}

// rebuildFooter makes a footer from the remains in a file of size bytes. It returns nil if no
// header points to a BAT.
func rebuildFooter(ctx context.Context, r io.ReaderAt, size int64, fs *footers) (*rebuiltFooter, error) {
	at, h, err := headerWithoutFooter(ctx, r, size)
	if err != nil || at < 0 {
		return nil, err
	}
	x := &rebuiltFooter{header: h}
	x.off = lastSector(size)
	x.Footer = Footer{
		Cookie: footerCookie, Features: featureReserved, Version: formatVersion, DataOffset: uint64(at),
		Creator: CreatorQEMUExact, CreatorVersion: CreatorQEMUExact.version(), CreatorHostOS: CreatorQEMUExact.hostOS(),
		Geometry: MaxGeometry, Type: Dynamic,
	}
	if h.hasParent() {
		x.Type = Differencing
	}
	x.CurrentSize = min(uint64(h.MaxTableEntries)*uint64(h.BlockSize), MaxSectors*SectorSize)
	x.OriginalSize = x.CurrentSize
	x.useCopies(fs)
	lay := layoutOf(&x.Footer, &h, size)
	lay.limit += lay.stored() // the file may be cut inside its last block
	t, err := readBAT(r, lay.batOff, blocksHeld(&x.Footer, &h, 0))
	if err != nil {
		return nil, err
	}
	x.certain = h.Checksum == h.checksumWanted() && t.sane(&lay)
	return x, nil
}

// headerWithoutFooter returns the dynamic disk header of a file without a footer, and its
// offset. The header is at offset 512, or is the only possible one in the first MiB. Without a
// header the offset is -1.
func headerWithoutFooter(ctx context.Context, r io.ReaderAt, size int64) (int64, Header, error) {
	// The type only decides about warnings.
	any := footerCopy{Footer: Footer{Type: Differencing, DataOffset: footerSize, CurrentSize: maxFixedSize}}
	h, found, err := readHeader(r, &any, size)
	if err != nil {
		return -1, h, err
	}
	usable := refusal(found, true) == nil && len(h.validateTable(footerSize, size)) == 0
	if usable && refusal(found, false) == nil {
		return footerSize, h, nil
	}
	at, err := scanForHeader(ctx, r, size, &any.Footer)
	switch {
	case err != nil:
		return -1, h, err
	case at >= 0:
		any.DataOffset = uint64(at)
		h, _, err = readHeader(r, &any, size)
		return at, h, err
	case usable:
		return footerSize, h, nil
	}
	return -1, h, nil
}

// hasParent reports whether the header has any of the fields of a differencing image.
func (h *Header) hasParent() bool {
	return h.ParentID != uuid.Nil || h.ParentName != [512]byte{} || h.Locators != [192]byte{}
}

// useCopies adopts the fields of damaged copies of the footer that agree with the header. The
// size of the disk must need as many BAT entries as the table has.
func (x *rebuiltFooter) useCopies(fs *footers) {
	var sizes []uint64
	var ids []uuid.UUID
	for _, c := range []*footerCopy{&fs.leading, &fs.trailing} {
		if !c.found || !x.describedBy(&c.Footer) {
			continue
		}
		f := c.Footer
		f.Cookie, f.Features, f.Version, f.Type = x.Cookie, x.Features|c.Features&featureTemporary, x.Version, x.Type
		if f.Creator != CreatorXenServer {
			f.Reserved = x.Reserved
		}
		f.SavedState = min(f.SavedState, 1)
		if f.Geometry.Product()*SectorSize > int64(f.CurrentSize) || f.BeyondGeometry() > 0 {
			f.Geometry = MaxGeometry
		}
		sizes, ids = append(sizes, f.CurrentSize), append(ids, f.UniqueID)
		x.Footer = f
	}
	x.sizeKnown = len(sizes) > 0 && sizes[0] == sizes[len(sizes)-1]
	x.idKnown = len(ids) > 0 && ids[0] == ids[len(ids)-1] && ids[0] != uuid.Nil
	if !x.sizeKnown {
		x.CurrentSize = min(uint64(x.header.MaxTableEntries)*uint64(x.header.BlockSize), MaxSectors*SectorSize)
		x.Geometry = MaxGeometry
	}
	if !x.idKnown {
		x.UniqueID = uuid.Nil
	}
}

// describedBy reports whether a damaged footer agrees with the header: in its size, and in at
// least two of cookie, version, data offset and type.
func (x *rebuiltFooter) describedBy(f *Footer) bool {
	agree := 0
	for _, same := range []bool{f.marked(), f.Version == x.Version, f.DataOffset == x.DataOffset, f.Type == x.Type} {
		if same {
			agree++
		}
	}
	blockSize := uint64(x.header.BlockSize)
	return agree >= 2 && f.DataOffset == x.DataOffset && f.CurrentSize > 0 && f.CurrentSize <= MaxSectors*SectorSize && f.CurrentSize%SectorSize == 0 &&
		(f.CurrentSize+blockSize-1)/blockSize == uint64(x.header.MaxTableEntries)
}
