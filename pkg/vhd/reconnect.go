package vhd

import (
	"fmt"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// reconnect points entries at the data that the caller names. It checks all of them before it
// writes the first.
func (r *repairer) reconnect(img *Image) error {
	p := img.lay.placement()
	var spaces []fileSpace
	for s := range img.unreferenced {
		spaces = append(spaces, s)
	}
	var taken []int64
	var blocks []int64
	var entries []uint32
	for _, c := range r.o.Reconnect {
		bad := func(format string, args ...any) error {
			return fmt.Errorf("%w: block %d, offset %d: %s", ErrReconnect, c.Block, c.Offset, fmt.Sprintf(format, args...))
		}
		if c.Block < 0 || c.Block >= img.bat.len() {
			return bad("the disk has %d blocks", img.bat.len())
		}
		if e := img.bat.load(c.Block); e != unused && p.fits(e) {
			return bad("the block is stored at offset %d", int64(e)*SectorSize)
		}
		if c.Offset < 0 || c.Offset%SectorSize != 0 || c.Offset/SectorSize >= unused {
			return bad("the offset is not a multiple of 512")
		}
		free := slices.ContainsFunc(spaces, func(s fileSpace) bool { return s.start <= c.Offset && c.Offset+p.stored <= s.end })
		if !free {
			return bad("the %d bytes there are in use", p.stored)
		}
		if slices.ContainsFunc(taken, func(at int64) bool { return at < c.Offset+p.stored && c.Offset < at+p.stored }) || slices.Contains(blocks, c.Block) {
			return bad("it overlaps another reconnection")
		}
		taken, blocks, entries = append(taken, c.Offset), append(blocks, c.Block), append(entries, uint32(c.Offset/SectorSize))
	}
	ids := make([]string, len(blocks))
	for i, block := range blocks {
		switch e := img.bat.load(block); {
		case e == unused:
			ids[i] = "leak"
		case p.over(e) != nil:
			ids[i] = "bat-over-metadata"
		default:
			ids[i] = "bat-beyond-end"
		}
	}
	if err := img.switchBlocks(slices.Clone(blocks), entries); err != nil {
		return err
	}
	r.changedEntries = true
	for i, block := range blocks {
		x := img.lay.diskRange(block, 0, img.size)
		r.did(ids[i], img.lay.batOff+block*4, 4, "block %d was connected with the data at offset %d: %s of the disk", block, taken[i], rangeText(x))
		r.done[len(r.done)-1].Doubtful = []disk.Range{x}
	}
	return nil
}
