package vhd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// errRecordLost says that the header with the parent record was rebuilt.
var errRecordLost = errors.New("the record of the parent was lost with the dynamic disk header")

// openSalvaged is NewImage with Salvage. It fails only if the contents of the file cannot be
// determined.
func openSalvaged(r io.ReaderAt, size int64, o *OpenOptions) (*Image, error) {
	img := &Image{r: r, closer: o.Closer, salvage: &salvage{}}
	p := &patchyReader{r: r}
	fs, err := locateFooters(p, size)
	if err == nil {
		err = refuseSplit(r, fs.trailing.valid())
	}
	if err != nil {
		return nil, err
	}
	c, sizeKnown, err := salvagedFooter(p, size, &fs, o)
	if err != nil {
		return nil, err
	}
	img.footer, img.footerAt = c.Footer, c.off
	trailing := c == &fs.trailing
	img.trailer = trailerOf(r, trailing)
	img.copiesAgree = c.Type == Fixed || fs.trailing.valid() && fs.leading.valid() && fs.trailing.same(&fs.leading.Footer)
	img.twoIDs = fs.twoIDs()
	img.rule = o.SizeRule.resolve(&c.Footer)
	img.salvage.end = size
	if trailing || c.Type == Fixed {
		img.salvage.end = c.off
	}
	moved, err := fs.unaligned(p)
	if err != nil {
		return nil, err
	}
	if c.Type == Fixed {
		err = img.salvageFixed(c, o)
	} else {
		err = img.salvageDynamic(p, c, size, o)
	}
	if err != nil {
		return nil, err
	}
	if len(moved) > 0 {
		img.doubt(0, lostShifted)
	}
	if !sizeKnown {
		img.doubt(max(0, img.size-int64(img.header.BlockSize)+SectorSize), lostSize)
	}
	if img.differencing() {
		if err := img.salvageParents(p, size, o); err != nil {
			return nil, err
		}
	}
	return img, nil
}

// doubt lists the disk from an offset on as doubtful.
func (img *Image) doubt(from int64, reason string) {
	var l lostList
	l.add(from, img.size-from, true, reason)
	img.salvage.doubtful = img.salvage.doubtful.under(l)
}

// salvagedFooter chooses the footer to use, or rebuilds one. sizeKnown says that the footer has
// the exact size of the disk.
func salvagedFooter(p *patchyReader, size int64, fs *footers, o *OpenOptions) (c *footerCopy, sizeKnown bool, err error) {
	c, err = fs.ignoringChecksum()
	if err == nil {
		if err = refusal(c.validate(), true); err == nil {
			return c, true, nil
		}
	}
	if errors.Is(err, ErrNotVHD) && !fs.header {
		c, err := salvagedFixedFooter(p.r, size)
		return c, true, err
	}
	re, rerr := rebuildFooter(context.Background(), p, size, fs)
	if rerr != nil {
		return nil, false, rerr
	}
	if re == nil {
		return nil, false, err
	}
	return &re.footerCopy, re.sizeKnown, nil
}

// salvagedFixedFooter returns the footer of a fixed disk that is not at the end of the file. If
// that is lost and the disk determines its offset, it returns a new footer.
func salvagedFixedFooter(r io.ReaderAt, size int64) (*footerCopy, error) {
	l, err := findLostFixed(r, size)
	switch {
	case err != nil:
		return nil, err
	case l == nil:
		return nil, ErrNotVHD
	case l.footer != nil:
		return l.footer, nil
	case l.at < 0:
		return nil, l.finding().err()
	}
	f, err := l.newFooter(r)
	return &footerCopy{Footer: f, off: l.at}, err
}

// salvageFixed sets the size of a fixed disk. The file may hold only its start.
func (img *Image) salvageFixed(c *footerCopy, o *OpenOptions) error {
	var found []finding
	if img.size, found = c.virtualSize(o.SizeRule, c.off); len(found) > 0 {
		img.size, _ = c.virtualSize(o.SizeRule, math.MaxInt64)
	}
	img.alloc.length, img.alloc.syncedFooterAt = img.salvage.end, -1
	if at := img.salvage.end; at < img.size {
		img.salvage.lost.add(at, img.size-at, false, lostFileEnd)
	}
	return nil
}

