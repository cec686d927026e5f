package vhd

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// CheckOptions say how to check an image.
type CheckOptions struct {
	// SizeRule overrides which field is the disk's size.
	SizeRule SizeRule
	// Deep also looks for data under clear bits of sector bitmaps, and for blocks
	// whose data is not aligned to 4 KiB. It reads all that is not marked as
	// written.
	Deep bool
	// Device says that the image stands on a device, of which the end may be
	// unused.
	Device bool
	// Chain also opens the parents of a differencing image, which must be in an
	// [os.File] then, and checks each of them. Parents says where they may be.
	Chain   bool
	Parents disk.ParentSearch
	// NoLock opens parents even if another process writes to them.
	NoLock bool
	// Now is what time stamps are compared with; zero means the present.
	Now time.Time
}

// Counts sum up what Check has seen.
type Counts struct {
	Type      DiskType // 0 if no footer could be believed
	Size      int64    // virtual, bytes
	BlockSize int64    // 0 for a fixed disk
	Blocks    int64    // of the disk
	Allocated int64    // blocks with a place in the file
	// Fragmented blocks do not stand behind the block before them that has a
	// place.
	Fragmented int64
	// Leaked is the number of blocks that would fit the unused spaces of the
	// file that are as large as a block.
	Leaked int64
	End    int64 // of what is in use in the file, the footer included

	Errors, Warnings int64 // findings
}

// Check examines the image in the first size bytes of r and calls found for
// each finding. It reads footers, header and BAT, and changes nothing. It goes
// on after an error as far as what it found can be believed.
//
// The error is ErrNotVHD if there is no mark of a VHD, or one of reading; what
// is wrong with the image itself is told by the findings.
func Check(r io.ReaderAt, size int64, o *CheckOptions, found func(Finding)) (Counts, error) {
	if o == nil {
		o = &CheckOptions{}
	}
	c := checker{r: r, size: size, o: *o, found: found}
	if c.o.Now.IsZero() {
		c.o.Now = time.Now()
	}
	err := c.run()
	return c.n, err
}

type checker struct {
	r     io.ReaderAt
	size  int64
	o     CheckOptions
	found func(Finding)
	n     Counts
}

func (c *checker) add(fs ...Finding) {
	for _, f := range fs {
		switch f.Severity {
		case Error:
			c.n.Errors++
		case Warning:
			c.n.Warnings++
		}
		c.found(f)
	}
}

func (c *checker) run() error {
	fs, err := locateFooters(c.r, c.size)
	if err != nil {
		return err
	}
	if !fs.trailing.marked() && !fs.leading.marked() {
		return ErrNotVHD
	}
	if rest := c.size % SectorSize; rest != 0 && rest != shortFooterSize {
		c.add(Finding{
			ID: "file-length", Severity: Warning, Offset: c.size - rest, Field: "length of the file",
			Got: fmt.Sprint(c.size), Want: "a multiple of 512 (or 511 bytes more)",
		})
	}
	footer := c.checkFooters(&fs)
	if footer == nil {
		return nil
	}
	c.n.Type = footer.Type
	switch footer.Type {
	case Fixed:
		c.checkFixed(footer)
		return nil
	case Dynamic, Differencing:
		return c.checkDynamic(footer, footer == &fs.trailing)
	}
	return nil
}

// checkFooters examines both copies and returns the one to go on with, if
// there is one.
func (c *checker) checkFooters(fs *footers) *footerCopy {
	footer, err := fs.ignoringChecksum()
	if err != nil {
		for _, x := range []*footerCopy{&fs.trailing, &fs.leading} {
			if x.marked() {
				c.add(x.validate("footer")...)
			}
		}
		if c.n.Errors == 0 { // each copy is right in itself, as one of a fixed disk at the start is
			c.add(missingFooter(fs.trailing.off))
		}
		return nil
	}
	if footer == &fs.leading {
		c.add(missingFooter(fs.trailing.off))
	}
	c.add(footer.validate("footer")...)
	if t := footer.Timestamp.Time(); t.After(c.o.Now.Add(time.Minute)) {
		c.add(Finding{
			ID: "timestamp", Severity: Warning, Offset: footer.off + 24, Field: "footer: time stamp",
			Got: t.Format(time.RFC3339), Want: "a time that has passed",
		})
	}
	if footer.Type == Fixed || footer == &fs.leading {
		return footer
	}
	switch l := &fs.leading; {
	case !l.valid():
		c.add(Finding{
			ID: "leading-footer", Severity: Warning, Offset: 0, Field: "copy of the footer at the start of the file",
			Got: "none that is valid", Want: "the footer's bytes",
		})
	case !l.same(&footer.Footer):
		c.add(Finding{
			ID: "footers-differ", Severity: Warning, Offset: 0, Field: "copy of the footer at the start of the file",
			Got: "other contents than the footer's", Want: "the footer's bytes",
		})
	}
	return footer
}

