package vhd

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"io"
	"slices"

	"github.com/vhdtool/vhdtool/internal/filesystem"
)

// batProposal is a likely value of consecutive BAT entries.
type batProposal struct {
	first   int64 // the block of the first entry
	entries []uint32
	certain bool // no other value is possible, unless two faults coincide
}

// String names the entries.
func (x *batProposal) String() string {
	if n := int64(len(x.entries)); n > 1 {
		return fmt.Sprintf("BAT entries %d to %d", x.first, x.first+n-1)
	}
	return fmt.Sprintf("BAT entry %d", x.first)
}

// note describes the evidence for the proposal.
func (x *batProposal) note() string {
	s := fmt.Sprintf("%v can be rebuilt: %d unreferenced blocks are between their neighbours at the usual distance", x, len(x.entries))
	if len(x.entries) == 1 {
		s = fmt.Sprintf("%v can be rebuilt: one unreferenced block is at the expected offset", x)
	}
	if !x.certain {
		s += ", but nothing proves their order: --salvage reads them, and a repair leaves them alone"
	}
	return s
}

// batSectors are sectors of a BAT that could not be read.
type batSectors struct {
	bad    map[int64]bool // sectors of the file
	batOff int64
}

func (s batSectors) has(entry int64) bool {
	return len(s.bad) > 0 && s.bad[(s.batOff+entry*4)/SectorSize]
}

// badEntries returns the sectors of the BAT that the reader could not read.
func (p *patchyReader) badEntries(l *layout) batSectors { return batSectors{p.bad, l.batOff} }

// entryRun is n consecutive BAT entries.
type entryRun struct {
	first, n int64
	maybe    bool // the entries may be right, in a file that was cut
}

const entriesPerSector = SectorSize / 4

// rebuildBAT finds entries that cannot be right, and unreferenced blocks in the file. It
// proposes entries where the order of the file determines the block. That requires as many
// unreferenced blocks between two blocks of the file as wrong entries between their two
// entries. A proposal is certain if the blocks around it are in the order of the disk. It is
// also certain if only one entry is wrong and only one block is unreferenced.
//
// whole says that the file has a trailing footer, so that nothing was cut off. In a file that
// was cut, an entry that points past its end may be right. Such a file may have received a
// footer since: only entries far past the end are certainly wrong. If most entries in a sector
// of the table are wrong, the sector is garbage, and all its entries are wrong.
//
// A header may have more entries than the disk has blocks. A block that one of these entries
// points to is not proposed.
//
// Only the file, footer, layout and BAT of img are used. Time and memory are proportional to
// the entries that the table holds and to the size of the file.
func rebuildBAT(ctx context.Context, img *Image, entries int64, whole bool, bad batSectors) ([]batProposal, error) {
	r, l, t := img.r, &img.lay, img.bat
	p := l.placement()
	suspects := t.suspects(&p, whole, bad)
	if len(suspects) == 0 {
		return nil, nil
	}
	claimed := t.claimed(&p, suspects)
	excess, err := excessSectors(ctx, r, l.batOff, t.n, entries)
	if err != nil {
		return nil, err
	}
	var best []batProposal
	var bestSlots int64
	for _, align := range alignments(l, claimed) {
		own := *l
		own.align = align
		s := slotSearch{ctx: ctx, r: r, lay: &own, p: &p, img: img, excess: excess}
		found, err := s.propose(claimed, suspects, t.n)
		if err != nil {
			return nil, err
		}
		if n := proposed(found); n > bestSlots {
			best, bestSlots = found, n
		}
	}
	return best, nil
}

// excessSectors returns the sectors that the entries [blocks, entries) point to.
func excessSectors(ctx context.Context, r io.ReaderAt, batOff, blocks, entries int64) ([]int64, error) {
	var all []int64
	_, err := scanExcess(ctx, r, batOff, blocks, entries, func(_, _ int64, b []byte, zeros bool) error {
		for ; !zeros && len(b) > 0; b = b[4:] {
			if e := binary.BigEndian.Uint32(b); e != unused {
				all = append(all, int64(e))
			}
		}
		return nil
	})
	slices.Sort(all)
	return all, err
}

func proposed(all []batProposal) int64 {
	n := int64(0)
	for _, x := range all {
		n += int64(len(x.entries))
	}
	return n
}

// alignments returns the possible alignments of the data of unreferenced blocks: those of the
// other blocks.
func alignments(l *layout, claimed []uint64) []int64 {
	aligned := 0
	for _, x := range claimed {
		if (int64(x>>32)*SectorSize+l.bitmapSize)%dataAlign == 0 {
			aligned++
		}
	}
	switch {
	case len(claimed) < 2: // a single block may be aligned by chance
		return []int64{SectorSize, dataAlign}
	case aligned == len(claimed):
		return []int64{dataAlign}
	}
	return []int64{SectorSize}
}

