package vhd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// maxCandidates is the most blocks that an orphan names.
const maxCandidates = 8

// Orphans yields the orphans of the image in the first size bytes of r, in the order of the
// file. An orphan is a range with data that no BAT entry points to, and that may be a block. An
// error ends the iteration: one of [NewImage], a read error, or ctx.Err(). Wrong BAT entries
// and checksums are no error. A fixed disk has no orphans.
func Orphans(ctx context.Context, r io.ReaderAt, size int64) iter.Seq2[disk.Orphan, error] {
	return func(yield func(disk.Orphan, error) bool) {
		img, err := NewImage(r, size, &OpenOptions{IgnoreChecksums: true, Parents: disk.ParentSearch{None: true}, tolerateBAT: true})
		if err != nil {
			yield(disk.Orphan{}, err)
			return
		}
		if img.dynamic() {
			img.orphanBlocks(ctx)(yield)
		}
	}
}

// fileSpace is an unreferenced part of the file. before and after are the neighbouring blocks
// in the file; without a neighbour they are -1 and the number of blocks.
type fileSpace struct {
	start, end    int64
	before, after int64
}

// unreferenced yields the unreferenced spaces that are at least as large as a block, in the
// order of the file. Metadata is referenced, and so are the blocks of entries that fit the
// placement.
func (img *Image) unreferenced(yield func(s fileSpace) bool) {
	p := img.lay.placement()
	regions := img.lay.metadata()
	slices.SortFunc(regions, func(a, b region) int { return int(min(1, max(-1, a.start-b.start))) })
	end, before := int64(0), int64(-1)
	more := func(start, stop, block, after int64) bool {
		start = min(start, img.lay.limit/SectorSize*SectorSize)
		if start-end >= p.stored && !yield(fileSpace{end, start, before, after}) {
			return false
		}
		end = max(end, stop)
		if block >= 0 {
			before = block
		}
		return true
	}
	for block, e := range img.bat.inFileOrder(&p, img.bat.fitting(&p)) {
		start := int64(e) * SectorSize
		for len(regions) > 0 && regions[0].start <= start {
			if !more(regions[0].start, regions[0].end, -1, block) {
				return
			}
			regions = regions[1:]
		}
		if !more(start, start+p.stored, block, block) {
			return
		}
	}
	for _, g := range regions {
		if !more(g.start, g.end, -1, img.bat.len()) {
			return
		}
	}
	more(img.lay.limit, img.lay.limit, -1, img.bat.len())
}

// blockStep returns the alignment of the data of the blocks in the file.
func (img *Image) blockStep() int64 {
	p := img.lay.placement()
	n := 0
	for _, e := range img.bat.usedOnce() {
		if !p.fits(e) {
			continue
		}
		if (int64(e)*SectorSize+img.lay.bitmapSize)%dataAlign != 0 {
			return SectorSize
		}
		n++
	}
	if n == 0 && img.footer.Creator != CreatorWindows && img.footer.Creator != CreatorXenServer {
		return SectorSize
	}
	return dataAlign
}

// orphanBlocks yields the orphans in the unreferenced spaces.
func (img *Image) orphanBlocks(ctx context.Context) iter.Seq2[disk.Orphan, error] {
	return func(yield func(disk.Orphan, error) bool) {
		lay := img.lay
		lay.align = img.blockStep()
		step := lay.blockSize + roundUp(lay.bitmapSize, lay.align)
		holes := filesystem.NewHoleMap(img.r)
		owners := img.newOwners(ctx, holes, &lay, step)
		for s := range img.unreferenced {
			var offsets []int64
			for at := lay.nextBlockOffset(s.start); at+lay.stored() <= s.end; at += step {
				data, err := img.holdsData(ctx, holes, at, at+lay.stored())
				if err != nil {
					yield(disk.Orphan{}, err)
					return
				}
				if data {
					offsets = append(offsets, at)
				}
				if len(offsets) == maxOffsets { // in a space this large no owners are derived from the order
					if !img.yieldOrphans(offsets, func(int) []int64 { return nil }, yield) {
						return
					}
					offsets = offsets[:0]
				}
			}
			of, err := owners.of(s, len(offsets))
			if err != nil {
				yield(disk.Orphan{}, err)
				return
			}
			if !img.yieldOrphans(offsets, of, yield) {
				return
			}
		}
	}
}

// maxOffsets is the most orphans of one space that are held in memory.
const maxOffsets = 1 << 16

func (img *Image) yieldOrphans(offsets []int64, of func(i int) []int64, yield func(disk.Orphan, error) bool) bool {
	for i, at := range offsets {
		if !yield(disk.Orphan{Offset: at, Bitmap: img.lay.bitmapSize, Length: img.lay.blockSize, Blocks: of(i)}, nil) {
			return false
		}
	}
	return true
}

// holdsData reports whether [off, end) of the file has a sector that is neither zero nor a
// footer of this image.
func (img *Image) holdsData(ctx context.Context, holes *filesystem.HoleMap, off, end int64) (bool, error) {
	data := false
	stop := min(off+SectorSize, end) // most blocks start with a set bit
	look := func(b []byte, _ int64) bool {
		for ; len(b) >= SectorSize && !data; b = b[SectorSize:] {
			s := (*[SectorSize]byte)(b)
			f := DecodeFooter(s)
			data = *s != [SectorSize]byte{} && !(f.valid() && f.UniqueID == img.footer.UniqueID)
		}
		return !data
	}
	err := scanData(ctx, img.r, holes, off, stop, look)
	if err == nil && !data {
		err = scanData(ctx, img.r, holes, stop, end, look)
	}
	return data, err
}

