package vhd

import (
	"fmt"
	"iter"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// placement describes where in the file blocks may be stored.
type placement struct {
	regions    []region // regions of metadata
	regionsEnd int64
	limit      int64 // blocks end here at the latest
	stored     int64
}

func (l *layout) placement() placement {
	p := placement{regions: slices.Concat(l.regions, l.batmap), limit: l.limit, stored: l.stored()}
	for _, r := range p.regions {
		p.regionsEnd = max(p.regionsEnd, r.end)
	}
	return p
}

// over returns the metadata that the block of an entry overlaps, or nil.
func (p *placement) over(entry uint32) *region {
	start := int64(entry) * SectorSize
	if start >= p.regionsEnd {
		return nil
	}
	return regionOver(p.regions, start, start+p.stored)
}

// end returns the offset after the block of an entry.
func (p *placement) end(entry uint32) int64 { return int64(entry)*SectorSize + p.stored }

// fits reports whether the block of an entry ends within the limit and overlaps no metadata.
func (p *placement) fits(entry uint32) bool { return p.end(entry) <= p.limit && p.over(entry) == nil }

// faultRun is a run of entries with the same fault.
type faultRun struct {
	region      *region // the metadata that the blocks overlap; nil: they end past the limit
	first, n    int64   // blocks
	least, most uint32  // entries
}

// extend adds n entries from block on to the run if they follow it and have its fault.
func (f *faultRun) extend(block, n int64, entry uint32, over *region) bool {
	if f.n == 0 || f.region != over || f.first+f.n != block {
		return false
	}
	f.n += n
	f.least, f.most = min(f.least, entry), max(f.most, entry)
	return true
}

// blockRange returns the bytes of a block. The last one may end past the disk.
func (l *layout) blockRange(block int64) disk.Range {
	return disk.Range{Off: block * l.blockSize, N: l.blockSize}
}

// batFinding is a finding about n entries from block on. fault says what is wrong with them.
func (l *layout) batFinding(id string, block, n int64, got, want, fault string) finding {
	field := fmt.Sprintf("BAT entry %d", block)
	if n > 1 {
		field = fmt.Sprintf("BAT entries %d to %d", block, block+n-1)
	}
	affected := disk.Range{Off: block * l.blockSize, N: n * l.blockSize}
	text := fmt.Sprintf("%s %s: %s of the disk", field, fault, rangeText(affected))
	return finding{Finding: Finding{
		ID: id, Severity: Error, Offset: l.batOff + block*4, Field: field, Got: got, Want: want, Text: text, Count: n,
		Disk: []disk.Range{affected},
	}}
}

// finding describes the run.
func (f *faultRun) finding(l *layout, p *placement) finding {
	sectors := fmt.Sprintf("sector %d", f.least)
	if f.most > f.least {
		sectors = fmt.Sprintf("sectors %d to %d", f.least, f.most)
	}
	one := f.n == 1
	points := "points"
	if !one {
		points = "point"
	}
	if over := f.region; over != nil {
		got, want := "%s, a block that overlaps the %s", "a block that ends before byte %d or starts at byte %d or later"
		if !one {
			got, want = "%s, blocks that overlap the %s", "blocks that end before byte %d or start at byte %d or later"
		}
		return l.batFinding("bat-over-metadata", f.first, f.n, fmt.Sprintf(got, sectors, over.name), fmt.Sprintf(want, over.start, over.end),
			fmt.Sprintf("%s at %s, where a block overlaps the %s", points, sectors, over.name))
	}
	got, want := "%s, a block that ends at byte %d", "a block that ends at byte %d or before"
	if !one {
		got, want = "%s, blocks that end at byte %d or later", "blocks that end at byte %d or before"
	}
	fault := fmt.Sprintf("%s at %s, past the end of the file", points, sectors)
	if int64(f.least)*SectorSize < p.limit {
		fault = fmt.Sprintf("%s at %s, where a block ends after byte %d, the end of the space for blocks", points, sectors, p.limit)
	}
	return l.batFinding("bat-beyond-end", f.first, f.n, fmt.Sprintf(got, sectors, p.end(f.least)), fmt.Sprintf(want, p.limit), fault)
}

// validate reports the impossible entries: blocks that overlap metadata or each other, or end
// past the limit. A run of entries with the same fault is one finding. found returns false to
// end the search. Time and memory are proportional to the entries that the table holds.
func (t bat) validate(l *layout, found func(finding) bool) {
	p := l.placement()
	var over, beyond faultRun
	flush := func(f *faultRun) bool {
		n := f.n
		x := *f
		f.n = 0
		return n == 0 || found(x.numbered(l, &p))
	}
	fit := int64(0)
	repeats := t.repeats()
	first, last := p.regionsEnd, p.limit-p.stored // most blocks start between these
	for i, e := range t.usedOnce() {
		start := int64(e) * SectorSize
		n := int64(1)
		if repeats {
			n = t.alike(i)
		}
		if start >= first && start <= last {
			fit += n
			continue
		}
		region, outside := p.over(e), start > last
		if region == nil && !outside { // between the metadata
			fit += n
			continue
		}
		if region != nil && !over.extend(i, n, e, region) {
			if !flush(&over) {
				return
			}
			over = faultRun{region, i, n, e, e}
		}
		if outside && !beyond.extend(i, n, e, nil) {
			if !flush(&beyond) {
				return
			}
			beyond = faultRun{nil, i, n, e, e}
		}
	}
	if !flush(&over) || !flush(&beyond) {
		return
	}
	t.validateOverlaps(l, &p, fit, found)
}

// validateOverlaps reports the blocks that overlap others. fit is the number of entries whose
// placement is valid.
func (t bat) validateOverlaps(l *layout, p *placement, fit int64, found func(finding) bool) {
	var first, kept, n int64 // a run of blocks that overlap the same one
	flush := func() bool {
		if n == 0 {
			return true
		}
		sector, last, at := t.load(first), t.load(first+n-1), t.load(kept)
		got, want := fmt.Sprintf("sector %d, a block that overlaps that of entry %d at sector %d", sector, kept, at), "a block that overlaps no other"
		fault := fmt.Sprintf("points at sector %d, and the block overlaps that of entry %d at sector %d", sector, kept, at)
		if n > 1 {
			got, want = fmt.Sprintf("sector %d, blocks that overlap that of entry %d at sector %d", sector, kept, at), "blocks that overlap no others"
			fault = fmt.Sprintf("point at sectors from %d on, and the blocks overlap that of entry %d at sector %d", sector, kept, at)
			if last != sector {
				got = fmt.Sprintf("sectors %d to %d, blocks that overlap that of entry %d at sector %d", sector, last, kept, at)
			}
		}
		f := l.batFinding("bat-overlap", first, n, got, want, fault)
		other := l.blockRange(kept)
		f.Text += fmt.Sprintf(", or %s; one of them is wrong", rangeText(other))
		if n == 1 && sector == at {
			f.Text = fmt.Sprintf("BAT entries %d and %d both point at sector %d: %s and %s of the disk; one of them is wrong",
				min(kept, first), max(kept, first), at, rangeText(l.blockRange(min(kept, first))), rangeText(l.blockRange(max(kept, first))))
		}
		f.Disk = append(f.Disk, other)
		return found(f)
	}
	ended := false
	t.overlaps(p, fit, func(a, b int64) bool {
		if n > 0 && a == kept && b == first+n {
			n++
			return true
		}
		if !flush() {
			ended = true
			return false
		}
		first, kept, n = b, a, 1
		return true
	})
	if !ended {
		flush()
	}
}

// refusal returns the error for the first impossible entry, or nil.
func (t bat) refusal(l *layout) error {
	var err error
	t.validate(l, func(f finding) bool {
		err = f.err()
		return false
	})
	return err
}

// sane reports whether all entries are possible.
func (t bat) sane(l *layout) bool { return t.refusal(l) == nil }

// fitting counts the entries that fit the placement.
func (t bat) fitting(p *placement) int64 {
	n := int64(0)
	for i, e := range t.usedOnce() {
		if p.fits(e) {
			n += t.alike(i)
		}
	}
	return n
}

// overlaps reports each block that shares bytes with an earlier one, in the order of the file.
// Dropping the blocks over leaves the blocks kept without overlaps. Entries that do not fit the
// placement are skipped; fit is the number of the others.
//
// It first divides the file into slots of the stored size of a block. Two blocks in one slot
// overlap. Blocks in neighbouring slots overlap if the offsets within their slots are too
// close. If that pass finds an overlap, or its table would be larger than sorting needs, the
// blocks are sorted to find the pairs.
func (t bat) overlaps(p *placement, fit int64, pair func(kept, over int64) bool) {
	storedSectors := p.stored / SectorSize
	slots := p.limit/p.stored + 1
	if fit < 2 || t.apart(storedSectors) {
		return
	}
	if slots > 4*fit+1024 || slots > 1<<31 {
		t.overlapsSorted(p, fit, pair)
		return
	}
	different := int64(0)
	at := make([]uint32, slots)                   // offset of a block in the slot, + 1; 0: no block
	first, last := p.regionsEnd, p.limit-p.stored // most blocks start between these
	for _, e := range t.usedOnce() {
		if start := int64(e) * SectorSize; (start < first || start > last) && !p.fits(e) {
			continue
		}
		slot, in := int64(e)/storedSectors, int64(e)%storedSectors
		different++
		if at[slot] != 0 { // two blocks in one slot
			t.overlapsSorted(p, fit, pair)
			return
		}
		at[slot] = uint32(in) + 1
	}
	if different < fit { // two equal entries
		t.overlapsSorted(p, fit, pair)
		return
	}
	before := uint32(0) // offset of the block in the slot before
	for _, v := range at {
		if v != 0 && v < before {
			t.overlapsSorted(p, fit, pair)
			return
		}
		before = v
	}
}

// apart reports whether the blocks are in the file in the order of the disk, as in most images.
// Each must start at least sectors after the one before it. For a table with equal entries
// the result may be false although its blocks are apart.
func (t bat) apart(sectors int64) bool {
	free := int64(0)
	for _, e := range t.usedOnce() {
		if int64(e) < free {
			return false
		}
		free = int64(e) + sectors
	}
	return sectors == 0 || !t.repeats()
}

func (t bat) overlapsSorted(p *placement, fit int64, pair func(kept, over int64) bool) {
	kept, end := int64(0), int64(-1) // the last kept block, and the sector after it
	for _, x := range t.sorted(p, fit) {
		sector, block := int64(x>>32), int64(uint32(x))
		if sector < end {
			if !pair(kept, block) {
				return
			}
			continue
		}
		kept, end = block, sector+p.stored/SectorSize
	}
}

// sorted returns the fit blocks that fit the placement, in the order of the file. The upper
// half of each value is the sector, the lower half the block.
func (t bat) sorted(p *placement, fit int64) []uint64 {
	byPlace := make([]uint64, 0, fit)
	for i, e := range t.usedOnce() {
		if !p.fits(e) {
			continue
		}
		for block := i; block < i+t.alike(i); block++ {
			byPlace = append(byPlace, uint64(e)<<32|uint64(block))
		}
	}
	slices.Sort(byPlace)
	return byPlace
}

// inFileOrder yields the fit blocks that fit the placement, and their entries, in the order of
// the file. Blocks with equal entries come in the order of the disk; the repetitions of a
// uniform piece may be missing. It needs memory only if the file has another order than the
// disk.
func (t bat) inFileOrder(p *placement, fit int64) iter.Seq2[int64, uint32] {
	return func(yield func(int64, uint32) bool) {
		if t.apart(0) {
			for i, e := range t.usedOnce() {
				if p.fits(e) && !yield(i, e) {
					return
				}
			}
			return
		}
		for _, x := range t.sorted(p, fit) {
			if !yield(int64(uint32(x)), uint32(x>>32)) {
				return
			}
		}
	}
}