// suspects returns the entries that cannot be right. If the file is not whole, it also returns
// entries that may be wrong.
func (t bat) suspects(p *placement, whole bool, bad batSectors) []entryRun {
	var all, impossible, used []entryRun // all of the table; impossible and used of the current sector
	var nWild, nUsed int64
	sector := int64(-1)
	add := func(runs []entryRun, x entryRun) []entryRun {
		if k := len(runs) - 1; k >= 0 && runs[k].maybe == x.maybe && runs[k].first+runs[k].n == x.first {
			runs[k].n += x.n
			return runs
		}
		return append(runs, x)
	}
	flush := func() {
		runs := impossible
		if nWild >= 3 && nWild*2 > nUsed {
			runs = used
		}
		for _, x := range runs {
			all = add(all, x)
		}
		impossible, used, nWild, nUsed = impossible[:0], used[:0], 0, 0
	}
	longest := p.regionsEnd + t.count()*(p.stored+dataAlign) + maxPadding // maximum length of the file
	for i, e := range t.usedOnce() {
		n := t.alike(i)
		if i/entriesPerSector != sector {
			flush()
			sector = i / entriesPerSector
		}
		used = add(used, entryRun{i, n, false})
		nUsed += n
		switch {
		case bad.has(i) || p.over(e) != nil || p.end(e) > max(p.limit, longest):
			impossible = add(impossible, entryRun{i, n, false})
			nWild += n
		case whole && p.end(e) > p.limit:
			impossible = add(impossible, entryRun{i, n, true})
		}
	}
	flush()
	return all
}

// claimed returns the blocks that entries other than suspects point to, in the order of the
// file. The upper half of each value is the sector, the lower half the block.
func (t bat) claimed(p *placement, suspects []entryRun) []uint64 {
	var all []uint64
	for i, e := range t.usedOnce() {
		for len(suspects) > 0 && suspects[0].first+suspects[0].n <= i {
			suspects = suspects[1:]
		}
		if !p.fits(e) || len(suspects) > 0 && suspects[0].first <= i {
			continue
		}
		for k := range t.alike(i) {
			all = append(all, uint64(e)<<32|uint64(i+k))
		}
	}
	slices.Sort(all)
	return all
}

// slotSearch searches for unreferenced blocks. A slot is the sector of such a block.
type slotSearch struct {
	ctx context.Context
	r   io.ReaderAt
	lay *layout
	p   *placement
	img *Image

	excess []int64 // sectors that entries past the end of the disk point to, sorted
	// copies detects whether a block is a copy of another one. It is nil until it is needed.
	copies *orphanSearch
}

// orderWindow is the number of blocks on each side of a gap whose order is compared. The same
// number must be in the order of the disk to prove the order of the file.
const orderWindow = 8

// propose matches the blocks in the gaps of the file with the suspects. n is the number of
// entries.
func (s *slotSearch) propose(claimed []uint64, suspects []entryRun, n int64) ([]batProposal, error) {
	regions := s.lay.metadata()
	slices.SortFunc(regions, func(a, b region) int { return int(min(max(a.start-b.start, -1), 1)) })
	var all []batProposal
	var slots, lone []uint32 // slots since the last claimed block; and the first one
	total, clean, allClean, apart := int64(0), true, true, true
	gap := func(start, end int64, last bool) error {
		found, ok, err := s.slots(start, end)
		if err == nil && last && len(found) == 1 {
			found, err = s.withoutCopies(found)
		}
		slots = append(slots, found...)
		if total += int64(len(found)); total == 1 && len(found) == 1 {
			lone = found
		}
		clean, allClean = clean && ok, allClean && ok
		return err
	}
	free := int64(0)
	for i := 0; i <= len(claimed); i++ {
		stop := s.lay.limit
		if i < len(claimed) {
			stop = int64(claimed[i]>>32) * SectorSize
		}
		for len(regions) > 0 && regions[0].start <= stop {
			if err := gap(free, regions[0].start, i == len(claimed)); err != nil {
				return nil, err
			}
			free = max(free, regions[0].end)
			regions = regions[1:]
		}
		if err := gap(free, stop, i == len(claimed)); err != nil {
			return nil, err
		}
		if i < len(claimed) {
			apart = apart && stop >= free
			free = max(free, stop+s.p.stored)
		}
		if len(slots) > 0 && clean {
			before, after := int64(-1), n
			if i > 0 {
				before = int64(uint32(claimed[i-1]))
			}
			if i < len(claimed) {
				after = int64(uint32(claimed[i]))
			}
			all = append(all, matched(suspects, before, after, slots, inOrder(claimed, i))...)
		}
		slots, clean = slots[:0:0], true
	}
	// The file has another order.
	if total == 1 && allClean && len(all) == 0 && len(suspects) == 1 && suspects[0].n == 1 {
		all = []batProposal{{suspects[0].first, lone, false}}
	}
	return withoutContradictions(all, suspects, total, apart, allClean), nil
}

