package vhd

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// overlap is a block that shares bytes with an earlier one in the file, the kept one.
type overlap struct{ kept, block int64 }

// overlapping returns the blocks that share bytes with an earlier one, in the order of the
// file. Without them no blocks overlap.
func (img *Image) overlapping() []overlap {
	p := img.lay.placement()
	var over []overlap
	img.bat.overlaps(&p, img.bat.fitting(&p), func(a, b int64) bool {
		over = append(over, overlap{a, b})
		return true
	})
	return over
}

// doubtful returns the ranges of the disk whose contents an overlap makes uncertain. These are
// the whole block, whose bitmap overlaps the other one, and the shared part of the other one.
func (img *Image) doubtful(o overlap) []disk.Range {
	shared := int64(img.bat.load(o.block)-img.bat.load(o.kept)) * SectorSize
	return []disk.Range{
		img.lay.diskRange(o.kept, max(0, shared-img.lay.bitmapSize), img.size),
		img.lay.diskRange(o.block, 0, img.size),
	}
}

// diskRange returns the bytes of a block from its byte off on, limited to a disk of size bytes.
func (l *layout) diskRange(block, off, size int64) disk.Range {
	start := min(block*l.blockSize+off, size)
	return disk.Range{Off: start, N: min((block+1)*l.blockSize, size) - start}
}

// rangeText formats a range as "bytes 0 to 4095", or an empty one as "no byte".
func rangeText(r disk.Range) string {
	if r.N == 0 {
		return "no byte"
	}
	return fmt.Sprintf("bytes %d to %d", r.Off, r.Off+r.N-1)
}

// separate copies blocks that overlap others to the end of the file, one after the other in the
// order of overlapping. The contents that each block reads stay the same. No copy is where
// another entry points.
func (r *repairer) separate(img *Image) error {
	move := r.overlapped
	if len(move) == 0 {
		return nil
	}
	stored := img.lay.stored()
	if int64(len(move)) > max(r.size/stored, 1) {
		r.leave("bat-overlap", disk.NextSalvage, "copies of all blocks that overlap others would be larger than the file")
		return nil
	}
	from, ok, err := r.clearWay(img, int64(len(move)))
	if err != nil || !ok {
		return err
	}
	r.work += int64(len(move)) * stored
	for _, o := range move {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		block, doubt := o.block, img.doubtful(o)
		to, err := img.moveBlock(block, from)
		if errors.Is(err, errNoSpace) {
			r.leave("bat-overlap", disk.NextSalvage, "the device has no space for a copy of the block")
			break
		}
		if err != nil {
			return fmt.Errorf("moving block %d: %w", block, err)
		}
		r.changedEntries = true
		r.did("bat-overlap", to, stored, "block %d was copied to offset %d, because it overlaps block %d; one of them is wrong: %s or %s of the disk",
			block, to, o.kept, rangeText(doubt[0]), rangeText(doubt[1]))
		r.done[len(r.done)-1].Doubtful = doubt
		r.progress(stored)
	}
	if !r.changedEntries {
		return nil
	}
	if err := img.retireSyncedFooter(); err != nil {
		return err
	}
	img.lay.limit = img.trailingFooterAt()
	return img.flush()
}

// parkedEntry is a BAT entry that points past the end of every possible file.
const parkedEntry = unused - 1

// maxParked is the most impossible entries that are set to parkedEntry.
const maxParked = 1 << 16

// clearWay finds space for n copies of blocks at the end of the file, from offset from on, that
// no entry points to. An impossible entry that points there is parked: with the copy in place
// it would seem valid. Space that entries past the end of the disk point to is avoided. ok is
// false if that is impossible.
func (r *repairer) clearWay(img *Image, n int64) (from int64, ok bool, err error) {
	p := img.lay.placement()
	from = img.freeFrom()
	each := p.stored + dataAlign
	length := n*each + 2*footerSize + dataAlign
	claims, err := r.excessClaims(img, from)
	if err != nil {
		return 0, false, err
	}
	for _, start := range claims {
		if start < from+length && start+p.stored > from {
			from = start + p.stored
		}
	}
	if from > 2*r.fileSize()+length {
		r.leave("bat-overlap", disk.NextSave, "entries past the end of the disk point to all space near the end of the file")
		return 0, false, nil
	}
	var impossible []int64
	for i, e := range img.bat.usedOnce() {
		start := int64(e) * SectorSize
		if p.end(e) <= p.limit || start >= from+length {
			continue
		}
		if start < p.limit {
			r.leave("bat-overlap", disk.NextSalvage, fmt.Sprintf("block %d begins in the file and ends after it: a copy there would be read as its end", i))
			return 0, false, nil
		}
		if int64(len(impossible))+img.bat.alike(i) > maxParked || p.end(parkedEntry) <= from+length {
			r.leave("bat-overlap", disk.NextSalvage, "too many entries point at the space near the end of the file")
			return 0, false, nil
		}
		for block := i; block < i+img.bat.alike(i); block++ {
			impossible = append(impossible, block)
		}
	}
	return from, true, r.park(img, impossible)
}

