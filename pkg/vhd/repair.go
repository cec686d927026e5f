package vhd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// ErrBeyondRepair: what is left of the image does not say enough.
var ErrBeyondRepair = errors.New("the image cannot be repaired: neither footer, nor a header that leads to one, is left")

// ErrOrphans: BAT entries are wrong, and there are blocks with data that no
// entry points to. They may belong together, so neither is touched.
var ErrOrphans = errors.New("BAT entries are wrong, and space that no entry points to holds data, which may be what they have lost")

// RepairOptions say what to repair.
type RepairOptions struct {
	// All mends footers, header and BAT. Without it only leaked space is given
	// back.
	All bool
	// Deep also sets the bits of sectors that hold data under a clear bit, so
	// that it is read. It reads the whole image.
	Deep bool
	// Saved says that all that is overwritten is saved elsewhere. Then blocks that
	// entries may have lost are given up; without it that is ErrOrphans.
	Saved bool
	// Force does as Saved, repairs the image of a suspended virtual machine, and
	// gives space back although something like another image stands in it.
	Force bool
}

// Repair mends the image in f, a file of size bytes, as far as that loses no
// byte of the disk, and calls done with a line for each thing that it did.
// What it cannot mend it leaves alone; [Check] tells what is left.
//
// Check runs before anything is written. Every step is durable before the next
// and leaves an image that is no worse: footers are mended before the header,
// and a block's new place is complete before its entry points there. Repairing
// again does nothing.
func Repair(f disk.File, size int64, o *RepairOptions, done func(string)) error {
	if o == nil {
		o = &RepairOptions{}
	}
	before, err := Check(f, size, nil, func(Finding) {})
	if err != nil {
		return err
	}
	r := &repairer{f: f, size: size, o: *o, done: done}
	if o.All {
		if err := r.metadata(); err != nil {
			return err
		}
	}
	if before.Type == Fixed {
		return nil
	}
	return r.blocks()
}

type repairer struct {
	f    disk.File
	size int64 // of the file
	o    RepairOptions
	done func(string)
}

func (r *repairer) did(format string, args ...any) { r.done(fmt.Sprintf(format, args...)) }

// write writes and flushes: one step.
func (r *repairer) write(b []byte, off int64) error {
	if _, err := r.f.WriteAt(b, off); err != nil {
		return err
	}
	if err := r.f.Sync(); err != nil {
		return err
	}
	r.size = max(r.size, off+int64(len(b)))
	return nil
}

// metadata mends the footers and the header.
func (r *repairer) metadata() error {
	fs, err := locateFooters(r.f, r.size)
	if err != nil {
		return err
	}
	c, err := fs.ignoringChecksum()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBeyondRepair, err)
	}
	if c.SavedState != 0 && !r.o.Force {
		return ErrSavedState
	}
	if refusal(c.validate("footer"), true) != nil {
		return nil // a field that only its owner knows
	}
	footer := c.Footer
	if footer.Type == Fixed {
		return r.fixedFooter(c, &fs)
	}
	end, ok, err := r.header(&footer, c)
	if err != nil || !ok {
		return err
	}
	return r.footers(&footer, &fs, end)
}

// fixedFooter mends the only footer of a fixed disk, which nothing but itself
// can tell.
func (r *repairer) fixedFooter(c *footerCopy, fs *footers) error {
	footer := c.Footer
	footer.DataOffset = noOffset
	b := footer.Encode()
	rest := r.size % SectorSize
	switch {
	case c.short:
		r.did("the footer of 511 bytes got its last byte")
	case rest != 0:
		// What is torn off is not the disk's, but whose it is nobody knows.
		return nil
	case footer != fs.trailing.Footer:
		r.did("the footer got all ones for its data offset")
	case c.Checksum != c.checksumWanted():
		r.did("the footer got its right checksum")
	default:
		return nil
	}
	return r.write(b[:], c.off)
}

