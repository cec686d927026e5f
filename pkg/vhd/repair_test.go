package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// A damage is a damaged image and the expected result of a repair.
type damage struct {
	name     string
	file     []byte
	contents []byte // contents of the disk, as far as the file has them
	o        vhd.RepairOptions
	before   []string // findings of a check
	left     []string // findings after the repair
	err      error
	same     bool // nothing may be written
	growth   int  // most bytes by which the file may grow
	header   int  // offset of the header; 0: the usual one
}

// noise is n random bytes, different for every seed.
func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// A sample is the image that the damages are applied to.
type sample struct {
	craft
	contents []byte
	stored   int // size of a stored block
}

func sampleOf(blockSize int64) *sample {
	s := &sample{craft: craft{size: 10*blockSize - 3*sector, blockSize: blockSize}}
	s.stored = int(bitmapBytes(blockSize) + blockSize)
	for k, entry := range []int{1, 0, 5, 9} {
		s.blocks = append(s.blocks, block{entry, s.place(k), nil, noise(int(blockSize), byte(entry))})
	}
	s.defaults()
	s.contents = s.disk()
	return s
}

// place is the sector of the file at which block k starts.
func (s *sample) place(k int) int64 { return 4 + int64(k)*int64(s.stored)/sector }

// disk is the contents of the disk, if its blocks are fully written.
func (s *sample) disk() []byte {
	b := make([]byte, s.entries*int(s.blockSize))
	for _, x := range s.blocks {
		copy(b[x.entry*int(s.blockSize):], x.data)
	}
	return b[:s.size]
}

// with changes a copy of the sample.
func (s *sample) with(change func(s *sample)) *sample {
	c := *s
	c.blocks = slices.Clone(s.blocks)
	change(&c)
	return &c
}

// guest reads the disk of a dynamic image by the specification alone, whatever other damage the
// image has. Bytes past the end of the file read as zeros.
func guest(file []byte, headerAt int, size int64) []byte {
	part := func(at, n int64) []byte {
		b := make([]byte, n)
		if at < int64(len(file)) {
			copy(b, file[at:])
		}
		return b
	}
	header := file[headerAt:]
	table, blockSize := int64(be.Uint64(header[16:])), int64(be.Uint32(header[32:]))
	out := make([]byte, 0, size+blockSize)
	for i := int64(0); i*blockSize < size; i++ {
		e := be.Uint32(part(table+i*4, 4))
		data := make([]byte, blockSize)
		if e != unused {
			start := int64(e) * sector
			bits := part(start, bitmapBytes(blockSize))
			all := part(start+bitmapBytes(blockSize), blockSize)
			for s := range int(blockSize / sector) {
				if bits[s/8]&(0x80>>(s%8)) != 0 {
					copy(data[s*sector:(s+1)*sector], all[s*sector:])
				}
			}
		}
		out = append(out, data...)
	}
	return out[:size]
}

// holding is the disk of the damaged or repaired image.
func (d *damage) holding(file []byte) []byte {
	if d.header < 0 {
		return file[:len(d.contents)]
	}
	b := guest(file, max(d.header, 512), int64(len(d.contents)))
	if d.name == overBAT { // the BAT is the bitmap of block 3
		n := int(be.Uint32(file[512+32:]))
		clear(b[3*n : 4*n])
	}
	return b
}

const overBAT = "block over the BAT"

