package vhd

import (
	"errors"
	"math"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// metadata repairs the footers and the header.
func (r *repairer) metadata() error {
	fs, err := locateFooters(r.f, r.size)
	if err != nil {
		return err
	}
	c, err := fs.ignoringChecksum()
	if errors.Is(err, ErrNotVHD) && !fs.header {
		if err := r.lostFixed(); err != nil || len(r.done) == 0 {
			return err
		}
		return r.metadata() // the trailing footer is valid now
	}
	var rebuilt *rebuiltFooter
	if err != nil {
		if rebuilt, err = r.rebuiltFooter(&fs, err); err != nil {
			return err
		}
		c = &rebuilt.footerCopy
	}
	if c.SavedState != 0 && !r.o.Force {
		return ErrSavedState
	}
	if refusal(c.validate(), true) != nil {
		return nil // a repair cannot know the value of the field
	}
	footer := c.Footer
	if footer.Type == Fixed {
		return r.fixedFooter(c, &fs)
	}
	end, stored, moved, err := r.header(&footer, c)
	if err != nil {
		return err
	}
	if end < 0 {
		return r.leadingFooter(&fs)
	}
	n := len(r.done)
	err = r.footers(&footer, &fs, end, stored, moved)
	if rebuilt != nil && len(r.done) > n {
		rebuilt.explain(&r.done[n])
	}
	return err
}

// header finds and repairs the dynamic disk header, and points the footer to it. It returns the
// end of the range that the header and the BAT refer to, or -1 without a valid header. stored
// is the size of a block in the file. moved is the finding of a footer that pointed elsewhere,
// or nil.
func (r *repairer) header(footer *Footer, c *footerCopy) (end, stored int64, moved *finding, err error) {
	h, found, err := readHeader(r.f, c, r.size)
	if err != nil {
		return -1, 0, nil, err
	}
	if refusal(found, true) != nil {
		moved = &found[0]
		at, err := scanForHeader(r.ctx, r.f, r.size, footer)
		if err == nil && at < 0 {
			moved = nil
			at, err = r.rebuildHeader(c, &h, found)
		}
		if err != nil || at < 0 {
			return -1, 0, nil, err
		}
		footer.DataOffset = uint64(at)
		there := *c
		there.DataOffset = uint64(at)
		if h, found, err = readHeader(r.f, &there, r.size); err != nil || refusal(found, false) != nil {
			return -1, 0, nil, err
		}
	}
	if len(h.validateTable(footer.DataOffset, r.size)) > 0 {
		return -1, 0, nil, nil
	}
	blockSize := int64(h.BlockSize)
	if _, odd := c.virtualSize(SizeAuto, int64(h.MaxTableEntries)*blockSize); len(odd) > 0 {
		return -1, 0, nil, nil
	}
	lay := layoutOf(footer, &h, math.MaxInt64)
	t, err := readBAT(r.f, lay.batOff, blocksHeld(footer, &h, 0))
	if err != nil {
		return -1, 0, nil, err
	}
	r.pages = footer.Creator == CreatorWindows && !disk.IsDevice(r.f) && t.count() > 0
	for _, e := range t.usedOnce() {
		r.pages = r.pages && (int64(e)*SectorSize+lay.bitmapSize)%dataAlign == 0
	}
	if h.Checksum != h.checksumWanted() {
		b := h.Encode()
		if err := r.write(b[:SectorSize], int64(footer.DataOffset)); err != nil {
			return -1, 0, nil, err
		}
		r.did("header-checksum", int64(footer.DataOffset), SectorSize, "the header's checksum was corrected")
	}
	inUse := lay.regions
	if footer.Type == Differencing {
		inUse = append(inUse, h.locatorRegions(r.size)...)
	}
	m, err := readBatmap(r.f, footer, lay.batEnd(), r.size)
	if err != nil {
		return -1, 0, nil, err
	}
	if m != nil {
		inFile := lay
		inFile.limit = r.size
		inUse = append(inUse, m.regions(&inFile, t)...)
	}
	for _, x := range inUse {
		end = max(end, x.end)
	}
	p := lay.placement()
	for i, e := range t.usedOnce() {
		// The end of a block that starts in the file may be cut off. A block that starts past
		// the end, or overlaps metadata, is no evidence.
		start := int64(e) * SectorSize
		if start+lay.bitmapSize > r.size || p.over(e) != nil {
			continue
		}
		end = max(end, start+lay.stored())
		if n := start + lay.stored() - r.size; n > 0 {
			for block := i; block < i+t.alike(i) && len(r.torn) < maxTorn; block++ {
				r.torn = append(r.torn, tornBlock{block, n, lay.diskRange(block, lay.blockSize-n, int64(footer.CurrentSize))})
			}
		}
	}
	return end, lay.stored(), moved, nil
}

// maxTorn is the most torn blocks that are named. A file that was only cut has one; a damaged
// BAT may have any number.
const maxTorn = 1000

// tornBlock is a block that starts in the file, which ends n bytes before the block does.
type tornBlock struct {
	block, n int64
	lost     disk.Range
}

// footers writes the missing copies of the footer: first the leading one, and then the trailing
// one. The trailing one goes after everything in use, and after a possible unreferenced block
// of stored bytes. moved is the finding of a footer that pointed elsewhere than to the header,
// or nil.
func (r *repairer) footers(footer *Footer, fs *footers, end, stored int64, moved *finding) error {
	b := footer.Encode()
	leadingWritten := !fs.leading.valid() || !fs.leading.same(footer)
	if leadingWritten {
		if err := r.write(b[:], 0); err != nil {
			return err
		}
		r.foundHeader(footer, moved)
		id := "leading-footer"
		switch {
		case fs.leading.valid() && moved != nil:
			id = moved.ID
		case fs.leading.valid():
			id = "footers-differ"
		case fs.leading.Footer == *footer && !fs.trailing.valid():
			id = "footer-checksum"
		}
		r.did(id, 0, footerSize, "the copy of the footer at the start was rewritten")
	}
	at, id := fs.trailing.off, "trailing-footer"
	rest := r.size % SectorSize
	switch {
	case rest != 0 && !(fs.trailing.short && fs.trailing.valid()):
		// The partial sector stays, before the footer.
		at = max(roundUp(r.size, SectorSize), end)
		if fs.trailing.valid() {
			id = "file-length"
		}
	case fs.trailing.valid() && fs.trailing.same(footer) && !fs.trailing.short:
		return nil
	case fs.trailing.valid() && moved != nil:
		id = moved.ID
	case fs.trailing.valid():
		id = "file-length"
	case end > r.size-footerSize, !fs.trailing.marked() && r.size-end >= stored && !disk.IsDevice(r.f):
		// The last sector belongs to a block, or may.
		at = max(roundUp(r.size, SectorSize), end)
	default:
		at = lastSector(r.size)
		if fs.trailing.Footer == *footer {
			id = "footer-checksum"
		}
	}
	if r.pages && !fs.trailing.valid() {
		at = roundUp(at+footerSize, dataAlign) - footerSize
	}
	size := r.size
	if err := r.write(b[:], at); err != nil {
		return err
	}
	if !leadingWritten {
		r.foundHeader(footer, moved)
	}
	r.did(id, at, footerSize, "the trailing footer was rewritten at offset %d", at)
	if !fs.trailing.valid() {
		for _, x := range r.torn {
			r.did("bat-beyond-end", size, x.n, "the last %d bytes of block %d are not in the file and are zeros now: %s of the disk", x.n, x.block, rangeText(x.lost))
			r.done[len(r.done)-1].Doubtful = []disk.Range{x.lost}
		}
	}
	return nil
}

// foundHeader records that the header was found, once a footer points to it. moved is the
// finding of a footer that pointed elsewhere, or nil.
func (r *repairer) foundHeader(footer *Footer, moved *finding) {
	if moved != nil {
		r.did(moved.ID, int64(footer.DataOffset), headerSize,
			"the header was found at offset %d, where the footer did not point", footer.DataOffset)
	}
}
