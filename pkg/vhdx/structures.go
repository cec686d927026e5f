package vhdx

import (
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// structures are the metadata of a file, with the changes of its log.
type structures struct {
	r        io.ReaderAt // the file, or a *replayed
	size     int64       // of r
	creator  string
	header   Header
	log      logState
	regions  []region // all that are in the file, ordered by offset
	meta     Metadata
	bat      *bat // nil if the metadata has errors
	locator  ParentLocator
	headerAt int64
}

// readStructures reads the metadata of the first size bytes of r as far as the findings permit.
// An error is a read error, or ErrNotVHDX.
func readStructures(r io.ReaderAt, size int64) (s *structures, found []finding, err error) {
	s = &structures{r: r, size: size}
	if found, err = s.readIdentifier(); err != nil {
		return nil, nil, err
	}
	add := func(more []finding) bool {
		found = append(found, more...)
		return refusal(found) == nil
	}
	hs, more, err := readHeaders(r, size)
	if err != nil {
		return nil, nil, err
	}
	if add(more); hs.best < 0 {
		return s, found, nil
	}
	s.header, s.headerAt = *hs.current(), headerOffsets[hs.best]
	s.r, s.log, more, err = readLog(r, size, &s.header, s.headerAt)
	if err != nil {
		return nil, nil, err
	}
	s.size = s.log.size
	if !add(more) {
		return s, found, nil
	}
	s.regions = []region{{"headers", 0, mib}}
	if validRegion(s.header.LogOffset, uint64(s.header.LogLength), size) {
		at := int64(s.header.LogOffset)
		s.regions = append(s.regions, region{"log", at, at + int64(s.header.LogLength)})
	}
	entries, more, ok, err := readRegionTable(s.r, s.size)
	if err != nil {
		return nil, nil, err
	}
	if add(more); !ok {
		return s, found, nil
	}
	batAt, metaAt, regions, more := validateRegions(entries, s.regions, s.size)
	s.regions = regions
	if add(more); metaAt == nil {
		return s, found, nil
	}
	if s.meta, more, err = readMetadata(s.r, metaAt); err != nil {
		return nil, nil, err
	}
	if add(more); refusal(more) != nil || batAt == nil {
		return s, found, nil
	}
	layout := s.meta.batLayout()
	if n := layout.n * 8; n > int64(batAt.n) {
		limit := uint64(n)
		f := newFinding("bat-short", disk.Error, batAt.at+24, "region table: length of the BAT",
			fmt.Sprintf("at least %d, for %d entries", n, layout.n), "%d", batAt.n)
		add([]finding{f.number(uint64(batAt.n), disk.Number{Min: &limit})})
		return s, found, nil
	}
	if s.meta.HasParent {
		var locatorErr *finding
		if s.locator, locatorErr = decodeParentLocator(s.meta.parentLocator, int64(metaAt.off)); locatorErr != nil {
			add([]finding{*locatorErr})
		}
	}
	s.bat = &bat{batLayout: layout, r: s.r, off: int64(batAt.off)}
	return s, found, nil
}

// readIdentifier reads the file identifier.
func (s *structures) readIdentifier() ([]finding, error) {
	if s.size < int64(len(fileIdentifier)) {
		return nil, ErrNotVHDX
	}
	b := make([]byte, min(s.size, int64(len(fileIdentifier)+creatorSize)))
	if err := readFull(s.r, b, 0); err != nil {
		return nil, err
	}
	if string(b[:8]) == fileIdentifier {
		s.creator = decodeUTF16(b[8:])
		return nil, nil
	}
	hs, _, err := readHeaders(s.r, s.size)
	if err != nil {
		return nil, err
	}
	if hs.best < 0 {
		return nil, ErrNotVHDX
	}
	return []finding{newFinding("file-identifier", disk.Error, 0, "file identifier", fileIdentifier, "%q", b[:8])}, nil
}

// Probe returns nil if the file starts with the file identifier of a VHDX. A file without it
// that has a valid header is a damaged VHDX, and the error is a [FormatError]. All other errors
// wrap [disk.ErrNotThisFormat], or are read errors.
func Probe(r io.ReaderAt, size int64) error {
	s := &structures{r: r, size: size}
	found, err := s.readIdentifier()
	if err == ErrNotVHDX {
		return fmt.Errorf("%w: %w", disk.ErrNotThisFormat, err)
	}
	if err != nil {
		return err
	}
	return refusal(found)
}

// validateEntry returns the fault of the entry of a payload block, or nil. The first need bytes of
// the block are read.
func (s *structures) validateEntry(i int64, e batEntry, need int64) *finding {
	block := s.bat.block(i)
	at := s.bat.off + i*8
	field := fmt.Sprintf("BAT entry %d (block %d)", i, block)
	switch e.state() {
	case NotPresent, Undefined, Zero, Unmapped, unmapped095:
		return nil
	case FullyPresent:
	case PartiallyPresent:
		if !s.meta.HasParent {
			f := newFinding("bat-state", disk.Error, at, field+": state", "a state other than 7, because the disk has no parent", "7")
			return &f
		}
	default:
		f := newFinding("bat-state", disk.Error, at, field+": state", "0, 1, 2, 3, 6 or 7", "%d", e.state())
		return &f
	}
	return s.validateOffset(at, field, e, need)
}

// validateBitmapEntry is validateEntry for the entry of a sector bitmap block.
func (s *structures) validateBitmapEntry(i int64, e batEntry) *finding {
	at := s.bat.off + i*8
	field := fmt.Sprintf("BAT entry %d (sector bitmap %d)", i, i/(s.bat.ratio+1))
	switch {
	case e.state() == NotPresent:
		return nil
	case e.state() != FullyPresent:
		f := newFinding("bitmap-state", disk.Error, at, field+": state", "0 or 6", "%d", e.state())
		return &f
	case !s.meta.HasParent:
		f := newFinding("bitmap-state", disk.Error, at, field+": state", "0, because the disk has no parent", "6")
		f.harmless = true
		return &f
	}
	return s.validateOffset(at, field, e, mib)
}

// validateOffset returns the fault of the offset of a block, or nil. The first need bytes of the
// block must be in the file.
func (s *structures) validateOffset(at int64, field string, e batEntry, need int64) *finding {
	off, limit := e.offset(), uint64(max(0, s.size-need))
	if off > limit || need > s.size {
		f := newFinding("bat-beyond-end", disk.Error, at, field+": offset", fmt.Sprintf("at most %d, so that the block ends in the file", limit), "%d", off)
		f = f.number(off, disk.Number{Max: &limit, MultipleOf: mib})
		return &f
	}
	for _, r := range s.regions {
		if int64(off) < r.end && r.start < int64(off)+need {
			f := newFinding("bat-region", disk.Error, at, field+": offset", fmt.Sprintf("an offset outside of %s, at %d to %d", r.name, r.start, r.end), "%d", off)
			return &f
		}
	}
	return nil
}

// need is the number of bytes of a payload block that are on the disk.
func (s *structures) need(block int64) int64 {
	return min(s.meta.BlockSize, s.meta.Size-block*s.meta.BlockSize)
}

// payload returns the entry of a payload block. An invalid entry is an error.
func (s *structures) payload(block int64) (batEntry, error) {
	i := s.bat.payload(block)
	e, err := s.bat.entry(i)
	if err != nil {
		return 0, err
	}
	if f := s.validateEntry(i, e, s.need(block)); f != nil {
		return 0, f.err()
	}
	return e, nil
}

// sectorBitmap reads the bits of the sectors of a partially present block from byte in to byte
// end. The bit of the first of them is bit 0 of the first byte plus the returned skip.
func (s *structures) sectorBitmap(block, in, end int64) (bits []byte, skip int64, err error) {
	i := s.bat.bitmap(block / s.bat.ratio)
	e, err := s.bat.entry(i)
	if err != nil {
		return nil, 0, err
	}
	if f := s.validateBitmapEntry(i, e); f != nil {
		return nil, 0, f.err()
	}
	if e.state() != FullyPresent {
		f := newFinding("bitmap-missing", disk.Error, s.bat.off+i*8, fmt.Sprintf("BAT entry %d (sector bitmap)", i),
			fmt.Sprintf("a sector bitmap, because block %d is partially present", block), "state %d", e.state())
		return nil, 0, f.err()
	}
	sector := s.meta.LogicalSector
	first := block%s.bat.ratio*(s.meta.BlockSize/sector) + in/sector
	last := first + (roundUp(end, sector)-in/sector*sector)/sector
	bits = make([]byte, (last+7)/8-first/8)
	if err := readFull(s.r, bits, int64(e.offset())+first/8); err != nil {
		return nil, 0, err
	}
	return bits, first % 8, nil
}

// bitRun returns the end of the run of equal bits that starts at bit i, at most limit.
func bitRun(bits []byte, i, limit int64) (end int64, set bool) {
	set = bits[i/8]>>(i%8)&1 != 0
	whole := byte(0)
	if set {
		whole = 0xff
	}
	for i++; i < limit; {
		if i%8 == 0 && bits[i/8] == whole {
			i += 8
			continue
		}
		if bits[i/8]>>(i%8)&1 != 0 != set {
			return i, set
		}
		i++
	}
	return limit, set
}
