package vhd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// CheckOptions control a check. The zero value checks the image without its parents and without
// the contents of its blocks.
type CheckOptions struct {
	// SizeRule overrides which footer field is the size of the disk.
	SizeRule SizeRule
	// Deep also searches for data under clear bits of sector bitmaps, and for blocks whose data
	// is not aligned to 4 KiB. It reads the sectors under clear bits, each part of the file
	// once, and skips holes.
	Deep bool
	// Device says that the image is on a device, whose end may be unused.
	Device bool
	// Chain also opens the parents of a differencing image, and checks each of them. The image
	// must be in an [os.File]. Parents describes the search for them.
	Chain   bool
	Parents disk.ParentSearch
	// NoLock opens parents even if another process writes to them.
	NoLock bool
	// Opened, if set, is the same unchanged image. A BAT that opening has validated is not
	// examined again.
	Opened *Image
	// Now is the time that time stamps are compared with; zero means the current time.
	Now time.Time
	// Progress, if set, is called by Deep with the bytes of blocks that are done, and their
	// total.
	Progress disk.Progress
}

// Counts are the totals of a check.
type Counts = disk.CheckCounts

// Checker examines one image and changes nothing. It reads the footers, the header, the BAT,
// and unreferenced space until it finds data there. After an error it goes on as long as the
// structures it depends on are credible.
//
// Memory and time are proportional to the contents of the file, whatever sizes it claims. A
// Checker is used once, by one goroutine.
type Checker struct {
	r    io.ReaderAt
	size int64
	o    CheckOptions
	typ  DiskType
	id   uuid.UUID
	n    Counts
	d    diagnosis

	batOff  int64
	orphans *orphanIndex // nil until a BAT entry is wrong

	ctx   context.Context
	yield func(Finding, error) bool
}

// NewChecker returns a Checker of the image in the first size bytes of r. A nil o
// means the zero value. Nothing is read yet.
func NewChecker(r io.ReaderAt, size int64, o *CheckOptions) *Checker {
	c := &Checker{r: r, size: size}
	if o != nil {
		c.o = *o
	}
	if c.o.Now.IsZero() {
		c.o.Now = time.Now()
	}
	return c
}

// Counts returns the totals of what Findings has examined. They are complete when Findings has
// ended without an error.
func (c *Checker) Counts() Counts { return c.n }

// Diagnosis describes the damage in a few sentences, the most important first. It is empty for
// an image without errors and without unreferenced data. It is complete when Findings has ended
// without an error.
func (c *Checker) Diagnosis() []string { return c.d.sentences(c.n, c.typ) }

// Type returns the disk type, or 0 until Findings has found a valid footer.
func (c *Checker) Type() DiskType { return c.typ }

// errStopped says that the caller has broken off the iteration over the findings.
var errStopped = errors.New("check was broken off")

// Findings examines the image and yields each fault as it is found. An error ends the
// iteration: ErrNotVHD if the file has no mark of a VHD, ctx.Err(), or a read error. Faults of
// the image itself are Findings, not errors. Breaking off the iteration ends the check.
func (c *Checker) Findings(ctx context.Context) iter.Seq2[Finding, error] {
	return func(yield func(Finding, error) bool) {
		c.ctx, c.yield = ctx, yield
		if err := c.run(); err != nil && !errors.Is(err, errStopped) {
			yield(Finding{}, err)
		}
	}
}

// add yields findings, and returns the reason to end the check, or nil.
func (c *Checker) add(fs ...finding) error {
	for _, f := range fs {
		if err := c.report(f.Finding); err != nil {
			return err
		}
	}
	return c.ctx.Err()
}

func (c *Checker) report(f Finding) error {
	f.Count = f.Faults()
	for i, r := range f.Disk { // the last block may end past the disk
		f.Disk[i].N = max(0, min(r.N, c.n.Size-r.Off))
	}
	c.d.add(f)
	switch f.Severity {
	case Error:
		c.n.Errors += f.Count
	case Warning:
		c.n.Warnings += f.Count
	}
	if !c.yield(f, nil) {
		return errStopped
	}
	return nil
}