// summary lists the findings of a check of the image.
func summary(t tb, b []byte, deep bool) []string {
	t.Helper()
	ids := []string{}
	_, err := checkImage(bytes.NewReader(b), int64(len(b)), &vhd.CheckOptions{Deep: deep}, func(f vhd.Finding) {
		if f.ID != "alignment" {
			ids = append(ids, f.ID)
		}
	})
	if err != nil {
		return []string{err.Error()}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func dynamicDamages(blockSize int64) []damage {
	s := sampleOf(blockSize)
	good := s.bytes()
	end := len(good) - 512
	patch := func(file []byte, at int, b ...byte) []byte {
		file = slices.Clone(file)
		copy(file[at:], b)
		return file
	}
	all := vhd.RepairOptions{All: true}
	deep := vhd.RepairOptions{All: true, Deep: true}
	saved := vhd.RepairOptions{All: true, Saved: true}
	force := vhd.RepairOptions{All: true, Force: true}
	discard := vhd.RepairOptions{All: true, DiscardOrphans: true}

	// The last block in the file is that of entry 9. The disk has all but three of its sectors.
	cut := 5 * sector
	shorter := slices.Clone(s.contents)
	clear(shorter[9*blockSize+blockSize-int64(cut):])
	torn := noise(cut, 77)

	wrongSums := patch(patch(good, 64, 1, 2, 3, 4), end+64, 1, 2, 3, 4)
	wrongType := s.with(func(s *sample) { s.footer = []edit{u32(60, 9)} }).bytes()

	lost := s.with(func(s *sample) { s.footer = []edit{u64(16, 1<<20)} }).bytes()
	moved := s.with(func(s *sample) { // the header follows the table
		s.headerAt, s.tableAt = 1024, 512
	})
	movedLost := moved.with(func(s *sample) { s.footer = []edit{u64(16, 4096)} }).bytes()

	equal := s.with(func(s *sample) { s.bat = map[int]uint32{2: uint32(s.place(1)), 7: uint32(s.place(1))} })
	equalDisk := slices.Clone(s.contents)
	for _, i := range []int64{2, 7} {
		copy(equalDisk[i*blockSize:(i+1)*blockSize], s.contents[:blockSize])
	}
	over := func(i int, sector uint32) *sample {
		return s.with(func(s *sample) { s.bat = map[int]uint32{i: sector} })
	}
	// A block that starts inside another one: its bitmap is data of the other.
	partial := over(2, uint32(s.place(0))+4)
	partialDisk := guest(partial.bytes(), 512, s.size)

	overTable := over(3, 3)
	// The copy of the footer is the block's bitmap, and the header its first data.
	overFooter := s.with(func(s *sample) {
		for i := range s.blocks {
			s.blocks[i].sector += int64(s.stored) / sector
		}
		s.bat = map[int]uint32{3: 0}
	})
	beyond := over(3, uint32(s.place(40)))
	twoBeyond := s.with(func(s *sample) { s.bat = map[int]uint32{0: uint32(s.place(40)), 3: uint32(s.place(41))} })
	reaching := over(3, uint32(s.place(4))-4) // overlaps the footer

	excess := s.with(func(s *sample) {
		s.entries = 20
		s.bat = map[int]uint32{12: uint32(s.place(1)), 19: 7}
	})
	// Up to whole blocks.
	roundedUp := append(slices.Clone(s.contents), s.blocks[3].data[blockSize-3*sector:]...)
	// Block 0 is the second in the file.
	leaked := s.with(func(s *sample) { s.bat = map[int]uint32{0: unused} })
	leakedDisk := slices.Clone(s.contents)
	clear(leakedDisk[:blockSize])
	gap := s.with(func(s *sample) { s.blocks = slices.Delete(s.blocks, 1, 2) })
	gapFirst := s.with(func(s *sample) { s.blocks = s.blocks[1:] })
	gapFirstDisk := gapFirst.disk()
	gapLast := s.with(func(s *sample) { s.blocks = s.blocks[:3]; s.end = int64(end) })

	// Half of the disk, with two of its blocks, is past the size in both footers.
	tooSmall := s.with(func(s *sample) { s.footer = []edit{currentSize(uint64(5 * blockSize))} })
	tooSmallDisk := s.contents[:5*blockSize]
	// The last block in the file.
	leakedLast := s.with(func(s *sample) { s.bat = map[int]uint32{9: unused} })
	leakedLastDisk := slices.Clone(s.contents)
	clear(leakedLastDisk[9*blockSize:])

	nested := leaked.bytes() // a footer of another image in the space
	copy(nested[int(s.place(1))*sector+sector:], footerBytes(fixed, 1234, text(68, "another image!!!")))

	clearBits := bytes.Repeat([]byte{0xff}, int(bitmapBytes(blockSize)))
	clearBits[0] = 0x0f
	hidden := s.with(func(s *sample) { s.blocks[1].bitmap = clearBits })
	hiddenDisk := slices.Clone(s.contents)
	clear(hiddenDisk[:4*sector])

	suspended := s.with(func(s *sample) { s.footer = []edit{u8(84, 1)} })
	suspendedLeak := leaked.with(func(s *sample) { s.footer = []edit{u8(84, 1)} })

	// Entry 0, whose block is in the file, has the value of entry 5.
	orphan := over(0, uint32(s.place(2))).bytes()
	orphanDisk := slices.Clone(s.contents)
	copy(orphanDisk[:blockSize], s.contents[5*blockSize:6*blockSize])
	orphanZero := slices.Clone(orphan) // the lost block is all zeros
	clear(orphanZero[s.place(1)*sector:][:s.stored])

	odd := 2 * 4096 // for alignment, and footers
	ids := func(s ...string) []string { return slices.Sorted(slices.Values(s)) }
	return []damage{
		{"none", good, s.contents, deep, nil, nil, nil, true, 0, 0},
		{"trailing footer cut off", good[:end], s.contents, all, ids("trailing-footer"), nil, nil, false, 512, 0},
		{"trailing footer spoilt", spoil(good, end, 512), s.contents, all, ids("trailing-footer"), nil, nil, false, 0, 0},
		{"trailing footer with a wrong checksum", patch(good, end+64, 1), s.contents, all, ids("trailing-footer"), nil, nil, false, 0, 0},
		{"footer of 511 bytes", good[:len(good)-1], s.contents, all, nil, nil, nil, false, 1, 0},
		{"footer of 511 bytes with a wrong checksum", patch(good[:len(good)-1], end+64, 1), s.contents, all, ids("trailing-footer"), nil, nil, false, 1024, 0},
		{"torn tail", append(slices.Clone(good), torn[:100]...), s.contents, all, ids("file-length"), nil, nil, false, 1024, 0},
		{"torn tail of 511 bytes", append(slices.Clone(good), torn[:511]...), s.contents, all, ids("trailing-footer"), nil, nil, false, 1024, 0},
		{"torn tail without a footer", append(good[:end:end], torn[:300]...), s.contents, all, ids("trailing-footer", "file-length"), nil, nil, false, 1024, 0},
		{"torn tail of sectors", append(slices.Clone(good), torn...), s.contents, all, ids("trailing-footer"), nil, nil, false, 512, 0},
		{"cut inside of the last block", good[:end-cut], shorter, all, ids("bat-beyond-end", "trailing-footer"), nil, nil, false, cut + 512, 0},
		{"cut inside of a sector of the last block", good[: end-cut+100 : end], func() []byte {
			b := slices.Clone(shorter)
			copy(b[9*blockSize+blockSize-int64(cut):], good[end-cut:end-cut+100])
			return b
		}(), all, ids("bat-beyond-end", "file-length", "trailing-footer"), nil, nil, false, cut + 512, 0},
		{"cut inside of the last block, 511 bytes into a sector", good[: end-cut-1 : end], func() []byte {
			b := slices.Clone(shorter)
			b[9*blockSize+blockSize-int64(cut)-1] = 0
			return b
		}(), all, ids("bat-beyond-end", "trailing-footer"), nil, nil, false, cut + 1024, 0},
		{"leading copy lost", spoil(good, 0, 512), s.contents, all, ids("leading-footer"), nil, nil, false, 0, 0},
		{"leading copy of other contents", patch(good, 0, footerBytes(dynamic, s.size, u32(24, 99))...), s.contents, all, ids("footers-differ"), nil, nil, false, 0, 0},
		{
			"leading copy of another image", patch(good, 0, footerBytes(dynamic, s.size, text(68, "another image!!!"))...), s.contents, saved,
			ids("unique-ids-differ"), ids("unique-ids-differ"), vhd.ErrTwoIDs, true, 0, 0,
		},
		{
			"leading copy of another image, and a leak", patch(leaked.bytes(), 0, footerBytes(dynamic, s.size, text(68, "another image!!!"))...), leakedDisk,
			vhd.RepairOptions{DiscardOrphans: true, Force: true},
			ids("leak", "unique-ids-differ"), ids("leak", "unique-ids-differ"), vhd.ErrTwoIDs, true, 0, 0,
		},
		{"bytes missing in a block", slices.Delete(slices.Clone(good), 2600, 2607), nil, saved, ids("bat-beyond-end", "bytes-missing"), ids("bat-beyond-end", "bytes-missing"), vhd.ErrShifted, true, 0, 0},
		{"bytes missing in a block, and both header and table", slices.Delete(slices.Clone(good), 500, 507), nil, saved, ids("bytes-missing", "header-cookie", "leading-footer"), ids("bytes-missing", "header-cookie", "leading-footer"), vhd.ErrShifted, true, 0, 0},
		{"bytes added in a block", slices.Insert(slices.Clone(good), 2600, 1, 2, 3), nil, saved, ids("bytes-added"), ids("bytes-added"), vhd.ErrShifted, true, 0, 0},
		{"sectors missing in a block", slices.Delete(slices.Clone(good), 3000, 3000+3*sector), nil, saved, ids("bat-beyond-end", "bytes-missing"), ids("bat-beyond-end", "bytes-missing"), vhd.ErrShifted, true, 0, 0},
		{"both checksums wrong", wrongSums, s.contents, all, ids("footer-checksum", "leading-footer"), nil, nil, false, 0, 0},
		{"only a leading copy, with a wrong checksum", patch(good[:end], 64, 1), s.contents, all, ids("footer-checksum", "trailing-footer"), nil, nil, false, 512, 0},
		{"both types unknown", wrongType, s.contents, all, ids("disk-type"), ids("disk-type"), vhd.ErrBeyondRepair, true, 0, 0},
		{"header with a wrong checksum", patch(good, 512+36, 1), s.contents, all, ids("header-checksum"), nil, nil, false, 0, 0},
		{"header and footers with wrong checksums", patch(wrongSums, 512+36, 1), s.contents, all, ids("footer-checksum", "header-checksum", "leading-footer"), nil, nil, false, 0, 0},
		{
			"header with a wrong checksum, and a wrong BAT", patch(equal.bytes(), 512+36, 1), equalDisk, saved,
			ids("bat-overlap", "header-checksum"), nil, nil, false, 2*s.stored + 2*odd, 0,
		},
		{"data offset past the end", lost, s.contents, all, ids("data-offset"), nil, nil, false, 0, 0},
		{"data offset into a block", movedLost, s.contents, all, ids("header-cookie"), nil, nil, false, 0, 1024},
		{"header lost", spoil(good, 512, 1024), s.contents, all, ids("header-cookie"), nil, nil, false, 0, 512},
		{"both footers and the header lost", spoil(spoil(spoil(good, 512, 1024), 0, 512), end, 512), nil, all, []string{vhd.ErrNotVHD.Error()}, []string{vhd.ErrNotVHD.Error()}, vhd.ErrNotVHD, true, 0, 0},
		{"both footers lost", spoil(spoil(good, 0, 512), end, 512), roundedUp, all, ids("leading-footer", "trailing-footer"), nil, nil, false, 0, 0},
		{"both footers lost, one of them only in its first bytes", patch(spoil(good, end, 512), 0, 1, 2, 3, 4), s.contents, all, ids("leading-footer", "trailing-footer"), nil, nil, false, 0, 0},
		{
			"both footers lost, and a block over the BAT", spoil(spoil(overTable.bytes(), 0, 512), end, 512), nil, all,
			ids("bat-over-metadata", "leading-footer", "trailing-footer"), ids("bat-over-metadata", "leading-footer", "trailing-footer"), vhd.ErrBeyondRepair, true, 0, 0,
		},
		{"equal entries", equal.bytes(), equalDisk, all, ids("bat-overlap"), nil, nil, false, 2*s.stored + 2*odd, 0},
		{"partial overlap", partial.bytes(), partialDisk, all, ids("bat-overlap"), nil, nil, false, s.stored + odd, 0},
		{overBAT, overTable.bytes(), s.contents, all, ids("bat-over-metadata"), ids("bat-over-metadata"), nil, true, 0, 0},
		{
			"block over the copy of the footer, deep", overFooter.bytes(), guest(overFooter.bytes(), 512, s.size),
			vhd.RepairOptions{All: true, Saved: true, Deep: true},
			ids("bat-over-metadata"), ids("bat-over-metadata"), nil, true, 0, 0,
		},
		{"block past the end", beyond.bytes(), s.contents, all, ids("bat-beyond-end"), ids("bat-beyond-end"), nil, true, 0, 0},
		{"block past the end, no trailing footer", beyond.bytes()[:end], s.contents, all, ids("bat-beyond-end", "trailing-footer"), ids("bat-beyond-end"), nil, false, 512, 0},
		{
			"block past the end, deep", beyond.bytes(), s.contents,
			vhd.RepairOptions{All: true, Saved: true, Deep: true},
			ids("bat-beyond-end"), ids("bat-beyond-end"), nil, true, 0, 0,
		},
		{"block over the footer", reaching.bytes(), guest(reaching.bytes(), 512, s.size), all, ids("bat-beyond-end"), ids("bat-beyond-end"), nil, true, 0, 0},
		{"entries past the end of the disk", excess.bytes(), s.contents, all, ids("bat-excess", "max-table-entries"), ids("max-table-entries"), nil, false, 0, 0},
		{"current size too small", tooSmall.bytes(), tooSmallDisk, all, ids("bat-excess", "leak", "max-table-entries"), ids("bat-excess", "leak", "max-table-entries"), errOrphans, true, 0, 0},
		{
			"current size too small, given up", tooSmall.bytes(), tooSmallDisk,
			vhd.RepairOptions{DiscardOrphans: true},
			ids("bat-excess", "leak", "max-table-entries"), ids("bat-excess", "leak", "max-table-entries"), nil, true, 0, 0,
		},
		{"footer lost after an unreferenced block", leakedLast.bytes()[:end], leakedLastDisk, all, ids("leak", "trailing-footer"), ids("leak"), errOrphans, false, 512, 0},
		{"footer spoilt after an unreferenced block", spoil(leakedLast.bytes(), end, 512), leakedLastDisk, all, ids("leak", "trailing-footer"), ids("leak"), errOrphans, false, 512, 0},
		{"leak with data", leaked.bytes(), leakedDisk, all, ids("leak"), ids("leak"), errOrphans, true, 0, 0},
		{"leak with data, saved", leaked.bytes(), leakedDisk, saved, ids("leak"), nil, nil, false, 0, 0},
		{"leak with data, given up", leaked.bytes(), leakedDisk, discard, ids("leak"), nil, nil, false, 0, 0},
		{"leak with data, by force", leaked.bytes(), leakedDisk, force, ids("leak"), ids("leak"), errOrphans, true, 0, 0},
		{"leak without data", gap.bytes(), leakedDisk, all, ids("leak"), nil, nil, false, 0, 0},
		{"leak before all blocks", gapFirst.bytes(), gapFirstDisk, all, ids("leak"), nil, nil, false, 0, 0},
		{"leak after all blocks", gapLast.bytes(), gapLast.disk(), all, ids("leak"), nil, nil, false, 0, 0},
		{
			"leak after all blocks, and a torn tail without a footer", append(gapLast.bytes()[:end:end], torn[:100]...), gapLast.disk(),
			vhd.RepairOptions{},
			ids("file-length", "leak", "trailing-footer"), nil, nil, false, 0, 0,
		},
		{"leak, leading copy lost", spoil(leaked.bytes(), 0, 512), leakedDisk, discard, ids("leading-footer", "leak"), nil, nil, false, 0, 0},
		{"leak, trailing footer lost", leaked.bytes()[:end], leakedDisk, discard, ids("leak", "trailing-footer"), nil, nil, false, 512, 0},
		{"leak with the footer of another image", nested, leakedDisk, all, ids("leak"), ids("leak"), errOrphans, true, 0, 0},
		{"leak with the footer of another image, given up", nested, leakedDisk, discard, ids("leak"), nil, nil, false, 0, 0},
		{"leak, and a block past the end", over(0, uint32(s.place(40))).bytes(), leakedDisk, saved, ids("bat-beyond-end", "leak"), ids("bat-beyond-end", "leak"), nil, true, 0, 0},
		{"leak, and a block over the BAT", over(0, 3).bytes(), nil, all, ids("bat-over-metadata", "leak"), ids("bat-over-metadata", "leak"), errOrphans, true, 0, 0},
		{"leak, and two blocks past the end", twoBeyond.bytes(), leakedDisk, saved, ids("bat-beyond-end", "leak"), ids("bat-beyond-end", "leak"), nil, true, 0, 0},
		{"data under clear bits", hidden.bytes(), s.contents, deep, ids("bitmap-data"), nil, nil, false, 0, 0},
		{"data under clear bits, not asked for", hidden.bytes(), hiddenDisk, all, nil, nil, nil, true, 0, 0},
		{"suspended", patch(suspended.bytes(), 64, 0), s.contents, all, ids("leading-footer", "saved-state"), ids("leading-footer", "saved-state"), vhd.ErrSavedState, true, 0, 0},
		{"suspended, by force", patch(suspended.bytes(), 64, 0), s.contents, force, ids("leading-footer", "saved-state"), ids("saved-state"), nil, false, 0, 0},
		{"suspended, and a leak", suspendedLeak.bytes(), leakedDisk, vhd.RepairOptions{}, ids("leak", "saved-state"), ids("leak", "saved-state"), vhd.ErrSavedState, true, 0, 0},
		{"suspended, and a leak, by force", suspendedLeak.bytes(), leakedDisk, vhd.RepairOptions{Force: true, DiscardOrphans: true}, ids("leak", "saved-state"), ids("saved-state"), nil, false, 0, 0},
		{"equal entries, and an orphan", orphan, orphanDisk, all, ids("bat-overlap", "leak"), ids("leak"), errOrphans, false, s.stored + odd, 0},
		{"equal entries, and an orphan that is saved", orphan, orphanDisk, saved, ids("bat-overlap", "leak"), ids("leak"), nil, false, s.stored + odd, 0},
		{"equal entries, and an orphan, given up", orphan, orphanDisk, discard, ids("bat-overlap", "leak"), ids("leak"), nil, false, s.stored + odd, 0},
		{"equal entries, and an orphan of zeros", orphanZero, orphanDisk, all, ids("bat-overlap", "leak"), ids("leak"), nil, false, s.stored + odd, 0},
		{
			"all at once", patch(spoil(hidden.with(func(s *sample) {
				s.bat = map[int]uint32{2: uint32(s.place(1))}
				s.blocks = slices.Delete(s.blocks, 0, 1)
				s.entries = 12
			}).bytes(), end, 512), 0, footerBytes(dynamic, s.size)...), func() []byte {
				b := slices.Clone(s.contents)
				copy(b[2*blockSize:3*blockSize], s.contents[:blockSize])
				clear(b[blockSize : 2*blockSize])
				return b
			}(), deep, ids("bat-overlap", "bitmap-data", "leak", "max-table-entries", "trailing-footer"), ids("leak", "max-table-entries"), nil, false, s.stored + odd, 0,
		},
	}
}

// trailingMetadata are images whose metadata follows everything else. A rewritten footer must
// not overwrite it.
func trailingMetadata() []damage {
	all := vhd.RepairOptions{All: true}
	s := craft{size: 10 * 4 * kib}
	s.defaults()
	empty := make([]byte, s.size)

	x := s
	x.footer = []edit{creator("tap\x00"), u32(32, 0x00010003)}
	xen := x.bytes()
	footer := xen[len(xen)-512:]
	header := make([]byte, 512)
	copy(header, "tdbatmap")
	be.PutUint64(header[8:], 2560)
	be.PutUint32(header[16:], 2)
	be.PutUint32(header[20:], 0x00010002)
	be.PutUint32(header[24:], allOnes&0xffffffff) // of the first sector: the table of 10 blocks
	noFooter := append(append(slices.Clone(xen[:2048]), header...), make([]byte, 1024)...)
	// A change of this nonzero last sector of the map is visible.
	noFooter = append(noFooter[:len(noFooter)-1], 1)
	return []damage{
		{"batmap at the end", append(slices.Clone(noFooter), footer...), empty, all, nil, nil, nil, true, 0, 0},
		{"batmap at the end, no trailing footer", noFooter, empty, all, []string{"trailing-footer"}, nil, nil, false, 512, 0},
	}
}

// differencingWithLocator is an image without blocks, with the parent's path after the BAT.
func differencingWithLocator() []byte {
	c := craft{size: 10 * 4 * kib, footer: []edit{u32(60, differencing)}}
	path := []byte(".\x00\\\x00p\x00a\x00r\x00e\x00n\x00t\x00.\x00v\x00h\x00d\x00")
	c.header = []edit{text(40, "fedcba9876543210"), text(64, "\x00p\x00a\x00r\x00e\x00n\x00t\x00.\x00v\x00h\x00d"), func(b []byte) {
		copy(b[576:], "W2ru")
		be.PutUint32(b[580:], 512)
		be.PutUint32(b[584:], uint32(len(path)))
		be.PutUint64(b[592:], 2048)
	}}
	c.end = 2560
	b := c.bytes()
	copy(b[2048:], path)
	return b
}

func fixedDamages() []damage {
	all := vhd.RepairOptions{All: true}
	data := noise(9*kib, 5)
	good := fixedImage(data)
	end := len(good) - 512
	badSum := slices.Clone(good)
	badSum[end+64] ^= 1
	offset := fixedImage(data, u64(16, 0))
	none := append(slices.Clone(data), make([]byte, 512)...)
	return []damage{
		{"none", good, data, all, nil, nil, nil, true, 0, -1},
		{"no leaks", good, data, vhd.RepairOptions{}, nil, nil, nil, true, 0, -1},
		{"data offset", offset, data, all, []string{"fixed-data-offset"}, nil, nil, false, 0, -1},
		{"bytes missing", slices.Delete(slices.Clone(good), 100, 103), nil, all, []string{"bytes-missing", "fixed-length"}, []string{"bytes-missing", "fixed-length"}, vhd.ErrShifted, true, 0, -1},
		{"bytes added", slices.Insert(slices.Clone(good), 100, 1, 2, 3), nil, all, []string{"bytes-added", "fixed-slack"}, []string{"bytes-added", "fixed-slack"}, vhd.ErrShifted, true, 0, -1},
		{"wrong checksum", badSum, data, all, []string{"footer-checksum"}, nil, nil, false, 0, -1},
		{"511 bytes", good[:len(good)-1], data, all, nil, nil, nil, false, 1, -1},
		{"torn tail", append(slices.Clone(good), 1, 2, 3), data, all, []string{"file-length"}, []string{"file-length"}, nil, true, 0, -1},
		{"too short", good[512:], data[512:], all, []string{"fixed-length"}, []string{"fixed-length"}, nil, true, 0, -1},
		{"suspended", fixedImage(data, u8(84, 1), u64(16, 0)), data, all, []string{"fixed-data-offset", "saved-state"}, []string{"fixed-data-offset", "saved-state"}, vhd.ErrSavedState, true, 0, -1},
		{"suspended, by force", fixedImage(data, u8(84, 1), u64(16, 0)), data, vhd.RepairOptions{All: true, Force: true}, []string{"fixed-data-offset", "saved-state"}, []string{"saved-state"}, nil, false, 0, -1},
		{"zeros after the footer", slices.Concat(good, make([]byte, 5*kib+100)), data, all, []string{"footer-misplaced"}, nil, nil, false, 0, -1},
		{"3 MiB of zeros after the footer", slices.Concat(good, make([]byte, 3*mib)), data, all, []string{"footer-misplaced"}, nil, nil, false, 0, -1},
		{"data after the footer", slices.Concat(good, make([]byte, kib), noise(kib, 7)), data, all, []string{"footer-misplaced"}, []string{"footer-misplaced"}, nil, true, 0, -1},
		{"suspended, zeros after the footer", slices.Concat(fixedImage(data, u8(84, 1)), make([]byte, kib)), data, all, []string{"footer-misplaced", "saved-state"}, []string{"footer-misplaced", "saved-state"}, vhd.ErrSavedState, true, 0, -1},
		{"torn footer", good[:len(good)-100], data, all, []string{"footer-torn"}, nil, nil, false, 100, -1},
		{"more torn footer", good[:end+60], data, all, []string{vhd.ErrNotVHD.Error()}, []string{vhd.ErrNotVHD.Error()}, vhd.ErrNotVHD, true, 0, -1},
		{"no footer", none, data, all, []string{vhd.ErrNotVHD.Error()}, []string{vhd.ErrNotVHD.Error()}, vhd.ErrNotVHD, true, 0, -1},
		{"empty", nil, nil, all, []string{vhd.ErrNotVHD.Error()}, []string{vhd.ErrNotVHD.Error()}, vhd.ErrNotVHD, true, 0, -1},
	}
}

// forDamages calls f with all of the damages.
func forDamages(t *testing.T, f func(t *testing.T, d *damage)) {
	for group, ds := range map[string][]damage{
		"blocks of 4 KiB":  dynamicDamages(4 * kib),
		"blocks of 64 KiB": dynamicDamages(64 * kib),
		"metadata":         trailingMetadata(),
		"fixed":            fixedDamages(),
	} {
		for _, d := range ds {
			t.Run(group+"/"+d.name, func(t *testing.T) { f(t, &d) })
		}
	}
}

// writes is the number of changes without flushes.
func (r *recorder) writes() int {
	n := 0
	for _, c := range r.log {
		if c.op != "sync" {
			n++
		}
	}
	return n
}

// repair repairs the image and returns the file, and the steps.
func repair(t tb, file []byte, o vhd.RepairOptions, want error) (*recorder, []vhd.Repaired) {
	t.Helper()
	r := record(file)
	done, err := repaired(context.Background(), r, r.size(), &o)
	if !errors.Is(err, want) {
		t.Fatalf("Repair: %v, want %v", err, want)
	}
	return r, done
}

// leaksNext reports whether a repair has changed BAT entries, so that the next one may return
// space to the file system.
func leaksNext(done []vhd.Repaired) bool {
	return slices.ContainsFunc(done, func(x vhd.Repaired) bool { return strings.HasPrefix(x.ID, "bat-") })
}

// onlyLeaks reports whether a repair only returned space.
func onlyLeaks(done []vhd.Repaired) bool {
	return !slices.ContainsFunc(done, func(x vhd.Repaired) bool { return x.ID != "leak" })
}

func TestRepair(t *testing.T) {
	forDamages(t, func(t *testing.T, d *damage) {
		if got := summary(t, d.file, d.o.Deep); !slices.Equal(got, d.before) {
			t.Fatalf("before the repair check finds %q, want %q", got, d.before)
		}
		r, done := repair(t, d.file, d.o, d.err)
		file := r.bytes()
		if got := summary(t, file, d.o.Deep); !slices.Equal(got, d.left) {
			t.Errorf("after the repair check finds %q, want %q; done: %q", got, d.left, done)
		}
		if d.same && (r.writes() > 0 || len(done) > 0) {
			t.Errorf("%d changes to the file, want none; done: %q", r.writes(), done)
		}
		if !d.same && len(done) == 0 {
			t.Error("nothing was said to be done")
		}
		for _, x := range done {
			// A footer of 511 bytes is no finding.
			answers := slices.Contains(d.before, x.ID) || x.ID == "file-length"
			if !answers || x.Text == "" || x.Length <= 0 || x.Offset < 0 {
				t.Errorf("repaired %+v; check has found %q", x, d.before)
			}
		}
		if len(file) > len(d.file)+d.growth {
			t.Errorf("the file has grown from %d to %d bytes, want at most %d more", len(d.file), len(file), d.growth)
		}
		if d.contents != nil {
			sameBytes(t, "what the disk holds", d.holding(file), d.contents)
		}
		if !slices.ContainsFunc(d.left, func(id string) bool { return id != "max-table-entries" }) {
			sameBytes(t, "what Open reads", readAll(t, openBytes(t, file, nil)), d.contents)
		}
		if leaksNext(done) { // the next repair returns space
			var then *recorder
			if then, done = repair(t, file, d.o, d.err); !onlyLeaks(done) {
				t.Errorf("the second repair: %q, want that it returns space at most", done)
			}
			file = then.bytes()
		}
		again, done := repair(t, file, d.o, d.err)
		if again.writes() > 0 || len(done) > 0 {
			t.Errorf("the second repair changes the file %d times; done: %q", again.writes(), done)
		}
		sameBytes(t, "the file after a second repair", again.bytes(), file)
	})
}

// A damaged image that could be read can be read after any repair of it, and has the same
// contents.
func TestRepairKeepsReadable(t *testing.T) {
	forDamages(t, func(t *testing.T, d *damage) {
		img, err := vhd.NewImage(bytes.NewReader(d.file), int64(len(d.file)), nil)
		if err != nil {
			return
		}
		want := readAll(t, img)
		for i := range 32 {
			o := vhd.RepairOptions{All: i&1 != 0, Saved: i&2 != 0, Force: i&4 != 0, Deep: i&8 != 0, DiscardOrphans: i&16 != 0}
			if o.Deep && strings.HasPrefix(d.name, "data under clear bits") {
				continue // then more can be read
			}
			m := newMemFile(d.file)
			_ = repairFile(m, &o)
			sameBytes(t, fmt.Sprintf("contents after a repair with %+v", o), readAll(t, openBytes(t, m.bytes(), nil)), want)
		}
	})
}

// Without All only leaks are returned, and nothing else is written.
func TestRepairLeaksOnly(t *testing.T) {
	forDamages(t, func(t *testing.T, d *damage) {
		before := summary(t, d.file, false)
		r := record(d.file)
		o := vhd.RepairOptions{Force: d.o.Force, Saved: d.o.Saved, DiscardOrphans: d.o.DiscardOrphans, Deep: true}
		err := repairFile(r.memFile, &o)
		if err != nil && !errors.Is(err, vhd.ErrSavedState) && !errors.Is(err, vhd.ErrNotVHD) && !errors.Is(err, errOrphans) && !errors.Is(err, vhd.ErrTwoIDs) && !errors.Is(err, vhd.ErrShifted) {
			t.Fatal(err)
		}
		if !slices.Contains(before, "leak") {
			if r.writes() > 0 {
				t.Errorf("there is no leak, and the file is changed %d times", r.writes())
			}
			return
		}
		after := summary(t, r.bytes(), false)
		for _, id := range before {
			// A truncated file has a trailing footer.
			if id != "leak" && id != "trailing-footer" && id != "file-length" && !slices.Contains(after, id) {
				t.Errorf("%s was repaired as well", id)
			}
		}
		for _, id := range after {
			if !slices.Contains(before, id) {
				t.Errorf("%s is new", id)
			}
		}
		if d.header >= 0 && d.contents != nil && len(d.before) > 0 && !slices.Contains(d.before, "bitmap-data") {
			sameBytes(t, "what the disk holds", d.holding(r.bytes()), d.holding(d.file))
		}
	})
}

// The parent's path is where the footer was lost.
func TestRepairKeepsLocator(t *testing.T) {
	good := differencingWithLocator()
	if got := summary(t, good, true); len(got) > 0 {
		t.Fatalf("check finds %q in the undamaged image", got)
	}
	for name, file := range map[string][]byte{
		"footer cut off": good[:len(good)-512],
		"footer spoilt":  spoil(good, len(good)-512, 512),
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := repair(t, file, vhd.RepairOptions{All: true}, nil)
			if got := summary(t, r.bytes(), true); len(got) > 0 {
				t.Errorf("after the repair check finds %q", got)
			}
			sameBytes(t, "all but the footer", r.bytes()[:2560], good[:2560])
		})
	}
}

