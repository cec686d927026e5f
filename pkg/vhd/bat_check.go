package vhd

import (
	"fmt"
	"slices"
)

// validate lists the entries that are impossible: blocks over metadata, behind
// the limit, or over each other. found returns false to end the search.
// It takes time and memory in proportion to the table.
func (t bat) validate(l *layout, found func(Finding) bool) {
	stored := l.stored()
	bad := func(id string, block int64, got, want string) bool {
		return found(Finding{
			ID: id, Severity: Error, Offset: l.batOff + block*4,
			Field: fmt.Sprintf("BAT entry %d", block), Got: got, Want: want,
		})
	}
	used, regionsEnd := int64(0), int64(0)
	regions := slices.Concat(l.regions, l.batmap)
	for _, r := range regions {
		regionsEnd = max(regionsEnd, r.end)
	}
	for i, e := range t.used() {
		used++
		start := int64(e) * SectorSize
		end := start + stored
		if start < regionsEnd {
			r := regionOver(regions, start, end)
			if r != nil && !bad("bat-over-metadata", i, fmt.Sprintf("sector %d, a block over the %s", e, r.name),
				fmt.Sprintf("a block that ends before byte %d or starts at byte %d or later", r.start, r.end)) {
				return
			}
		}
		if end > l.limit {
			if !bad("bat-beyond-end", i, fmt.Sprintf("sector %d, a block that ends at byte %d", e, end),
				fmt.Sprintf("a block that ends at byte %d or before", l.limit)) {
				return
			}
		}
	}
	t.overlaps(l, used, func(a, b int64) bool {
		return bad("bat-overlap", b, fmt.Sprintf("sector %d, a block over that of entry %d at sector %d", t.load(b), a, t.load(a)),
			"a place of its own")
	})
}

// sane reports whether all entries are possible.
func (t bat) sane(l *layout) bool {
	sane := true
	t.validate(l, func(Finding) bool {
		sane = false
		return false
	})
	return sane
}

// overlaps reports pairs of entries (in the order of their places) whose blocks
// share bytes. No two blocks that fit beside each other start in the same
// slot of the stored size, and those in neighbouring slots are as far apart as
// where they start in them: one pass over a table of slots tells whether any
// overlap. Which ones, and where that table would be larger than sorting needs,
// is found by sorting.
func (t bat) overlaps(l *layout, used int64, pair func(a, b int64) bool) {
	storedSectors := l.stored() / SectorSize
	slots := l.limit/l.stored() + 1
	if used < 2 || t.apart(storedSectors) {
		return
	}
	if slots > 4*used+1024 || slots > 1<<31 {
		t.overlapsSorted(storedSectors, used, pair)
		return
	}
	at := make([]uint32, slots) // where in the slot a block starts, + 1
	for _, e := range t.used() {
		slot, in := int64(e)/storedSectors, int64(e)%storedSectors
		if slot >= slots {
			continue // behind the limit, and said so
		}
		if at[slot] != 0 { // two in one slot
			t.overlapsSorted(storedSectors, used, pair)
			return
		}
		at[slot] = uint32(in) + 1
	}
	last := uint32(0) // in the slot before
	for _, v := range at {
		if v != 0 && v < last {
			t.overlapsSorted(storedSectors, used, pair)
			return
		}
		last = v
	}
}

// apart reports whether the blocks stand in the file in the order of the disk, as in
// most images, and each so many sectors behind the one before it or more.
func (t bat) apart(sectors int64) bool {
	free := int64(0)
	for _, e := range t.used() {
		if int64(e) < free {
			return false
		}
		free = int64(e) + sectors
	}
	return true
}

func (t bat) overlapsSorted(storedSectors, used int64, pair func(a, b int64) bool) {
	byPlace := make([]uint64, 0, used) // sector, entry
	for i, e := range t.used() {
		byPlace = append(byPlace, uint64(e)<<32|uint64(i))
	}
	slices.Sort(byPlace)
	for k := 1; k < len(byPlace); k++ {
		a, b := byPlace[k-1], byPlace[k]
		if int64(b>>32)-int64(a>>32) < storedSectors && !pair(int64(uint32(a)), int64(uint32(b))) {
			return
		}
	}
}