func (c *Checker) run() error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	fs, err := locateFooters(c.r, c.size)
	if err != nil {
		return err
	}
	if !fs.trailing.marked() && !fs.leading.marked() && !fs.header {
		return c.checkLostFixed()
	}
	start, err := fs.searchSecondImage(c.ctx, c.r)
	if err != nil {
		return err
	}
	if start > 0 {
		return c.add(fs.twoImages(start))
	}
	moved, err := fs.unaligned(c.r)
	if err == nil {
		err = c.add(moved...)
	}
	if err != nil {
		return err
	}
	if rest := c.size % SectorSize; rest != 0 && rest != shortFooterSize && len(moved) == 0 {
		f := finding{Finding: Finding{
			ID: "file-length", Severity: Warning, Offset: c.size - rest, Field: "length of the file",
			Got: fmt.Sprint(c.size), Want: "a multiple of 512 (or 511 bytes more)",
		}}
		if err := c.add(*f.number(uint64(c.size), multipleOf(SectorSize))); err != nil {
			return err
		}
	}
	footer, found := c.believed(&fs)
	if footer == nil && fs.header && !fs.trailing.marked() && !fs.leading.marked() {
		if footer, found, err = c.proposeFooter(&fs); err != nil {
			return err
		}
	}
	if err := c.add(found...); err != nil || footer == nil {
		return err
	}
	c.typ, c.id = footer.Type, footer.UniqueID
	switch footer.Type {
	case Fixed:
		return c.checkFixed(footer)
	case Dynamic, Differencing:
		return c.checkDynamic(footer, footer == &fs.trailing)
	}
	return nil
}

// believed examines both copies of the footer. It returns the copy to use, or nil, and the
// findings about both.
func (c *Checker) believed(fs *footers) (*footerCopy, []finding) {
	var found []finding
	footer, err := fs.ignoringChecksum()
	if err != nil {
		for _, x := range []*footerCopy{&fs.trailing, &fs.leading} {
			if x.marked() {
				found = append(found, x.validate()...)
			}
		}
		if refusal(found, false) == nil { // the only footer is a copy, of a fixed disk
			found = append(found, copyOfFixed(fs.trailing.off))
		}
		return nil, found
	}
	if footer == &fs.leading {
		found = append(found, missingFooter(fs.trailing.off))
	}
	found = append(found, footer.validate()...)
	if t := footer.Timestamp.Time(); t.After(c.o.Now.Add(time.Minute)) {
		found = append(found, finding{Finding: Finding{
			ID: "timestamp", Severity: Warning, Offset: footer.off + 24, Field: "footer: time stamp",
			Got: t.Format(time.RFC3339), Want: "a time that has passed",
		}})
	}
	if footer.Type == Fixed || footer == &fs.leading {
		return footer, found
	}
	if fs.twoIDs() {
		return footer, append(found, finding{harmless: true, Finding: Finding{
			ID: "unique-ids-differ", Severity: Error, Offset: fs.leading.off + 68, Field: "copy of the footer at the start of the file: unique id",
			Got: fs.leading.UniqueID.String(), Want: footer.UniqueID.String() + ", as in the trailing footer",
		}})
	}
	// qemu and others read only this copy.
	odd := func(id, got string) {
		found = append(found, finding{harmless: true, Finding: Finding{
			ID: id, Severity: Error, Offset: 0, Field: "copy of the footer at the start of the file", Got: got, Want: "the bytes of the trailing footer",
		}})
	}
	switch l := &fs.leading; {
	case !l.valid():
		odd("leading-footer", "no valid footer")
	case !l.same(&footer.Footer):
		odd("footers-differ", "contents that differ from the trailing footer")
	}
	return footer, found
}

func (c *Checker) checkFixed(f *footerCopy) error {
	size, found := f.virtualSize(c.o.SizeRule, f.off)
	c.n.Size, c.n.End = size, f.off+footerSize
	if len(found) == 0 && f.CurrentSize < uint64(f.off) {
		slack := finding{Finding: Finding{
			ID: "fixed-slack", Severity: Warning, Offset: f.off + 48, Field: "footer: current size",
			Got: fmt.Sprint(f.CurrentSize), Want: fmt.Sprintf("%d, the number of bytes before the footer", f.off),
		}}
		found = append(found, *slack.number(f.CurrentSize, oneOf(uint64(f.off))))
	}
	return c.add(found...)
}