// A repair that a power cut ends at any point can be repeated, and the disk loses nothing.
func TestCrashOfRepair(t *testing.T) {
	forDamages(t, func(t *testing.T, d *damage) {
		if d.same || d.err != nil {
			t.Skip("nothing is written")
		}
		r, _ := repair(t, d.file, d.o, nil)
		want := summary(t, r.bytes(), d.o.Deep)
		rnd := rand.New(rand.NewPCG(3, 4))
		each := 10
		if len(d.file) > 256*kib {
			each = 4
		}
		refused, of := 0, 0
		r.cuts(t, rnd, each, func(k int, file []byte) {
			if d.header < 0 || d.header == 0 && !d.o.Deep {
				holdsNow := d.holding(file)
				sameBytes(t, fmt.Sprintf("what the disk holds, cut after change %d of %d", k, len(r.log)), holdsNow, d.contents)
			}
			m := newMemFile(file)
			err := repairFile(m, &d.o)
			of++
			if errors.Is(err, errOrphans) {
				refused++
				o := d.o
				o.Saved = true
				err = repairFile(m, &o)
			}
			if err != nil {
				t.Fatalf("cut after change %d of %d: the next repair: %v", k, len(r.log), err)
			}
			what := fmt.Sprintf("cut after change %d of %d, and repaired", k, len(r.log))
			got := summary(t, m.bytes(), d.o.Deep)
			// A later repair returns space.
			leak := func(id string) bool { return id == "leak" }
			got, want := slices.DeleteFunc(got, leak), slices.DeleteFunc(slices.Clone(want), leak)
			if !slices.Equal(got, want) {
				t.Fatalf("%s: check finds %q, want %q", what, got, want)
			}
			sameBytes(t, what, d.holding(m.bytes()), d.contents)
			if len(want) == 0 {
				sameBytes(t, what+", read", readAll(t, openBytes(t, m.bytes(), nil)), d.contents)
			}
		})
		if refused > 0 {
			t.Errorf("after %d of %d cuts the next repair takes what the first one has left for lost blocks", refused, of)
		}
	})
}