// salvageDynamic finds the header and the BAT, and the ranges that they have lost.
func (img *Image) salvageDynamic(p *patchyReader, c *footerCopy, size int64, o *OpenOptions) error {
	limit := img.salvage.end
	h, err := salvagedHeader(p, c, size, limit)
	if err != nil {
		return err
	}
	img.header, img.footer.DataOffset = h.Header, uint64(h.at)
	img.salvage.headerRebuilt = h.rebuilt
	blockSize := int64(h.BlockSize)
	space := max(int64(h.MaxTableEntries)*blockSize, int64(min(c.CurrentSize, MaxSectors*SectorSize)))
	var found []finding
	// The BAT is too small for the size.
	if img.size, found = c.virtualSize(o.SizeRule, space); len(found) > 0 {
		img.size = int64(h.MaxTableEntries) * blockSize
	}
	blocks := max(blocksHeld(&img.footer, &h.Header, img.size), (img.size+blockSize-1)/blockSize)
	entries := max(0, min(blocks, int64(h.MaxTableEntries), (limit-int64(h.TableOffset))/4))
	lay := layoutOf(&img.footer, &h.Header, limit)
	t, err := readBAT(p, lay.batOff, entries)
	if err != nil {
		return err
	}
	if used := int64(h.MaxTableEntries); used > blocks && t.over(&lay, lay.batOff, lay.batEnd()) >= 0 {
		// The end of the table, which the disk does not need, may hold other data.
		short := h.Header
		short.MaxTableEntries = uint32(blocks)
		lay = layoutOf(&img.footer, &short, limit)
	}
	img.lay, img.bat = lay, t.resized(blocks)
	for i := entries; i < blocks; { // entry 0 points to the copy of the footer
		if k := i / batPieceLen; i%batPieceLen == 0 && k < batPieces(blocks-batPieceLen) {
			var d batDecoder
			img.bat.fill(k, batPieces(blocks-batPieceLen), d.decode(make([]byte, batPieceBytes)))
			i = batPieces(blocks-batPieceLen) * batPieceLen
			continue
		}
		img.bat.store(i, 0)
		i++
	}
	m, err := readBatmap(p, &img.footer, img.lay.batEnd(), size)
	if err != nil {
		return err
	}
	if m != nil {
		if m.encrypted && !o.Parents.None {
			return errEncrypted
		}
		img.batmap, img.lay.batmap = m, m.regions(&img.lay, img.bat)
	}
	img.lay.addLocators(&img.footer, &h.Header, img.bat, size)
	img.bitmaps.init(blocks, true)
	found, err = img.bat.cutInside(p, &img.lay)
	if err != nil {
		return err
	}
	var doubtful []disk.Range
	if len(found) == 0 {
		if doubtful, err = img.salvageBAT(p); err != nil {
			return err
		}
	}
	img.findLost(p, entries)
	img.salvage.doubtful = img.salvage.doubtful.under(doubtfulList(doubtful, lostBATRebuilt))
	if len(found) > 0 {
		img.doubt(0, lostShifted)
	}
	if h.rebuilt && !h.certain {
		img.doubt(0, lostHeader)
	}
	return nil
}

// salvageBAT completes the BAT with entries that follow from the order of the file. It returns
// the ranges of the disk whose entries are not certain.
func (img *Image) salvageBAT(p *patchyReader) (doubtful []disk.Range, err error) {
	proposed, err := rebuildBAT(context.Background(), img.through(p), int64(img.header.MaxTableEntries), img.trailer.present(), p.badEntries(&img.lay))
	if err != nil {
		return nil, err
	}
	for _, x := range proposed {
		for i, e := range x.entries {
			img.bat.store(x.first+int64(i), e)
			if !x.certain && e != unused {
				doubtful = append(doubtful, img.lay.diskRange(x.first+int64(i), 0, img.size))
			}
		}
	}
	return doubtful, nil
}

// through returns the image as r reads it. It has only the file, the footers, the layout and
// the BAT.
func (img *Image) through(r io.ReaderAt) *Image {
	return &Image{r: r, footer: img.footer, header: img.header, lay: img.lay, bat: img.bat, size: img.size}
}

// findLost lists the blocks that the BAT does not lead to, and the bytes that blocks share. The
// table has the given number of entries.
func (img *Image) findLost(p *patchyReader, entries int64) {
	s := img.salvage
	pl := img.lay.placement()
	s.readable = pl
	s.readable.limit += img.lay.blockSize // only the bitmap of a block must be in the file
	bad := p.badEntries(&img.lay)
	fit := int64(0)
	// The last entry of a torn block, and its lost ranges.
	torn, tornRanges := uint32(unused), []disk.Range(nil)
	for i, e := range img.bat.usedOnce() {
		n := img.bat.alike(i)
		at := int64(e)*SectorSize + img.lay.bitmapSize
		first := img.lay.diskRange(i, 0, img.size).Off
		all := min((i+n)*img.lay.blockSize, img.size) - first
		reason := lostBeyondEnd
		switch {
		case i >= entries:
			reason = lostBATEnd
		case bad.has(i):
			reason = lostBATSector
		case pl.over(e) != nil:
			reason = lostOverMetadata
		}
		switch {
		case pl.fits(e):
			fit += n
		case !s.readable.fits(e):
			s.lost.add(first, all, false, reason)
		default:
			fit += n
			if e != torn {
				tornRanges, torn = img.tornTail(i, e, max(0, s.end-at)), e
			}
			for k := i; k < i+n; k++ {
				for _, r := range tornRanges {
					off := k*img.lay.blockSize + r.Off
					s.lost.add(off, min(r.N, img.size-off), false, lostTorn)
				}
			}
		}
	}
	if img.bat.apart(img.lay.stored() / SectorSize) {
		return
	}
	var shared []disk.Range
	before, end := int64(-1), int64(-1)
	for _, x := range img.bat.sorted(&s.readable, fit) {
		sector, block := int64(x>>32), int64(uint32(x))
		if sector < end {
			shared = append(shared, img.doubtful(overlap{before, block})...)
		}
		before, end = block, sector+img.lay.stored()/SectorSize
	}
	s.doubtful = doubtfulList(shared, lostOverlap)
}