func (c *Checker) checkDynamic(f *footerCopy, trailing bool) error {
	limit := c.size
	if trailing {
		limit = f.off
	}
	h, found, err := readHeader(c.r, f, limit)
	if err == nil {
		err = c.proposeHeader(f, found, &h, limit)
	}
	if err == nil {
		err = c.add(found...)
	}
	if err != nil || refusal(found, true) != nil {
		return err
	}
	found = h.validateTable(f.DataOffset, limit)
	if err := c.add(found...); err != nil || len(found) > 0 {
		return err
	}
	blockSize := int64(h.BlockSize)
	covered := int64(h.MaxTableEntries) * blockSize
	size, found := f.virtualSize(c.o.SizeRule, covered)
	if err := c.add(found...); err != nil {
		return err
	}
	if len(found) > 0 {
		size = covered // as much as the table reaches
	}
	blocks := blocksHeld(&f.Footer, &h, size)
	c.n.Size, c.n.BlockSize, c.n.Blocks = size, blockSize, blocks
	if int64(h.MaxTableEntries) > blocks {
		f := finding{Finding: Finding{
			ID: "max-table-entries", Severity: Warning, Offset: int64(f.DataOffset) + 28,
			Field: "dynamic disk header: max table entries", Got: fmt.Sprint(h.MaxTableEntries),
			Want: fmt.Sprintf("%d, the number of blocks of the disk", blocks),
		}}
		if err := c.add(*f.number(uint64(h.MaxTableEntries), oneOf(uint64(blocks)))); err != nil {
			return err
		}
	}
	lay := layoutOf(&f.Footer, &h, limit)
	c.batOff = lay.batOff
	t, validated := c.validatedBAT(&lay, blocks)
	if !validated {
		if t, err = readBAT(c.r, lay.batOff, blocks); err != nil {
			return err
		}
	}
	m, err := readBatmap(c.r, &f.Footer, lay.batEnd(), c.size)
	if err != nil {
		return err
	}
	var whole *batmap // nil unless the batmap can be read
	if m != nil {
		inPlace, found, err := m.validate(c.r, &lay, t)
		if err == nil {
			err = c.add(found...)
		}
		if err != nil {
			return err
		}
		if inPlace {
			whole = m
		}
		lay.batmap = m.regions(&lay, t)
	}
	if f.Type == Differencing {
		if err := c.add(h.validateParent(&f.Footer, &lay, t, c.size)...); err != nil {
			return err
		}
	}
	lay.addLocators(&f.Footer, &h, t, c.size)
	if trailing {
		copies, err := lay.imageCopy(c.r, f, t)
		if err == nil {
			err = c.add(copies...)
		}
		if err != nil || len(copies) > 0 {
			return err
		}
	}
	if trailing && limit%SectorSize == 0 && !c.o.Device {
		found, err := t.cutInside(c.r, &lay)
		if err == nil {
			err = c.add(found...)
		}
		if err != nil {
			return err
		}
	}
	if !validated {
		err = c.checkEntries(t, &lay, &Image{r: c.r, footer: f.Footer, header: h, lay: lay, bat: t, size: size}, trailing)
	}
	if err == nil {
		err = c.checkExcess(&lay, blocks, int64(h.MaxTableEntries))
	}
	if err == nil {
		err = c.checkSpace(t, &lay, trailing)
	}
	if err == nil && c.o.Deep {
		err = c.checkBlocks(f.Type, t, &lay, whole)
	}
	if err == nil && f.Type == Differencing && c.o.Chain {
		err = c.checkParents()
	}
	return err
}

// validatedBAT returns the BAT of the opened image, if it is that of the layout, and opening has
// refused none of its entries.
func (c *Checker) validatedBAT(lay *layout, blocks int64) (bat, bool) {
	img := c.o.Opened
	if img == nil || img.f != nil || img.salvage != nil || img.bat.len() != blocks ||
		img.lay.batOff != lay.batOff || img.lay.limit != lay.limit || img.lay.blockSize != lay.blockSize {
		return bat{}, false
	}
	return img.bat, true
}

// checkEntries validates the BAT entries, and proposes others for those that are wrong.
func (c *Checker) checkEntries(t bat, lay *layout, img *Image, trailing bool) error {
	proposed, err := rebuildBAT(c.ctx, img, int64(img.header.MaxTableEntries), trailing, batSectors{})
	if err != nil {
		return err
	}
	t.validate(lay, func(f finding) bool {
		proposeEntries(&f, proposed, lay.blockSize)
		if f.Note == "" && (f.ID == "bat-beyond-end" || f.ID == "bat-over-metadata") {
			f.Note, err = c.candidates(&f)
		}
		if err == nil {
			err = c.add(f)
		}
		return err == nil
	})
	return err
}