// An error of the file ends a repair, and does no harm.
func TestRepairFails(t *testing.T) {
	forDamages(t, func(t *testing.T, d *damage) {
		if d.same || d.err != nil {
			t.Skip("nothing is written")
		}
		r, _ := repair(t, d.file, d.o, nil)
		full := errors.New("no space")
		refused := 0
		for k := range r.log {
			m := newMemFile(d.file)
			n := 0
			m.before = func(c change) (int, error) {
				if n++; n > k {
					return 0, full
				}
				return len(c.data), nil
			}
			if err := repairFile(m, &d.o); !errors.Is(err, full) {
				t.Fatalf("change %d fails, and Repair returns %v", k, err)
			}
			m.before = nil
			err := repairFile(m, &d.o)
			if errors.Is(err, errOrphans) {
				refused++
				o := d.o
				o.Saved = true
				err = repairFile(m, &o)
			}
			if err != nil {
				t.Fatalf("change %d has failed: the next repair: %v", k, err)
			}
			sameBytes(t, fmt.Sprintf("change %d has failed, and it was repaired", k), d.holding(m.bytes()), d.contents)
		}
		if refused > 0 {
			t.Errorf("after %d of %d failures the next repair takes what is left of the first for lost blocks", refused, len(r.log))
		}
	})
}