// header finds the dynamic disk header, mends it, and has the footer point to
// it. It returns the end of all that the header and the BAT lay claim to in the
// file; ok is false if there is no header to believe.
func (r *repairer) header(footer *Footer, c *footerCopy) (end int64, ok bool, err error) {
	h, found, err := readHeader(r.f, c, r.size)
	if err != nil {
		return 0, false, err
	}
	lost := refusal(found, true) != nil
	if lost {
		at, err := r.scanForHeader(footer)
		if err != nil || at < 0 {
			return 0, false, err
		}
		footer.DataOffset = uint64(at)
		moved := *c
		moved.DataOffset = uint64(at)
		if h, found, err = readHeader(r.f, &moved, r.size); err != nil || refusal(found, false) != nil {
			return 0, false, err
		}
	}
	if len(h.validateTable(footer.DataOffset, r.size)) > 0 {
		return 0, false, nil
	}
	blockSize := int64(h.BlockSize)
	if _, odd := c.virtualSize(SizeAuto, int64(h.MaxTableEntries)*blockSize); len(odd) > 0 {
		return 0, false, nil
	}
	lay := layoutOf(footer, &h, math.MaxInt64)
	t, err := readBAT(r.f, lay.batOff, blocksHeld(footer, &h, 0))
	if err != nil {
		return 0, false, err
	}
	if h.Checksum != h.checksumWanted() {
		if !t.sane(&lay) {
			return 0, false, nil // then nothing says that the header is right
		}
		b := h.Encode()
		if err := r.write(b[:SectorSize], int64(footer.DataOffset)); err != nil {
			return 0, false, err
		}
		r.did("the header got its right checksum")
	}
	inUse := lay.regions
	if footer.Type == Differencing {
		inUse = append(inUse, h.locatorRegions(r.size)...)
	}
	m, err := readBatmap(r.f, footer, lay.batEnd(), r.size)
	if err != nil {
		return 0, false, err
	}
	if m != nil {
		inFile := lay
		inFile.limit = r.size
		inUse = append(inUse, m.regions(&inFile, t)...)
	}
	for _, x := range inUse {
		end = max(end, x.end)
	}
	for _, e := range t.used() {
		// A block that begins in the file may have lost its tail. One that begins
		// behind it tells nothing.
		if start := int64(e) * SectorSize; start+lay.bitmapSize <= r.size {
			end = max(end, start+lay.stored())
		}
	}
	if lost {
		r.did("the header was found at offset %d, where the footer did not look for it", footer.DataOffset)
	}
	return end, true, nil
}

// headerScan is how far from the start of the file a lost header is looked for.
const headerScan = 1 << 20

// scanForHeader returns where the header must be, or -1 if there is no place, or
// more than one, that it can be: with a right checksum, and a BAT of which all
// entries are possible and at least one is used. A header inside a block is the
// guest's.
func (r *repairer) scanForHeader(footer *Footer) (int64, error) {
	found := int64(-1)
	var b [headerSize]byte
	for at := int64(footerSize); at <= min(headerScan, r.size-headerSize); at += SectorSize {
		if err := readFull(r.f, b[:], at); err != nil {
			return -1, err
		}
		h := DecodeHeader(&b)
		if h.Cookie != headerCookie || refusal(h.validate(at, footer.Type), false) != nil || len(h.validateTable(uint64(at), r.size)) > 0 {
			continue
		}
		moved := *footer
		moved.DataOffset = uint64(at)
		lay := layoutOf(&moved, &h, math.MaxInt64)
		t, err := readBAT(r.f, lay.batOff, blocksHeld(&moved, &h, 0))
		if err != nil {
			return -1, err
		}
		if t.end(lay.stored()) == 0 || !t.sane(&lay) {
			continue
		}
		if found >= 0 {
			return -1, nil
		}
		found = at
	}
	return found, nil
}

// footers writes the footer to where it belongs and is not: first at the start,
// and then at the end, behind what is in use.
func (r *repairer) footers(footer *Footer, fs *footers, end int64) error {
	b := footer.Encode()
	if !fs.leading.valid() || !fs.leading.same(footer) {
		if err := r.write(b[:], 0); err != nil {
			return err
		}
		r.did("the copy of the footer at the start was written anew")
	}
	at := fs.trailing.off
	rest := r.size % SectorSize
	switch {
	case rest != 0 && !(fs.trailing.short && fs.trailing.valid()):
		// What is torn stays, in front of the footer.
		at = max(roundUp(r.size, SectorSize), end)
	case fs.trailing.valid() && fs.trailing.same(footer) && !fs.trailing.short:
		return nil
	case fs.trailing.valid():
	case end > r.size-footerSize:
		at = max(roundUp(r.size, SectorSize), end)
	default:
		at = lastSector(r.size)
	}
	if err := r.write(b[:], at); err != nil {
		return err
	}
	r.did("the footer at the end was written anew, at offset %d", at)
	return nil
}

// blocks mends the BAT, and gives leaked space back.
func (r *repairer) blocks() error {
	img, err := NewImage(r.f, r.size, &OpenOptions{Write: true, Force: r.o.Force, Parents: disk.ParentSearch{None: true}, tolerateBAT: true})
	if err != nil {
		if errors.Is(err, ErrSavedState) {
			return err
		}
		return nil // what Open refuses even so is beyond this
	}
	if r.o.All {
		if !img.bat.sane(&img.lay) && !r.o.Saved && !r.o.Force {
			orphans, err := img.orphans()
			if err != nil {
				return err
			}
			if orphans {
				return ErrOrphans
			}
		}
		if err := r.separate(img); err != nil {
			return err
		}
		if err := r.excess(img); err != nil {
			return err
		}
		if err := r.batmap(img); err != nil {
			return err
		}
		if r.o.Deep && !img.differencing() && img.bat.sane(&img.lay) {
			if err := r.setBits(img); err != nil {
				return err
			}
		}
	}
	return r.leaks(img)
}