// park sets impossible entries to parkedEntry.
func (r *repairer) park(img *Image, impossible []int64) error {
	if len(impossible) == 0 {
		return nil
	}
	entries := make([]uint32, len(impossible))
	before := make([]uint32, len(impossible))
	for i, block := range impossible {
		entries[i], before[i] = parkedEntry, img.bat.load(block)
	}
	if err := img.switchBlocks(slices.Clone(impossible), entries); err != nil {
		return err
	}
	r.changedEntries = true
	for i, block := range impossible {
		r.did("bat-beyond-end", img.lay.batOff+block*4, 4,
			"BAT entry %d was set to sector %d, because it points at sector %d, past the end of the file, where a copy is written", block, uint32(parkedEntry), before[i])
	}
	return nil
}

// discardLost deallocates blocks with impossible entries. If it deallocates any, it returns
// errRebuilt: structures that these entries made unreadable, such as a batmap, may be readable
// now.
func (r *repairer) discardLost(img *Image) error {
	p := img.lay.placement()
	reads := "zeros"
	if img.differencing() {
		reads = "the parent's"
	}
	var lost []int64
	for i, e := range img.bat.usedOnce() {
		if p.fits(e) {
			continue
		}
		for block := i; block < i+img.bat.alike(i); block++ {
			lost = append(lost, block)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	slices.Sort(lost)
	for len(lost) > 0 {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		over := func(block int64) bool { return p.over(img.bat.load(block)) != nil }
		id, run := "bat-beyond-end", 1
		if over(lost[0]) {
			id = "bat-over-metadata"
		}
		for run < len(lost) && lost[run] == lost[0]+int64(run) && over(lost[run]) == over(lost[0]) {
			run++
		}
		entries := make([]uint32, run)
		for i := range entries {
			entries[i] = unused
		}
		first := lost[0]
		if err := img.switchBlocks(lost[:run], entries); err != nil {
			return err
		}
		lost = lost[run:]
		r.changedEntries = true
		x := img.lay.diskRange(first, 0, img.size)
		x.N = min((first+int64(run))*img.lay.blockSize, img.size) - x.Off
		blocks := fmt.Sprintf("block %d was", first)
		if run > 1 {
			blocks = fmt.Sprintf("blocks %d to %d were", first, first+int64(run)-1)
		}
		r.did(id, img.lay.batOff+first*4, int64(run)*4, "%s made unallocated and lost; %s of the disk read as %s", blocks, rangeText(x), reads)
		r.done[len(r.done)-1].Doubtful = []disk.Range{x}
	}
	return errRebuilt
}

// moveBlock copies a block to the end of the file, at offset from or later, and then points its
// entry to the copy, durably. It returns the offset of the copy.
func (img *Image) moveBlock(block, from int64) (int64, error) {
	at := img.lay.nextBlockOffset(max(from, img.freeFrom()))
	if at/SectorSize >= parkedEntry {
		return 0, fmt.Errorf("%w: the copy would be at sector %d, and a BAT entry holds at most %d", ErrTooLarge, at/SectorSize, uint32(unused-1))
	}
	x, err := img.extend(at, img.lay.stored())
	if err != nil {
		return 0, err
	}
	if err := img.copyBlock(x.start, int64(img.bat.load(block))*SectorSize); err != nil {
		return 0, img.undoExtension(x, err)
	}
	return x.start, img.switchBlocks([]int64{block}, []uint32{uint32(x.start / SectorSize)})
}

// maxZeroExcess is the most bytes of zeros, in BAT entries past the end of the disk, that are
// overwritten. A table in a hole of the file can have any number of them. Overwriting them
// would fill the hole, and nothing reads them.
const maxZeroExcess = 1 << 20

// excess marks BAT entries past the end of the disk as unused. It writes only parts with used
// entries. If one of them points to a block that no other entry points to, the size of the disk
// is in doubt. Then all entries stay, unless the caller lets that block be discarded.
func (r *repairer) excess(img *Image) error {
	off, blocks, entries := img.lay.batOff, img.bat.len(), int64(img.header.MaxTableEntries)
	found, err := scanExcess(r.ctx, r.f, off, blocks, entries, nil)
	if err != nil || found.used == 0 {
		return err
	}
	if !r.o.Saved && !r.o.DiscardOrphans || !img.bat.sane(&img.lay) {
		own, err := r.excessOwnsBlocks(img)
		if own {
			r.leave("bat-excess", disk.NextSave, "an entry points to a block that no other entry points to: the disk may be larger than its footer says")
		}
		if err != nil || own {
			return err
		}
	}
	ones := bytes.Repeat([]byte{0xff}, 64<<10)
	first, end := int64(-1), int64(0)
	zerosToo := found.zeros*4 <= maxZeroExcess
	_, err = scanExcess(r.ctx, r.f, off, blocks, entries, func(off, n int64, _ []byte, zeros bool) error {
		if zeros && !zerosToo {
			return nil
		}
		if first < 0 {
			first = off
		}
		for end = off + n; off < end; {
			w, err := r.f.WriteAt(ones[:min(int64(len(ones)), end-off)], off)
			if err != nil {
				return fmt.Errorf("BAT: %w", err)
			}
			off += int64(w)
		}
		return nil
	})
	if first < 0 {
		r.leave("bat-excess", disk.NextNone, "the entries are zeros, in a hole of the file that would be filled, and nothing reads them")
		return err
	}
	if serr := r.f.Sync(); err == nil {
		err = serr
	}
	if err != nil {
		return err
	}
	if !zerosToo {
		found.used -= found.zeros
	}
	if found.zeros > 0 && !zerosToo {
		r.leave("bat-excess", disk.NextNone, "the entries are zeros, in a hole of the file that would be filled, and nothing reads them")
	}
	r.changedEntries = true
	r.did("bat-excess", first, end-first, "%d BAT entries past the end of the disk were marked as unused", found.used)
	return nil
}

// excessOwnsBlocks reports whether an entry past the end of the disk points to a block in
// otherwise unreferenced space.
func (r *repairer) excessOwnsBlocks(img *Image) (bool, error) {
	off, blocks, entries := img.lay.batOff, img.bat.len(), int64(img.header.MaxTableEntries)
	gaps, stored := img.gaps(), img.lay.stored()
	own := false
	_, err := scanExcess(r.ctx, r.f, off, blocks, entries, func(_, _ int64, b []byte, zeros bool) error {
		for ; !zeros && !own && len(b) > 0; b = b[4:] {
			start := int64(binary.BigEndian.Uint32(b)) * SectorSize
			i, _ := slices.BinarySearchFunc(gaps, start+1, func(g [2]int64, at int64) int { return cmp.Compare(g[0], at) })
			own = i > 0 && start+stored <= gaps[i-1][1]
		}
		return nil
	})
	return own, err
}

// excessClaims returns the offsets, from from on, that entries past the end of the disk point
// to. They are sorted, and at most maxParked.
func (r *repairer) excessClaims(img *Image, from int64) ([]int64, error) {
	var claims []int64
	off, blocks, entries := img.lay.batOff, img.bat.len(), int64(img.header.MaxTableEntries)
	_, err := scanExcess(r.ctx, r.f, off, blocks, entries, func(_, _ int64, b []byte, zeros bool) error {
		for ; !zeros && len(b) > 0 && len(claims) < maxParked; b = b[4:] {
			e := binary.BigEndian.Uint32(b)
			if start := int64(e) * SectorSize; e != unused && start+img.lay.stored() > from {
				claims = append(claims, start)
			}
		}
		return nil
	})
	slices.Sort(claims)
	return slices.Compact(claims), err
}

// batmap clears the wrongly set bits of XenServer's batmap.
func (r *repairer) batmap(img *Image) error {
	bits, changed, err := img.correctedBatmap()
	if err != nil || !changed {
		return err
	}
	if err := img.batmap.write(r.f, bits); err != nil {
		return err
	}
	if err := r.f.Sync(); err != nil {
		return err
	}
	r.did("batmap-bit", int64(img.batmap.offset), int64(len(bits)), "the batmap was corrected to match the blocks' bitmaps")
	return nil
}

// setBits sets the bits of sectors that hold data, so that these sectors are read. It does
// nothing while BAT entries are wrong.
func (r *repairer) setBits(img *Image) error {
	if !img.bat.sane(&img.lay) {
		return nil
	}
	holes := filesystem.NewHoleMap(r.f)
	r.work += img.bat.count() * img.lay.blockSize
	for block, e := range img.bat.used() {
		bm, err := img.bitmap(block, e)
		if err != nil {
			return err
		}
		if bm != nil {
			if err := r.setBitsOf(block, bm.bits, int64(e)*SectorSize, img, holes); err != nil {
				return err
			}
		}
		r.progress(img.lay.blockSize)
	}
	return nil
}

// setBitsOf sets the bits of a block, which starts at offset start.
func (r *repairer) setBitsOf(block int64, bits []byte, start int64, img *Image, holes *filesystem.HoleMap) error {
	changed := false
	err := hiddenData(r.ctx, r.f, holes, bytes.Clone(bits), start+img.lay.bitmapSize, img.lay.blockSize, func(s int64) bool {
		setBits(bits, s, s+1)
		changed = true
		return true
	})
	if err != nil || !changed {
		return err
	}
	if err := r.write(bits, start); err != nil {
		return err
	}
	r.did("bitmap-data", start, int64(len(bits)), "block %d: the bits of sectors that hold data were set", block)
	return nil
}