func missingFooter(off int64) Finding {
	return Finding{
		ID: "trailing-footer", Severity: Error, Offset: off, Field: "footer at the end of the file",
		Got: "none that is valid", Want: "a footer",
	}
}

func (c *checker) checkFixed(f *footerCopy) {
	size, found := f.virtualSize(c.o.SizeRule, f.off)
	c.add(found...)
	c.n.Size, c.n.End = size, f.off+footerSize
	if len(found) == 0 && f.CurrentSize < uint64(f.off) {
		c.add(Finding{
			ID: "fixed-slack", Severity: Warning, Offset: f.off + 48, Field: "footer: current size",
			Got: fmt.Sprint(f.CurrentSize), Want: fmt.Sprintf("%d, what stands before the footer", f.off),
		})
	}
}

func (c *checker) checkDynamic(f *footerCopy, trailing bool) error {
	limit := c.size
	if trailing {
		limit = f.off
	}
	h, found, err := readHeader(c.r, f, limit)
	if err != nil {
		return err
	}
	c.add(found...)
	if refusal(found, true) != nil {
		return nil
	}
	found = h.validateTable(f.DataOffset, limit)
	c.add(found...)
	if len(found) > 0 {
		return nil
	}
	blockSize := int64(h.BlockSize)
	room := int64(h.MaxTableEntries) * blockSize
	size, found := f.virtualSize(c.o.SizeRule, room)
	c.add(found...)
	if len(found) > 0 {
		size = room // what can be reached
	}
	blocks := blocksHeld(&f.Footer, &h, size)
	c.n.Size, c.n.BlockSize, c.n.Blocks = size, blockSize, blocks
	if int64(h.MaxTableEntries) > blocks {
		c.add(Finding{
			ID: "max-table-entries", Severity: Warning, Offset: int64(f.DataOffset) + 28,
			Field: "dynamic disk header: max table entries", Got: fmt.Sprint(h.MaxTableEntries),
			Want: fmt.Sprintf("%d, as many as the disk has blocks", blocks),
		})
	}
	lay := layoutOf(&f.Footer, &h, limit)
	t, err := readBAT(c.r, lay.batOff, blocks)
	if err != nil {
		return err
	}
	var whole []byte // bits of the blocks that are said to be written whole
	m, err := readBatmap(c.r, &f.Footer, lay.batEnd(), c.size)
	if err != nil {
		return err
	}
	if m != nil {
		bits, found, err := m.validate(c.r, &lay, t)
		if err != nil {
			return err
		}
		c.add(found...)
		whole = bits
		lay.batmap = m.regions(&lay, t)
	}
	if f.Type == Differencing {
		c.add(h.validateParent(&f.Footer, &lay, t, c.size)...)
	}
	lay.addLocators(&f.Footer, &h, t, c.size)
	t.validate(&lay, func(f Finding) bool {
		c.add(f)
		return true
	})
	if err := c.checkExcess(&lay, blocks, int64(h.MaxTableEntries)); err != nil {
		return err
	}
	c.checkPlaces(t, &lay, trailing)
	if c.o.Deep {
		err = c.checkBlocks(f.Type, t, &lay, m, whole)
	}
	if f.Type == Differencing && c.o.Chain && err == nil {
		err = c.checkParents()
	}
	return err
}