// orphans reports whether there is data in spaces, as large as a block, that
// nothing refers to: what entries that are wrong now may have pointed to. A copy
// of a block that stands over another one, whole or begun, is none: it is what a
// repair leaves that did not come to its end.
func (img *Image) orphans() (bool, error) {
	stored := img.lay.stored()
	doubtful := img.overlapping()
	for _, g := range img.gaps() {
		if g[1]-g[0] < stored {
			continue
		}
		for off := g[0]; off < g[1]; {
			place := roundUp(off+img.lay.bitmapSize, dataAlign) - img.lay.bitmapSize
			if place+stored <= g[1] {
				begun, err := img.holdsCopy(place, doubtful)
				if err != nil {
					return false, err
				}
				if begun {
					if data, err := img.holdsData(off, place); data || err != nil {
						return data, err
					}
					off = place + stored
					continue
				}
			}
			end := min(off+stored, g[1])
			if data, err := img.holdsData(off, end); data || err != nil {
				return data, err
			}
			off = end
		}
	}
	return false, nil
}

// holdsData reports whether [off, end) of the file, in whole sectors, is anything
// but zeros and footers of this image that others have followed.
func (img *Image) holdsData(off, end int64) (bool, error) {
	buf := make([]byte, min(max(end-off, 0), 64<<10))
	footer := img.footer.Encode()
	for ; off < end; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end-off)]
		if err := readFull(img.r, buf, off); err != nil {
			return false, err
		}
		for b := buf; len(b) >= SectorSize; b = b[SectorSize:] {
			if s := [SectorSize]byte(b); s != [SectorSize]byte{} && s != footer {
				return true, nil
			}
		}
	}
	return false, nil
}

// holdsCopy reports whether each sector of the block at that place is zero, or
// the same as in one of the blocks.
func (img *Image) holdsCopy(place int64, blocks []int64) (bool, error) {
	a, b := make([]byte, SectorSize), make([]byte, SectorSize)
	for _, block := range blocks {
		from := int64(img.bat.load(block)) * SectorSize
		same := true
		for off := int64(0); off < img.lay.stored() && same; off += SectorSize {
			if from+off+SectorSize > img.lay.limit {
				break
			}
			if err := readFull(img.r, a, place+off); err != nil {
				return false, err
			}
			if [SectorSize]byte(a) == [SectorSize]byte{} {
				continue
			}
			if err := readFull(img.r, b, from+off); err != nil {
				return false, err
			}
			same = bytes.Equal(a, b)
		}
		if same {
			return true, nil
		}
	}
	return false, nil
}

// overlapping returns the blocks that stand over the one before them in the
// file.
func (img *Image) overlapping() []int64 {
	var over []int64
	img.bat.overlaps(&img.lay, img.bat.count(), func(_, b int64) bool {
		over = append(over, b)
		return true
	})
	return over
}

// separate gives blocks that stand over each other places of their own. Each
// keeps what was read of it until then.
func (r *repairer) separate(img *Image) error {
	move := img.overlapping()
	if len(move) == 0 {
		return nil
	}
	stored := img.lay.stored()
	if int64(len(move)) > max(r.size/stored, 1) {
		return nil // copies for all would be more than all that the file holds
	}
	for _, block := range move {
		from := int64(img.bat.load(block)) * SectorSize
		if from+stored > img.lay.limit || img.overMetadata(from) {
			continue // its bytes are not all there, or not its own
		}
		x, err := img.extendForBlock(0)
		if err != nil {
			return err
		}
		to := x.start
		if err := img.copyBlock(to, from); err != nil {
			return fmt.Errorf("moving block %d: %w", block, err)
		}
		if err := img.flush(); err != nil {
			return err
		}
		img.bat.store(block, uint32(to/SectorSize))
		if err := img.writeEntries([]int64{block}); err != nil {
			return err
		}
		if err := img.flush(); err != nil {
			return err
		}
		r.did("block %d was copied away from the block it stood over", block)
	}
	if err := img.retireSyncedFooter(); err != nil {
		return err
	}
	img.lay.limit = img.trailingFooterAt()
	return img.flush()
}

// overMetadata reports whether a block at that place would stand over metadata.
func (img *Image) overMetadata(start int64) bool {
	return regionOver(slices.Concat(img.lay.regions, img.lay.batmap), start, start+img.lay.stored()) != nil
}