// tornTail returns the written sectors of a block from its byte off on, as offsets in the
// block. Sectors with a clear bit are not lost.
func (img *Image) tornTail(block int64, e uint32, off int64) []disk.Range {
	bm, lost := img.salvagedBitmap(block, e)
	if bm == nil || lost {
		return []disk.Range{{Off: off, N: img.lay.blockSize - off}}
	}
	var tail []disk.Range
	sectors := img.lay.blockSize / SectorSize
	for s := off / SectorSize; s < sectors; {
		end, set := bitmapRun(bm.bits, s, sectors)
		if from := max(off, s*SectorSize); set {
			tail = append(tail, disk.Range{Off: from, N: end*SectorSize - from})
		}
		s = end
	}
	return tail
}

// salvageParents opens as many parents as possible.
func (img *Image) salvageParents(p *patchyReader, size int64, o *OpenOptions) (err error) {
	if img.salvage.headerRebuilt {
		img.parentErr = errRecordLost
		return nil
	}
	if img.parentRecord, err = readParentRecord(p, size, &img.header); err != nil && o.Parent == nil {
		img.parentErr = err
		return nil
	}
	switch {
	case o.Parent != nil:
		return img.adopt(o.Parent)
	case o.Parents.None:
		return nil
	case o.OpenParent != nil:
		img.parentErr = img.openParentsWith(o.OpenParent)
		return nil
	}
	if last, err := img.openParents(o); err != nil {
		last.parentErr = err
	}
	return nil
}

// foundHeader is a dynamic disk header and its offset.
type foundHeader struct {
	Header
	at      int64
	rebuilt bool // made without any header in the file
	certain bool
}

// salvagedHeader finds the header of a dynamic image whose blocks end at limit, or rebuilds it.
func salvagedHeader(r io.ReaderAt, c *footerCopy, size, limit int64) (*foundHeader, error) {
	ctx := context.Background()
	direct, sane, err := directHeader(r, c, limit)
	if err != nil {
		return nil, err
	}
	if direct != nil && sane {
		return direct, nil
	}
	if at, err := scanForHeader(ctx, r, size, &c.Footer); err != nil {
		return nil, err
	} else if at >= 0 {
		there := *c
		there.DataOffset = uint64(at)
		if h, _, err := directHeader(r, &there, limit); err != nil || h != nil {
			return h, err
		}
	}
	if direct != nil && direct.Checksum == direct.checksumWanted() {
		return direct, nil
	}
	rebuilt, err := rebuildHeader(ctx, r, &c.Footer, limit)
	switch {
	case err != nil:
		return nil, err
	case direct != nil && (rebuilt == nil || !rebuilt.certain):
		return direct, nil
	case rebuilt != nil:
		return rebuilt, nil
	}
	_, found, err := readHeader(r, c, limit)
	if err == nil {
		err = refusal(found, true)
	}
	if err == nil {
		err = fmt.Errorf("%w: no BAT from which the dynamic disk header can be rebuilt", ErrCorrupt)
	}
	return nil, err
}

// directHeader reads the header that the footer points to. It returns nil if the header does
// not lead to a BAT. If the number of entries does not fit the file or the disk, it corrects
// the number. Then the file must have a BAT of the size that the disk needs. sane says that all
// entries are possible.
func directHeader(r io.ReaderAt, c *footerCopy, limit int64) (_ *foundHeader, sane bool, err error) {
	h, found, err := readHeader(r, c, limit)
	if err != nil || refusal(found, true) != nil {
		return nil, false, err
	}
	x := &foundHeader{Header: h, at: int64(c.DataOffset)}
	try := func(entries int64) (ok, sane bool, err error) {
		h := h
		h.MaxTableEntries = uint32(entries)
		if len(h.validateTable(c.DataOffset, limit)) > 0 {
			return false, false, nil
		}
		lay := layoutOf(&c.Footer, &h, limit)
		t, err := readBAT(r, lay.batOff, min(entries, blocksHeld(&c.Footer, &h, 0)))
		return true, err == nil && t.sane(&lay), err
	}
	need := int64(math.MaxUint32)
	if c.CurrentSize <= MaxSectors*SectorSize {
		need = (int64(c.CurrentSize) + int64(h.BlockSize) - 1) / int64(h.BlockSize)
	}
	have := int64(h.MaxTableEntries)
	fits, sane, err := try(have)
	if err != nil || fits && have >= need {
		return x, sane, err
	}
	if need < math.MaxUint32 && need != have {
		ok, sane, err := try(need)
		if err != nil || ok && (sane || !fits) {
			x.MaxTableEntries = uint32(need)
			return x, sane, err
		}
	}
	h.MaxTableEntries = 0
	if !fits && len(h.validateTable(c.DataOffset, limit)) > 0 {
		return nil, false, nil
	}
	return x, sane, nil
}