// checkBlocks looks into the blocks. Of those with a bit in whole, of the batmap m,
// all sectors must be written.
func (c *checker) checkBlocks(typ DiskType, t bat, lay *layout, m *batmap, whole []byte) error {
	bits := make([]byte, lay.bitmapSize)
	unaligned, first := 0, int64(0)
	for i, e := range t.used() {
		start := int64(e) * SectorSize
		if start+lay.stored() > c.size {
			continue
		}
		if (start+lay.bitmapSize)%dataAlign != 0 {
			if unaligned == 0 {
				first = i
			}
			unaligned++
		}
		if err := readFull(c.r, bits, start); err != nil {
			return fmt.Errorf("sector bitmap of block %d: %w", i, err)
		}
		if whole != nil && hasBit(whole, i) && !allBits(bits, lay.blockSize/SectorSize) {
			c.add(m.odd("batmap-bitmap", Warning, int64(m.offset)-m.at+int64(i/8), fmt.Sprintf("bit of block %d", i), "set", "clear: not all sectors of the block are written"))
		}
		if typ == Differencing {
			continue // under a clear bit there may be what was not acknowledged
		}
		err := hiddenData(c.r, bits, start+lay.bitmapSize, lay.blockSize, func(s int64) bool {
			c.add(Finding{
				ID: "bitmap-data", Severity: Warning, Offset: start + lay.bitmapSize + s*SectorSize,
				Field: fmt.Sprintf("sector %d of block %d, and perhaps others of it", s, i), Got: "data under a clear bit", Want: "zeros",
			})
			return false
		})
		if err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
	}
	if unaligned > 0 {
		c.add(Finding{
			ID: "alignment", Severity: Warning, Offset: int64(t.load(first))*SectorSize + lay.bitmapSize,
			Field: fmt.Sprintf("data of %d blocks", unaligned), Got: "places that are not multiples of 4096", Want: "aligned places",
		})
	}
	return nil
}

// checkExcess looks at the entries behind the disk's end.
func (c *checker) checkExcess(lay *layout, blocks, entries int64) error {
	buf := make([]byte, 1<<16)
	first, used := int64(-1), 0
	for i := blocks; i < entries; {
		b := buf[:min(int64(len(buf)), (entries-i)*4)]
		if err := readFull(c.r, b, lay.batOff+i*4); err != nil {
			return fmt.Errorf("BAT: %w", err)
		}
		for ; len(b) > 0; b = b[4:] {
			if binary.BigEndian.Uint32(b) != unused {
				if used == 0 {
					first = i
				}
				used++
			}
			i++
		}
	}
	if used > 0 {
		c.add(Finding{
			ID: "bat-excess", Severity: Warning, Offset: lay.batOff + first*4,
			Field: fmt.Sprintf("BAT entries behind the disk's end, from %d on", first),
			Got:   fmt.Sprintf("%d in use", used), Want: "all unused (0xffffffff)",
		})
	}
	return nil
}

// checkPlaces counts blocks, and the unused spaces between them.
func (c *checker) checkPlaces(t bat, lay *layout, trailing bool) {
	stored := lay.stored()
	last := int64(-1) // place of the block before, bytes
	for _, e := range t.used() {
		start := int64(e) * SectorSize
		c.n.Allocated++
		if last >= 0 {
			// Blocks may be padded to 4 KiB, and stand behind a footer that moved on.
			if gap := start - last - stored; gap < 0 || gap > dataAlign+footerSize {
				c.n.Fragmented++
			}
		}
		last = start
	}
	end := int64(0)
	unusedUpTo := func(start int64) {
		if gap := min(start, lay.limit) - end; gap >= stored {
			n := gap / stored
			c.n.Leaked += n
			c.found(Finding{
				ID: "leak", Severity: Leak, Offset: end, Field: "space that nothing refers to",
				Got: fmt.Sprintf("%d bytes, room for %d blocks", gap, n), Want: "none",
			})
		}
	}
	for start, stop := range t.spans(lay) {
		unusedUpTo(start)
		end = max(end, stop)
	}
	if !c.o.Device {
		unusedUpTo(lay.limit)
		end = max(end, lay.limit)
	}
	c.n.End = end
	if trailing {
		c.n.End = max(end, lay.limit+footerSize)
	}
}