// excess marks BAT entries behind the disk's end as unused.
func (r *repairer) excess(img *Image) error {
	first := img.bat.len()
	n := int64(img.header.MaxTableEntries) - first
	if n <= 0 {
		return nil
	}
	t, err := readBAT(img.r, img.lay.batOff+first*4, n)
	if err != nil {
		return err
	}
	count := t.count()
	if count == 0 {
		return nil
	}
	b := make([]byte, n*4)
	for i := range b {
		b[i] = 0xff
	}
	if err := r.write(b, img.lay.batOff+first*4); err != nil {
		return err
	}
	r.did("%d BAT entries behind the disk's end were marked as unused", count)
	return nil
}

// batmap clears bits of XenServer's map that must not be set.
func (r *repairer) batmap(img *Image) error {
	bits, changed, err := img.mendedBatmap()
	if err != nil || !changed {
		return err
	}
	if err := img.batmap.write(r.f, bits); err != nil {
		return err
	}
	r.did("the batmap was made to say what the blocks' bitmaps say")
	return r.f.Sync()
}

// setBits has the data be read that stands under clear bits.
func (r *repairer) setBits(img *Image) error {
	for block, e := range img.bat.used() {
		if int64(e)*SectorSize+img.lay.stored() > img.lay.limit {
			continue
		}
		bm, err := img.bitmap(block, e)
		if err != nil || bm == nil {
			if err != nil {
				return err
			}
			continue
		}
		changed := false
		err = hiddenData(img.r, bm.bits, int64(e)*SectorSize+img.lay.bitmapSize, img.lay.blockSize, func(s int64) bool {
			setBits(bm.bits, s, s+1)
			changed = true
			return true
		})
		if err != nil {
			return err
		}
		if !changed {
			continue
		}
		if err := r.write(bm.bits, int64(e)*SectorSize); err != nil {
			return err
		}
		r.did("block %d: the bits of sectors that hold data were set", block)
	}
	return nil
}

// hiddenData calls found with the sectors of a block, whose data starts at data,
// that are not zero under a clear bit, until it returns false.
func hiddenData(r io.ReaderAt, bits []byte, data, blockSize int64, found func(sector int64) bool) error {
	buf := make([]byte, min(blockSize, 64<<10))
	sectors := blockSize / SectorSize
	for s := int64(0); s < sectors; {
		end, set := bitmapRun(bits, s, sectors)
		if set {
			s = end
			continue
		}
		b := buf[:min(int64(len(buf)), (end-s)*SectorSize)]
		if err := readFull(r, b, data+s*SectorSize); err != nil {
			return err
		}
		for ; len(b) > 0; b = b[SectorSize:] {
			if [SectorSize]byte(b) != [SectorSize]byte{} && !found(s) {
				return nil
			}
			s++
		}
	}
	return nil
}

// leaks gives space back that nothing refers to.
func (r *repairer) leaks(img *Image) error {
	counts, err := Check(r.f, r.fileSize(), nil, func(Finding) {})
	if err != nil || counts.Leaked == 0 || counts.Type == Fixed {
		return err
	}
	if !img.bat.sane(&img.lay) {
		return nil // what is in use is not certain
	}
	if !r.o.Force {
		at, err := img.strangeFooter()
		if err != nil {
			return err
		}
		if at >= 0 {
			return nil
		}
	}
	if err := img.reclaim(context.Background(), nil); err != nil {
		return err
	}
	after, err := Check(r.f, r.fileSize(), nil, func(Finding) {})
	if n := counts.Leaked - after.Leaked; n > 0 {
		r.did("space for %d blocks that nothing referred to was given back", n)
	}
	return err
}

// fileSize is the length of the file now.
func (r *repairer) fileSize() int64 {
	if size, err := disk.FileSize(r.f); err == nil && !disk.IsDevice(r.f) {
		return size
	}
	return r.size
}

// strangeFooter looks for a footer in the space that nothing refers to, other
// than a stale one of this image: it may be that of another image. It returns
// where it is, or -1.
func (img *Image) strangeFooter() (int64, error) {
	b := make([]byte, 64<<10)
	for _, g := range img.gaps() {
		if g[1]-g[0] < img.lay.stored() {
			continue
		}
		for off := g[0]; off < g[1]; {
			p := b[:min(int64(len(b)), g[1]-off)]
			if err := readFull(img.r, p, off); err != nil {
				return -1, err
			}
			for i := 0; i+footerSize <= len(p); i += SectorSize {
				f := DecodeFooter((*[footerSize]byte)(p[i:]))
				if f.valid() && f.UniqueID != img.footer.UniqueID {
					return off + int64(i), nil
				}
			}
			off += int64(len(p))
		}
	}
	return -1, nil
}