// owners are the blocks that have lost their data.
type owners struct {
	img        *Image
	impossible []int64 // blocks whose entries are impossible; at most maxImpossible
	more       bool    // blocks are missing from impossible
	all        int     // number of orphans in the file; counted when first needed, -1 until then
	seen       int     // number of these that were passed to of

	count func() (int, error)
}

// maxImpossible is the most impossible entries that are kept to find owners.
const maxImpossible = 1 << 16

func (img *Image) newOwners(ctx context.Context, holes *filesystem.HoleMap, lay *layout, step int64) *owners {
	w := &owners{img: img, all: -1}
	p := img.lay.placement()
	for i, e := range img.bat.usedOnce() {
		if p.fits(e) {
			continue
		}
		for block := i; block < i+img.bat.alike(i) && !w.more; block++ {
			w.more = len(w.impossible) == maxImpossible
			if !w.more {
				w.impossible = append(w.impossible, block)
			}
		}
	}
	w.count = func() (int, error) {
		n := 0
		for s := range img.unreferenced {
			for at := lay.nextBlockOffset(s.start); at+lay.stored() <= s.end && n <= len(w.impossible); at += step {
				data, err := img.holdsData(ctx, holes, at, at+lay.stored())
				if err != nil {
					return 0, err
				}
				if data {
					n++
				}
			}
		}
		return n, nil
	}
	return w
}

// of returns a function that returns the possible owners of each of the n orphans in a space.
// An orphan has a single owner if the number of blocks without data equals the number of
// orphans. This may hold between the neighbours of the space, or in the whole image.
func (w *owners) of(s fileSpace, n int) (func(i int) []int64, error) {
	first := w.seen
	w.seen += n
	if n == 0 || w.more {
		return func(int) []int64 { return nil }, nil
	}
	each := func(blocks []int64) func(i int) []int64 {
		return func(i int) []int64 { return blocks[i : i+1] }
	}
	var between []int64
	if s.before < s.after {
		from, _ := slices.BinarySearch(w.impossible, s.before+1)
		to, _ := slices.BinarySearch(w.impossible, s.after)
		between = w.impossible[from:max(from, to)]
	}
	if len(between) == n {
		return each(between), nil
	}
	if len(w.impossible) > 0 {
		if w.all < 0 {
			all, err := w.count()
			if err != nil {
				return nil, err
			}
			w.all = all
		}
		if w.all == len(w.impossible) {
			return each(w.impossible[first:]), nil
		}
		some := w.impossible
		if len(between) > 0 {
			some = between
		}
		return func(int) []int64 { return some[:min(len(some), maxCandidates)] }, nil
	}
	if gap := s.after - s.before - 1; s.before < s.after && gap == int64(n) {
		var unallocated []int64
		for block := s.before + 1; block < s.after; block++ {
			unallocated = append(unallocated, block)
		}
		return each(unallocated), nil
	}
	return func(int) []int64 { return nil }, nil
}

// orphanIndex has the orphans of an image by their single owner.
type orphanIndex struct {
	byBlock map[int64]int64 // offset in the file
	blocks  []int64         // the keys of byBlock, in order
	some    []int64         // offsets of orphans with several possible owners; at most namedRanges
	more    int64           // number of further ones
}

// candidates describes the unreferenced data that may be the blocks of a finding. It returns ""
// without any.
func (c *Checker) candidates(f *finding) (string, error) {
	if c.orphans == nil {
		x := &orphanIndex{byBlock: map[int64]int64{}}
		for o, err := range Orphans(c.ctx, c.r, c.size) {
			switch _, format := errors.AsType[*FormatError](err); {
			case format: // another kind of finding
			case err != nil:
				return "", err
			case len(o.Blocks) == 1 && len(x.byBlock) < maxOffsets:
				x.byBlock[o.Blocks[0]] = o.Offset
			case len(x.some) < namedRanges:
				x.some = append(x.some, o.Offset)
			default:
				x.more++
			}
		}
		x.blocks = slices.Sorted(maps.Keys(x.byBlock))
		c.orphans = x
	}
	x := c.orphans
	var notes []string
	first := (f.Offset - c.batOff) / 4
	for i, _ := slices.BinarySearch(x.blocks, first); i < len(x.blocks) && x.blocks[i] < first+f.Faults() && len(notes) < namedRanges; i++ {
		notes = append(notes, fmt.Sprintf("no BAT entry points to the data at offset %d: by its position it is block %d", x.byBlock[x.blocks[i]], x.blocks[i]))
	}
	if len(notes) == 0 && len(x.some) > 0 {
		for _, at := range x.some {
			notes = append(notes, fmt.Sprintf("no BAT entry points to the data at offset %d: it may be such a block", at))
		}
		if x.more > 0 {
			notes = append(notes, fmt.Sprintf("so may data at %d more offsets", x.more))
		}
	}
	return strings.Join(notes, "; "), nil
}
