package vhd

import (
	"context"
	"encoding/binary"
	"io"
)

// sampledBitmaps is the number of sector bitmaps that are examined to recognise a block size.
const sampledBitmaps = 64

// rebuildHeader makes the header of an image whose BAT is at offset 1536, right after the
// header, as qemu, VirtualBox and Windows place it. Blocks end at limit. It tries the block
// sizes that products use, 2 MiB first, and returns nil if none of them fits.
//
// The header is certain if exactly one block size leaves no unreferenced space in the file, and
// the image has no parent. With a parent, its record is lost.
func rebuildHeader(ctx context.Context, r io.ReaderAt, f *Footer, limit int64) (*foundHeader, error) {
	if f.CurrentSize == 0 || f.CurrentSize > MaxSectors*SectorSize {
		return nil, nil
	}
	var best *foundHeader
	exact := 0
	sizes := []int64{DefaultBlockSize}
	for n := int64(MinBlockSize); n <= MaxBlockSize; n *= 2 {
		if n != DefaultBlockSize {
			sizes = append(sizes, n)
		}
	}
	for _, blockSize := range sizes {
		h, err := newHeader(int64(f.CurrentSize), blockSize)
		if err != nil {
			return nil, err
		}
		fits, packed, err := h.leadsToBlocks(ctx, r, f, limit)
		if err != nil {
			return nil, err
		}
		if !fits {
			continue
		}
		x := &foundHeader{Header: h, at: footerSize, rebuilt: true, certain: packed}
		if packed {
			exact++
		}
		if best == nil || packed && !best.certain {
			best = x
		}
	}
	if best != nil {
		best.certain = best.certain && exact == 1 && f.Type == Dynamic && f.DataOffset == footerSize
	}
	return best, nil
}

// leadsToBlocks reports whether a proposed header leads to a BAT and to blocks. packed says
// that nothing contradicts it: the image has blocks, each entry is possible, and the whole file
// is in use.
func (h *Header) leadsToBlocks(ctx context.Context, r io.ReaderAt, f *Footer, limit int64) (fits, packed bool, err error) {
	if len(h.validateTable(footerSize, limit)) > 0 {
		return false, false, nil
	}
	own := *f
	own.DataOffset = footerSize
	lay := layoutOf(&own, h, limit)
	p := lay.placement()
	if ok, err := mostFit(ctx, r, lay.batOff, int64(h.MaxTableEntries), &p); err != nil || !ok {
		return false, false, err
	}
	if more, err := goesOn(r, lay.batOff, int64(h.MaxTableEntries), &p); err != nil || more {
		return false, false, err
	}
	t, err := readBAT(r, lay.batOff, int64(h.MaxTableEntries))
	if err != nil {
		return false, false, err
	}
	m, err := readBatmap(r, &own, lay.batEnd(), limit)
	if err != nil {
		return false, false, err
	}
	if m != nil {
		lay.batmap = m.regions(&lay, t)
	}
	fit, overlaps := t.fitting(&p), false
	t.overlaps(&p, fit, func(_, _ int64) bool {
		overlaps = true
		return false
	})
	if overlaps {
		return false, false, nil
	}
	step := max(1, fit/sampledBitmaps)
	k := int64(0)
	for _, e := range t.usedOnce() {
		if !p.fits(e) {
			continue
		}
		if k++; k%step != 0 {
			continue
		}
		if ok, err := lay.looksLikeBitmap(r, int64(e)*SectorSize); err != nil || !ok {
			return false, false, err
		}
	}
	if fit == 0 || !t.sane(&lay) {
		return true, false, nil
	}
	end := int64(0)
	for start, stop := range t.spans(&lay) {
		if end > lay.metadataEnd() && !lay.follows(start, end) || start-end >= maxPadding {
			return true, false, nil
		}
		end = max(end, stop)
	}
	return true, limit-end <= dataAlign+footerSize, nil
}

// follows reports whether products place a block at start after a structure that ends at end. A
// footer that has moved may be between the two.
func (l *layout) follows(start, end int64) bool {
	own := *l
	for _, own.align = range []int64{SectorSize, dataAlign} {
		if start == own.nextBlockOffset(end) || start == own.nextBlockOffset(end+footerSize) {
			return true
		}
	}
	return false
}

// maxPadding is the most unused space, in bytes, that products leave before a block.
const maxPadding = 64 << 10

// mostFit reports whether more than half of the used entries of a table may point to blocks. It
// gives up early, and so reads little of data that is not a table.
func mostFit(ctx context.Context, r io.ReaderAt, off, n int64, p *placement) (bool, error) {
	buf := make([]byte, min(n*4, 64<<10))
	used, impossible := int64(0), int64(0)
	for end := off + n*4; off < end; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		b := buf[:min(int64(len(buf)), end-off)]
		if err := readFull(r, b, off); err != nil {
			return false, err
		}
		off += int64(len(b))
		for ; len(b) > 0; b = b[4:] {
			e := binary.BigEndian.Uint32(b)
			if e == unused {
				continue
			}
			if used++; !p.fits(e) {
				if impossible++; impossible > 64+used/2 {
					return false, nil
				}
			}
		}
	}
	return impossible*2 <= used, nil
}

// goesOn reports whether the rest of a table's last sector may point to blocks, too. Then the
// table is larger.
func goesOn(r io.ReaderAt, off, n int64, p *placement) (bool, error) {
	rest := make([]byte, batBytes(n)-n*4)
	if err := readFull(r, rest, off+n*4); err != nil {
		return false, err
	}
	for ; len(rest) > 0; rest = rest[4:] {
		if at := int64(binary.BigEndian.Uint32(rest)) * SectorSize; at >= p.regionsEnd && at < p.limit {
			return true, nil
		}
	}
	return false, nil
}

// maxBitmapRuns is the most runs of equal bits in a sector bitmap that is recognised. Data has
// far more.
const maxBitmapRuns = 128

// looksLikeBitmap reports whether the file may have the sector bitmap of a block at off: some
// bits are set, in long runs.
func (l *layout) looksLikeBitmap(r io.ReaderAt, off int64) (bool, error) {
	if off < 0 || off+l.bitmapSize > l.limit {
		return false, nil
	}
	bits := make([]byte, l.bitmapSize)
	if err := readFull(r, bits, off); err != nil {
		return false, err
	}
	sectors := l.blockSize / SectorSize
	runs, some := 0, false
	for s := int64(0); s < sectors; {
		end, set := bitmapRun(bits, s, sectors)
		some = some || set
		if runs++; runs > maxBitmapRuns {
			return false, nil
		}
		s = end
	}
	rest := bits[sectors/8:] // ones or zeros
	for _, c := range rest {
		if c != rest[0] || c != 0 && c != 0xff {
			return false, nil
		}
	}
	return some, nil
}