// checkExcess examines the entries past the end of the disk.
func (c *Checker) checkExcess(lay *layout, blocks, entries int64) error {
	x, err := scanExcess(c.ctx, c.r, lay.batOff, blocks, entries, nil)
	if err != nil || x.used == 0 {
		return err
	}
	f := finding{Finding: Finding{
		ID: "bat-excess", Severity: Warning, Offset: lay.batOff + x.first*4,
		Field: fmt.Sprintf("BAT entries past the end of the disk, from %d on", x.first),
		Got:   fmt.Sprintf("%d in use", x.used), Want: "all unused (0xffffffff)",
	}}
	return c.add(*f.number(uint64(x.used), oneOf(0)))
}

// checkSpace counts the blocks, and reports the unused space between them.
func (c *Checker) checkSpace(t bat, lay *layout, trailing bool) error {
	stored := lay.stored()
	last := int64(-1) // offset of the block before
	inOrder, repeats, aligned := true, t.repeats(), true
	for i, e := range t.usedOnce() {
		start := int64(e) * SectorSize
		n := int64(1)
		if repeats {
			n = t.alike(i)
		}
		c.n.Allocated += n
		c.n.Fragmented += n - 1 // repeated entries
		if last >= 0 {
			// Blocks may be padded to 4 KiB, and may follow a footer that has moved.
			if gap := start - last - stored; gap < 0 || gap > dataAlign+footerSize {
				c.n.Fragmented++
			}
		}
		inOrder = inOrder && start >= last
		aligned = aligned && (start+lay.bitmapSize)%dataAlign == 0
		last = start
	}
	end := int64(0)
	for start, stop := range t.spansOf(lay, inOrder) {
		gap := min(start, lay.limit) - end
		// If the data of all blocks is aligned, the space after the BAT may be a little larger
		// than a block.
		if aligned && last >= 0 && gap < lay.nextBlockOffset(end)-end+stored {
			gap = 0
		}
		if gap >= stored {
			if err := c.leaked(end, gap, stored); err != nil {
				return err
			}
		}
		end = max(end, stop)
	}
	if !c.o.Device {
		if gap := lay.limit - end; gap >= stored {
			if err := c.leaked(end, gap, stored); err != nil {
				return err
			}
		}
		end = max(end, lay.limit)
	}
	c.n.End = end
	if trailing {
		c.n.End = max(end, lay.limit+footerSize)
	} else if !c.o.Device {
		c.n.Missing = c.cutOff(t, lay)
	}
	return nil
}

// cutOff returns the number of bytes that are missing at the end of a file without a trailing
// footer, or 0. If the blocks would need much less space than the entries claim, an entry is
// wrong, and nothing shows that the file was longer.
func (c *Checker) cutOff(t bat, lay *layout) int64 {
	p := lay.placement()
	stored := lay.stored()
	end := max(p.regionsEnd, t.end(stored))
	if end > p.regionsEnd+(c.n.Allocated+c.n.Leaked)*(stored+dataAlign)+dataAlign+footerSize {
		return 0
	}
	return max(0, end+footerSize-c.size)
}

// leaked reports n unreferenced bytes of the file.
func (c *Checker) leaked(off, n, stored int64) error {
	c.n.Leaked += n / stored
	f := Finding{
		ID: "leak", Severity: Leak, Offset: off, Field: "unreferenced space",
		Got: fmt.Sprintf("%d bytes, space for %d blocks", n, n/stored), Want: "none", Bytes: n,
		Text: fmt.Sprintf("%s at offset %d are not referenced by any BAT entry", bytesText(n), off),
	}
	data := false
	err := scanData(c.ctx, c.r, filesystem.NewHoleMap(c.r), off, off+n/SectorSize*SectorSize, func(b []byte, _ int64) bool {
		for ; len(b) >= SectorSize && !data; b = b[SectorSize:] {
			x := DecodeFooter((*[footerSize]byte)(b))
			// A footer that has moved leaves its old copy in the file.
			data = [SectorSize]byte(b) != [SectorSize]byte{} && !(x.valid() && x.UniqueID == c.id)
		}
		return !data
	})
	if data {
		c.n.Orphaned += n / stored
		f.Got += "; it holds data, which may be lost blocks"
		f.Text += "; they hold data, which may be lost blocks"
	}
	if err != nil {
		return err
	}
	return c.add(finding{Finding: f})
}