// withoutCopies returns the slots that are not copies of other blocks. An interrupted repair
// leaves one such copy after the last block.
func (s *slotSearch) withoutCopies(slots []uint32) ([]uint32, error) {
	if s.copies == nil {
		s.copies = &orphanSearch{Image: s.img, ctx: s.ctx, holes: filesystem.NewHoleMap(s.r), over: s.img.overlapping(), seed: maphash.MakeSeed()}
	}
	var own []uint32
	for _, sector := range slots {
		at := int64(sector) * SectorSize
		_, data, err := s.copies.firstSector(at)
		if err != nil {
			return nil, err
		}
		if data {
			if data, err = s.copies.copyOfAny(at, 0); err != nil {
				return nil, err
			}
		}
		if !data {
			own = append(own, sector)
		}
	}
	return own, nil
}

// matched proposes the slots for the suspects between two entries, if the numbers are equal.
func matched(suspects []entryRun, before, after int64, slots []uint32, certain bool) []batProposal {
	var all []batProposal
	var have int64
	for _, x := range suspects {
		first, end := max(x.first, before+1), min(x.first+x.n, after)
		if first >= end {
			continue
		}
		if have += end - first; have > int64(len(slots)) {
			return nil
		}
		all = append(all, batProposal{first, slots[have-(end-first) : have], certain})
		certain = certain && !x.maybe
	}
	for i := range all {
		all[i].certain = certain
	}
	if have != int64(len(slots)) {
		return nil
	}
	return all
}

// inOrder reports whether the blocks around the gap before number i are in the order of the
// disk, and are enough to prove it.
func inOrder(claimed []uint64, i int) bool {
	around := claimed[max(0, i-orderWindow):min(len(claimed), i+orderWindow)]
	for k := range len(around) - 1 {
		if uint32(around[k]) >= uint32(around[k+1]) {
			return false
		}
	}
	return len(around) >= orderWindow
}

// withoutContradictions returns the proposals without those that contradict each other. apart
// says that no blocks overlap. clean says that nothing else is unreferenced: then a single
// wrong entry and a single unreferenced block belong together.
func withoutContradictions(all []batProposal, suspects []entryRun, slots int64, apart, clean bool) []batProposal {
	slices.SortFunc(all, func(a, b batProposal) int { return int(min(max(a.first-b.first, -1), 1)) })
	for i := 1; i < len(all); i++ {
		if all[i-1].first+int64(len(all[i-1].entries)) > all[i].first {
			return nil
		}
	}
	only := apart && clean && slots == 1 && len(suspects) == 1 && suspects[0].n == 1 && !suspects[0].maybe
	for i := range all {
		all[i].certain = apart && (all[i].certain || only)
	}
	return all
}

// slots returns the sectors of the unreferenced blocks in [start, end) of the file, one after
// the other. ok is false if the range also holds other data.
func (s *slotSearch) slots(start, end int64) (found []uint32, ok bool, err error) {
	ok = true
	for end-start >= s.p.stored {
		if err := s.ctx.Err(); err != nil {
			return nil, false, err
		}
		at, err := s.slotFrom(start, end)
		if err != nil || at < 0 {
			return found, false, err
		}
		if s.free(at / SectorSize) {
			found = append(found, uint32(at/SectorSize))
		} else {
			ok = false
		}
		start = at + s.p.stored
	}
	return found, ok, nil
}

// free reports whether no entry past the end of the disk points to the block at a sector.
func (s *slotSearch) free(sector int64) bool {
	n := s.p.stored / SectorSize
	i, _ := slices.BinarySearch(s.excess, sector-n+1)
	return i == len(s.excess) || s.excess[i] >= sector+n
}

// slotFrom returns the offset of the first block in [start, end) of the file, or -1. Only
// padding and a footer that has moved may precede it.
func (s *slotSearch) slotFrom(start, end int64) (int64, error) {
	for at := s.lay.nextBlockOffset(start); at+s.p.stored <= end && at < start+2*dataAlign; at += s.lay.align {
		if ok, err := s.lay.looksLikeBitmap(s.r, at); err != nil || ok {
			return at, err
		}
	}
	return -1, nil
}
