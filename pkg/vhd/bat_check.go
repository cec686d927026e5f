package vhd

import (
	"fmt"
	"iter"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// placement says where in the file blocks may be.
type placement struct {
	regions    []region // of metadata
	regionsEnd int64
	limit      int64 // blocks end here
	stored     int64
}

func (l *layout) placement() placement {
	p := placement{regions: slices.Concat(l.regions, l.batmap), limit: l.limit, stored: l.stored()}
	for _, r := range p.regions {
		p.regionsEnd = max(p.regionsEnd, r.end)
	}
	return p
}

// over is the metadata that the block of an entry overlaps, or nil.
func (p *placement) over(entry uint32) *region {
	start := int64(entry) * SectorSize
	if start >= p.regionsEnd {
		return nil
	}
	return regionOver(p.regions, start, start+p.stored)
}

// end is the first byte behind the block of an entry.
func (p *placement) end(entry uint32) int64 { return int64(entry)*SectorSize + p.stored }

// fits reports whether the block of an entry is all in the file, and not over
// metadata.
func (p *placement) fits(entry uint32) bool { return p.end(entry) <= p.limit && p.over(entry) == nil }

// faultRun is entries in a row with the same fault.
type faultRun struct {
	region      *region // that the blocks are over; nil: they end beyond the limit
	first, n    int64   // blocks
	least, most uint32  // entries
}

// extend adds n entries, from that of block on, to the run, if they follow those in it
// and have its fault.
func (f *faultRun) extend(block, n int64, entry uint32, over *region) bool {
	if f.n == 0 || f.region != over || f.first+f.n != block {
		return false
	}
	f.n += n
	f.least, f.most = min(f.least, entry), max(f.most, entry)
	return true
}

// blockRange is the bytes of a block, as if the disk went on to its end.
func (l *layout) blockRange(block int64) disk.Range {
	return disk.Range{Off: block * l.blockSize, N: l.blockSize}
}

// batFinding is a finding about n entries from that of block on. What is wrong with them
// is fault.
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
		got, want := "%s, a block over the %s", "a block that ends before byte %d or starts at byte %d or later"
		if !one {
			got, want = "%s, blocks over the %s", "blocks that end before byte %d or start at byte %d or later"
		}
		return l.batFinding("bat-over-metadata", f.first, f.n, fmt.Sprintf(got, sectors, over.name), fmt.Sprintf(want, over.start, over.end),
			fmt.Sprintf("%s at %s, where a block overlaps the %s", points, sectors, over.name))
	}
	got, want := "%s, a block that ends at byte %d", "a block that ends at byte %d or before"
	if !one {
		got, want = "%s, blocks that end at byte %d or later", "blocks that end at byte %d or before"
	}
	fault := fmt.Sprintf("%s at %s, beyond the end of the file", points, sectors)
	if int64(f.least)*SectorSize < p.limit {
		fault = fmt.Sprintf("%s at %s, where a block ends after byte %d, the end of the space for blocks", points, sectors, p.limit)
	}
	return l.batFinding("bat-beyond-end", f.first, f.n, fmt.Sprintf(got, sectors, p.end(f.least)), fmt.Sprintf(want, p.limit), fault)
}

// validate lists the entries that are impossible: blocks over metadata, behind
// the limit, or over each other. Entries in a row with the same fault are one
// finding. found returns false to end the search. It takes time and memory in
// proportion to what is held of the table.
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
	first, last := p.regionsEnd, p.limit-p.stored // where most blocks start
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
		if region == nil && !outside { // between metadata
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

// validateOverlaps lists the blocks, fit of them where blocks may be, that overlap
// others.
func (t bat) validateOverlaps(l *layout, p *placement, fit int64, found func(finding) bool) {
	var first, kept, n int64 // blocks in a row that overlap the same one
	flush := func() bool {
		if n == 0 {
			return true
		}
		sector, last, at := t.load(first), t.load(first+n-1), t.load(kept)
		got, want := fmt.Sprintf("sector %d, a block over that of entry %d at sector %d", sector, kept, at), "a place of its own"
		fault := fmt.Sprintf("points at sector %d, and the block overlaps that of entry %d at sector %d", sector, kept, at)
		if n > 1 {
			got, want = fmt.Sprintf("sector %d, blocks over that of entry %d at sector %d", sector, kept, at), "places of their own"
			fault = fmt.Sprintf("point at sectors from %d on, and the blocks overlap that of entry %d at sector %d", sector, kept, at)
			if last != sector {
				got = fmt.Sprintf("sectors %d to %d, blocks over that of entry %d at sector %d", sector, last, kept, at)
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

// fitting counts the entries whose blocks are where blocks may be.
func (t bat) fitting(p *placement) int64 {
	n := int64(0)
	for i, e := range t.usedOnce() {
		if p.fits(e) {
			n += t.alike(i)
		}
	}
	return n
}

// overlaps reports, in the order of the file, each block that shares bytes with one
// before it, and that one: over has to go, so that kept can stay. Blocks that are
// over metadata or reach beyond the limit are left out; fit is the number of the
// others.
//
// No two blocks that fit beside each other start in the same slot of the stored
// size, and those in neighbouring slots are as far apart as where they start in
// them: one pass over a table of slots tells whether any overlap. Which ones, and
// where that table would be larger than sorting needs, is found by sorting.
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
	at := make([]uint32, slots)                   // where in the slot a block starts, + 1
	first, last := p.regionsEnd, p.limit-p.stored // where most blocks start
	for _, e := range t.usedOnce() {
		if start := int64(e) * SectorSize; (start < first || start > last) && !p.fits(e) {
			continue
		}
		slot, in := int64(e)/storedSectors, int64(e)%storedSectors
		different++
		if at[slot] != 0 { // two in one slot
			t.overlapsSorted(p, fit, pair)
			return
		}
		at[slot] = uint32(in) + 1
	}
	if different < fit { // two in one place
		t.overlapsSorted(p, fit, pair)
		return
	}
	before := uint32(0) // in the slot before
	for _, v := range at {
		if v != 0 && v < before {
			t.overlapsSorted(p, fit, pair)
			return
		}
		before = v
	}
}

// apart reports whether the blocks are in the file in the order of the disk, as in
// most images, and each at least so many sectors behind the one before it. If there
// may be equal entries it may be false although they are.
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
	kept, end := int64(0), int64(-1) // the last block that stays, and the sector behind it
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

// sorted returns the fit blocks that are where blocks may be in the order of the
// file: the sector in the upper half, the block in the lower.
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

// inFileOrder yields the fit blocks that are where blocks may be, and their entries, in
// the order of the file. Of blocks in one place the first comes first; those that a
// uniform piece puts there may be left out. It takes memory only where the blocks have
// another order.
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