// A repair that is cancelled at any of its writes ends soon, reports its steps, and has done no
// harm.
func TestRepairCancelled(t *testing.T) {
	forDamages(t, func(t *testing.T, d *damage) {
		if d.same || d.err != nil {
			t.Skip("nothing is written")
		}
		r, all := repair(t, d.file, d.o, nil)
		for k := range r.log {
			ctx, cancel := context.WithCancel(context.Background())
			m := newMemFile(d.file)
			n := 0
			m.before = func(c change) (int, error) {
				if n == k {
					cancel()
				}
				n++
				return len(c.data), nil
			}
			done, err := repaired(ctx, m, m.size(), &d.o)
			cancel()
			m.before = nil
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatalf("cancelled at change %d: %v", k, err)
			}
			if len(done) > len(all) || !slices.EqualFunc(done, all[:len(done)], func(a, b vhd.Repaired) bool { return reflect.DeepEqual(a, b) }) && err != nil {
				t.Errorf("cancelled at change %d: %v is done, and all in all %v", k, done, all)
			}
			err = repairFile(m, &d.o)
			if errors.Is(err, errOrphans) {
				o := d.o
				o.Saved = true
				err = repairFile(m, &o)
			}
			must(t, err)
			sameBytes(t, fmt.Sprintf("cancelled at change %d, and repaired", k), d.holding(m.bytes()), d.contents)
		}
	})
	// Nothing is written afterwards, except for parts of the same step.
	file := manyOverlaps(20, 0, false)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := newMemFile(file)
	writes := 0
	m.before = func(c change) (int, error) {
		if writes++; writes == 10 {
			cancel()
		}
		return len(c.data), nil
	}
	done, err := repaired(ctx, m, m.size(), &vhd.RepairOptions{All: true})
	if !errors.Is(err, context.Canceled) || len(done) == 0 || len(done) > 5 || writes > 20 {
		t.Errorf("cancelled at the tenth change: %v, %d blocks moved, %d changes", err, len(done), writes)
	}
	m = newMemFile(file)
	ctx, cancel = context.WithCancel(context.Background())
	cancel()
	if _, err := repaired(ctx, m, m.size(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
}

// A header in the guest's data, of an image in the image, is not the lost one: with its BAT
// nothing in the file would be in use.
func TestRepairNestedHeader(t *testing.T) {
	for name, tableAt := range map[string]int64{"BAT at its usual place": 0, "BAT where a sector bitmap is": 2048} {
		t.Run(name, func(t *testing.T) {
			inner := craft{size: 640 * kib, blockSize: 16 * kib, tableAt: tableAt}.bytes()
			s := sampleOf(64 * kib).with(func(s *sample) { s.blocks[0].data = inner })
			good := s.bytes()
			r := record(spoil(good, 512, 1024))
			done, err := repaired(context.Background(), r, r.size(), &vhd.RepairOptions{All: true})
			t.Logf("done: %v", done)
			if err != nil && !errors.Is(err, errOrphans) {
				t.Fatal(err)
			}
			if len(r.bytes()) < len(good) {
				t.Fatalf("the file was cut from %d to %d bytes", len(good), len(r.bytes()))
			}
			sameBytes(t, "all that follows the header", r.bytes()[1536:len(good)-512], good[1536:len(good)-512])
		})
	}
}

// XenServer's batmap must not have the bit of a partial block: its tools would ignore the
// bitmap.
func TestBatmapRepair(t *testing.T) {
	const blockSize = 4 * kib
	c := craft{size: 20 * blockSize, blocks: []block{
		{3, 4, nil, pattern(blockSize, 1)}, {5, 13, nil, pattern(blockSize, 2)}, {7, 22, nil, pattern(blockSize, 3)},
	}}
	good := xenImage(c) // it has the bits of the blocks 3 and 7
	const header, bits = 2048, 2560
	partial := bytes.Clone(good)
	partial[(22+2)*sector] = 0x7f // the first sector of block 7 is not written
	summed := bytes.Clone(partial)
	be.PutUint32(summed[header+24:], be.Uint32(summed[header+24:])-0x40)
	summed[bits] |= 0x40 // block 1, which is unallocated
	wrongSum := bytes.Clone(good)
	wrongSum[header+27] ^= 1
	outside := bytes.Clone(good)
	be.PutUint64(outside[header+8:], 1<<40)
	for _, d := range []struct {
		name   string
		file   []byte
		found  []string
		mended bool
	}{
		{"right", good, nil, false},
		{"bit of a block written in part", partial, []string{"batmap-bitmap"}, true},
		{"bit of a block without a place", summed, []string{"batmap-bit", "batmap-bitmap"}, true},
		{"checksum", wrongSum, []string{"batmap-checksum"}, true},
		{"map outside of the file", outside, []string{"batmap-place"}, false},
	} {
		t.Run(d.name, func(t *testing.T) {
			check := func(b []byte) []string {
				var ids []string
				_, err := checkImage(bytes.NewReader(b), int64(len(b)), &vhd.CheckOptions{Deep: true}, func(f vhd.Finding) {
					if strings.HasPrefix(f.ID, "batmap") {
						ids = append(ids, f.ID)
					}
				})
				must(t, err)
				return ids
			}
			if got := check(d.file); !slices.Equal(got, d.found) {
				t.Errorf("check finds %q, want %q", got, d.found)
			}
			m := newMemFile(d.file)
			done, err := repaired(context.Background(), m, m.size(), &vhd.RepairOptions{All: true})
			must(t, err)
			after := m.bytes()
			if got := check(after); d.mended && len(got) > 0 || (len(done) > 0) != d.mended {
				t.Errorf("repaired: %q; check finds %q", done, got)
			}
			sameBytes(t, "contents", readAll(t, openBytes(t, after, nil)), readAll(t, openBytes(t, d.file, nil)))
			sameBytes(t, "all but the batmap", append(bytes.Clone(after[:header]), after[bits+512:]...), append(bytes.Clone(d.file[:header]), d.file[bits+512:]...))
		})
	}
	encrypted := bytes.Clone(good)
	encrypted[header+29] = 1
	if _, err := vhd.NewImage(bytes.NewReader(encrypted), int64(len(encrypted)), nil); !errors.Is(err, vhd.ErrUnsupported) || !strings.Contains(err.Error(), "encrypted") {
		t.Errorf("an encrypted image: %v, want ErrUnsupported", err)
	}
	if fs, _ := findings(t, encrypted); !slices.ContainsFunc(fs, func(f vhd.Finding) bool { return f.ID == "batmap-encrypted" }) {
		t.Errorf("check of an encrypted image finds %v", fs)
	}
}

// An image with the footers of two images is not converted to one of them by accident. Neither
// copy is overwritten until SetFooter gives both another id.
func TestTwoIDs(t *testing.T) {
	s := sampleOf(4 * kib)
	file := s.bytes()
	other := footerBytes(dynamic, s.size, text(68, "another image!!!"))
	copy(file, other)
	sameBytes(t, "contents", readAll(t, openBytes(t, file, nil)), s.contents)
	m := newMemFile(file)
	img := openMem(t, m)
	for what, err := range map[string]error{
		"writing to a new block": second(img.WriteAt([]byte{1}, 2*4*kib)),
		"Resize":                 img.Resize(context.Background(), 20*4*kib, nil),
		"Empty":                  img.Empty(context.Background(), nil),
		"SetFooter":              img.SetFooter(img.Footer()),
	} {
		if !errors.Is(err, vhd.ErrTwoIDs) {
			t.Errorf("%s: %v, want ErrTwoIDs", what, err)
		}
	}
	sameBytes(t, "the file", m.bytes(), file)
	f := img.Footer()
	copy(f.UniqueID[:], "another image!!!")
	must(t, img.SetFooter(f))
	write(t, img, []byte{1}, 2*4*kib)
	must(t, img.Close())
	if got := summary(t, m.bytes(), false); len(got) > 0 {
		t.Errorf("after SetFooter check finds %q", got)
	}
}

// The number of missing or added bytes is reported.
func TestShiftedBy(t *testing.T) {
	s := sampleOf(4 * kib)
	good := s.bytes()
	end := int64(len(good) - 512)
	fixedGood := fixedImage(noise(9*kib, 5))
	for _, x := range []struct {
		file []byte
		want string
	}{
		{slices.Delete(slices.Clone(good), 2600, 2607), fmt.Sprintf("byte %d: 7 bytes are missing inside the file", end-7)},
		{slices.Delete(slices.Clone(good), 3000, 3000+3*sector), fmt.Sprintf("byte %d: 1536 bytes are missing inside the file", end-1536)},
		{slices.Insert(slices.Clone(good), 2600, 1, 2, 3), fmt.Sprintf("byte %d: 3 bytes were added inside the file", end+3)},
		{slices.Delete(slices.Clone(good), 500, 507), fmt.Sprintf("byte %d: at least 7 bytes are missing inside the file", end-7)},
		{slices.Delete(slices.Clone(fixedGood), 100, 103), "byte 9213: 3 bytes are missing inside the file"},
		{slices.Insert(slices.Clone(fixedGood), 100, 1, 2, 3), "byte 9219: 3 bytes were added inside the file"},
	} {
		fs, _ := findings(t, x.file)
		if len(fs) == 0 || !strings.HasPrefix(fs[0].ID, "bytes-") && !slices.ContainsFunc(fs, func(f vhd.Finding) bool { return f.ID == "bytes-missing" }) {
			t.Errorf("findings %v, want %q", fs, x.want)
			continue
		}
		for _, f := range fs {
			if strings.HasPrefix(f.ID, "bytes-") && f.Got != x.want {
				t.Errorf("found %q, wanted %q", f.Got, x.want)
			}
		}
		if _, err := vhd.NewImage(bytes.NewReader(x.file), int64(len(x.file)), nil); err == nil {
			t.Errorf("an image opens of which %q", x.want)
		}
	}
}

// A repair names the bytes of the disk that it leaves zero or in doubt.
func TestRepairNamesDoubtfulBytes(t *testing.T) {
	s := sampleOf(4 * kib)
	good := s.bytes()
	end := len(good) - 512
	over := func(i int, sector int64) []byte {
		return s.with(func(s *sample) { s.bat = map[int]uint32{i: uint32(sector)} }).bytes()
	}
	for name, x := range map[string]struct {
		file []byte
		want []disk.Range
	}{
		// Block 9 is the last one. The disk has all but three of its sectors.
		"torn block":     {good[:end-5*sector], []disk.Range{{Off: 10*4*kib - 5*sector, N: 2 * sector}}},
		"all of a block": {good[:end-8*sector], []disk.Range{{Off: 9 * 4 * kib, N: 5 * sector}}},
		"two entries":    {over(2, s.place(1)), []disk.Range{{Off: 0, N: 4 * kib}, {Off: 2 * 4 * kib, N: 4 * kib}}},
		// The bitmap of block 2 is the fourth sector of block 1.
		"partial overlap": {over(2, s.place(0)+4), []disk.Range{{Off: 4*kib + 3*sector, N: 5 * sector}, {Off: 2 * 4 * kib, N: 4 * kib}}},
		"footer only":     {good[:end], nil},
	} {
		_, done := repair(t, x.file, vhd.RepairOptions{All: true}, nil)
		var got []disk.Range
		for _, d := range done {
			got = append(got, d.Doubtful...)
			for _, r := range d.Doubtful {
				if text := fmt.Sprintf("bytes %d to %d", r.Off, r.Off+r.N-1); !strings.Contains(d.Text, text) {
					t.Errorf("%s: %q does not name %s", name, d.Text, text)
				}
			}
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("%s: in doubt are %v, want %v; done: %q", name, got, x.want, done)
		}
	}
}

// Unreferenced space is reported to hold data only if it does.
func TestLeakWithData(t *testing.T) {
	leak := twoBlocksLeaked()
	empty := slices.Clone(leak)
	clear(empty[13*sector : 22*sector])
	for _, x := range []struct {
		file     []byte
		orphaned int64
	}{{leak, 1}, {empty, 0}} {
		fs, n := findings(t, x.file)
		if len(fs) != 1 || fs[0].ID != "leak" || strings.Contains(fs[0].Got, "holds data") != (x.orphaned > 0) || n.Leaked != 1 || n.Orphaned != x.orphaned {
			t.Errorf("findings %v, %+v; want a leak, and %d orphaned blocks", fs, n, x.orphaned)
		}
	}
}

// A rebuilt footer of an image that Windows made ends at a multiple of 4096 bytes.
func TestRepairedFooterEndsPage(t *testing.T) {
	start := written(t, &vhd.CreateOptions{
		Size: 10 * 4 * kib, Exact: true, BlockSize: 4 * kib, FileAlign: 4096, Creator: vhd.CreatorWindows,
	})
	want := readAll(t, openBytes(t, start, nil))
	for _, cut := range []int{1, 100, 512, 513, 1024, 4096} {
		m := newMemFile(start[:len(start)-cut])
		if _, err := repaired(context.Background(), m, m.size(), &vhd.RepairOptions{All: true}); err != nil {
			t.Fatal(err)
		}
		b := m.bytes()
		if len(b)%4096 != 0 || string(b[len(b)-512:][:8]) != "conectix" {
			t.Errorf("%d bytes cut off: a file of %d bytes, want a multiple of 4096 and a footer at its end", cut, len(b))
		}
		sameBytes(t, "contents", readAll(t, openBytes(t, b, nil)), want)
	}
}
