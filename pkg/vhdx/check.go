package vhdx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/bits"
	"os"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// CheckOptions say what to check. The zero value checks the image without its parents.
type CheckOptions struct {
	Device  bool              // the image is on a device, which may be longer than the image
	Chain   bool              // also check the parents; the image must be an [os.File]
	Parents disk.ParentSearch // where to search for parents
	NoLock  bool              // open parents even if another process writes to them
}

// Checker examines one image without changing it. Use it once, from one goroutine.
type Checker struct {
	r    io.ReaderAt
	size int64
	o    CheckOptions
	n    disk.CheckCounts
	lost bool // the metadata does not lead to the BAT

	firstBlock int64 // lowest offset of a block in the file

	ctx   context.Context
	yield func(disk.Finding, error) bool
	file  string // path of the parent that is checked, or ""
}

// NewChecker returns a Checker of the image in the first size bytes of r. A nil o means the zero
// value. Nothing is read yet.
func NewChecker(r io.ReaderAt, size int64, o *CheckOptions) *Checker {
	c := &Checker{r: r, size: size}
	if o != nil {
		c.o = *o
	}
	return c
}

// Counts implements [disk.Checker].
func (c *Checker) Counts() disk.CheckCounts { return c.n }

// Diagnosis implements [disk.Checker].
func (c *Checker) Diagnosis() []string {
	switch {
	case c.n.Errors == 0:
		return nil
	case c.lost:
		return []string{"The metadata is damaged, so the blocks cannot be located."}
	case c.n.Missing > 0:
		return []string{fmt.Sprintf("At least %d bytes are missing at the end of the file.", c.n.Missing)}
	}
	return nil
}

// errStopped ends the check when the loop over the findings has ended.
var errStopped = errors.New("check was stopped")

// Findings implements [disk.Checker]. The error is ErrNotVHDX if the file is no VHDX.
func (c *Checker) Findings(ctx context.Context) iter.Seq2[disk.Finding, error] {
	return func(yield func(disk.Finding, error) bool) {
		c.ctx, c.yield = ctx, yield
		if err := c.run(); err != nil && !errors.Is(err, errStopped) {
			yield(disk.Finding{}, err)
		}
	}
}

// add yields findings. An error ends the check.
func (c *Checker) add(found ...finding) error {
	for _, f := range found {
		f.File = c.file
		f.Count = f.Faults()
		switch f.Severity {
		case disk.Error:
			c.n.Errors += f.Count
		case disk.Warning:
			c.n.Warnings += f.Count
		}
		if !c.yield(f.Finding, nil) {
			return errStopped
		}
	}
	return c.ctx.Err()
}

func (c *Checker) run() error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	s, found, err := readStructures(c.r, c.size)
	if err != nil {
		return err
	}
	if err := c.add(found...); err != nil {
		return err
	}
	if s.bat == nil {
		c.lost = true
		return nil
	}
	c.n.Size, c.n.BlockSize, c.n.Blocks = s.meta.Size, s.meta.BlockSize, s.bat.blocks
	if err := c.checkBAT(s); err != nil {
		return err
	}
	if c.o.Chain && s.meta.HasParent && refusal(found) == nil {
		return c.checkParents()
	}
	return nil
}

// maxTrackedFile is the length of a file up to which overlaps and leaks are detected. The largest
// image is shorter.
const maxTrackedFile = 128 << 40

// usage marks each MiB of a file that is used.
type usage []uint64

func newUsage(size int64) usage {
	units := (min(size, maxTrackedFile) + mib - 1) / mib
	return make(usage, (units+63)/64)
}

// mark marks [start, end), and reports whether a part of it was marked.
func (u usage) mark(start, end int64) (twice bool) {
	for i := start / mib; i < (end+mib-1)/mib && i/64 < int64(len(u)); i++ {
		bit := uint64(1) << (i % 64)
		twice = twice || u[i/64]&bit != 0
		u[i/64] |= bit
	}
	return twice
}

// unmarked yields the ranges of [0, size) that are not marked.
func (u usage) unmarked(size int64) iter.Seq2[int64, int64] {
	return func(yield func(start, end int64) bool) {
		units := size / mib // a part of a MiB at the end holds no block
		start := int64(-1)
		for i := int64(0); i < min(units, int64(len(u))*64); i++ {
			if i%64 == 0 && start < 0 && bits.OnesCount64(u[i/64]) == 64 {
				i += 63
				continue
			}
			used := u[i/64]>>(i%64)&1 != 0
			if !used && start < 0 {
				start = i
			}
			if used && start >= 0 {
				if !yield(start*mib, i*mib) {
					return
				}
				start = -1
			}
		}
		if start >= 0 {
			yield(start*mib, min(units, int64(len(u))*64)*mib)
		}
	}
}

// faultRun merges the faults of consecutive entries to one finding.
type faultRun struct {
	c     *Checker
	first *finding
	count int64
	last  int64 // index of the last entry
}

// add adds the fault of entry i, which affects [off, off+n) of the disk.
func (r *faultRun) add(i int64, f *finding, off, n int64) error {
	if r.first != nil && r.first.ID == f.ID && r.last == i-1 {
		r.count++
		r.last = i
		if k := len(r.first.Disk); n > 0 && k > 0 {
			r.first.Disk[k-1].N += n
		}
		return nil
	}
	if err := r.flush(); err != nil {
		return err
	}
	r.first, r.count, r.last = f, 1, i
	if n > 0 {
		f.Disk = []disk.Range{{Off: off, N: n}}
	}
	return nil
}

func (r *faultRun) flush() error {
	if r.first == nil {
		return nil
	}
	f := *r.first
	f.Count = r.count
	r.first = nil
	return r.c.add(f)
}

// checkBAT examines all entries, and the unreferenced space.
func (c *Checker) checkBAT(s *structures) error {
	c.firstBlock = s.size
	used := newUsage(s.size)
	for _, r := range s.regions {
		used.mark(r.start, r.end)
		c.n.End = max(c.n.End, r.end)
	}
	run := &faultRun{c: c}
	previous := int64(-1)
	for i := range s.bat.n {
		if i%batPage == 0 {
			if err := c.ctx.Err(); err != nil {
				return err
			}
		}
		e, err := s.bat.entry(i)
		if err != nil {
			return err
		}
		if e == 0 {
			if s.meta.LeaveAllocated && !s.meta.HasParent && !s.bat.isBitmap(i) {
				f := newFinding("bat-fixed", disk.Warning, s.bat.off+i*8, fmt.Sprintf("BAT entry %d (block %d): state", i, s.bat.block(i)), "6, because the disk is fixed", "0")
				if err := run.add(i, &f, 0, 0); err != nil {
					return err
				}
			}
			continue
		}
		if err := c.checkEntry(s, used, run, i, e, &previous); err != nil {
			return err
		}
	}
	if err := run.flush(); err != nil {
		return err
	}
	return c.checkLeaks(s, used)
}

// checkEntry examines one entry that is not zero.
func (c *Checker) checkEntry(s *structures, used usage, run *faultRun, i int64, e batEntry, previous *int64) error {
	at := s.bat.off + i*8
	length, need := int64(mib), int64(mib)
	diskOff, diskLen := int64(0), int64(0)
	var fault *finding
	if s.bat.isBitmap(i) {
		fault = s.validateBitmapEntry(i, e)
	} else {
		block := s.bat.block(i)
		if block >= s.bat.blocks { // the last chunk of a child has entries after the disk
			return nil
		}
		length, need = s.meta.BlockSize, s.need(block)
		diskOff, diskLen = block*s.meta.BlockSize, need
		fault = s.validateEntry(i, e, need)
	}
	if fault == nil && e.state() == PartiallyPresent {
		x, err := s.bat.entry(s.bat.bitmap(s.bat.block(i) / s.bat.ratio))
		if err != nil {
			return err
		}
		if x.state() != FullyPresent {
			f := newFinding("bitmap-missing", disk.Error, at, fmt.Sprintf("BAT entry %d (block %d): state", i, s.bat.block(i)), "a sector bitmap of its chunk, because the block is partially present", "none")
			fault = &f
		}
	}
	if fault == nil && e.reserved() != 0 {
		f := newFinding("bat-reserved", disk.Warning, at, fmt.Sprintf("BAT entry %d: reserved bits", i), "0", "%#x", e.reserved())
		if err := run.add(i, &f, 0, 0); err != nil {
			return err
		}
	}
	if fault != nil {
		if fault.ID == "bat-beyond-end" && e.offset() < maxTrackedFile {
			c.n.Missing = max(c.n.Missing, int64(e.offset())+need-s.size)
		}
		return run.add(i, fault, diskOff, diskLen)
	}
	off := e.offset()
	if !e.stored() {
		// Blocks that were unmapped may keep their space in the file.
		if off >= mib && off < uint64(s.size) {
			used.mark(int64(off), min(s.size, int64(off)+length))
		}
		return nil
	}
	start, end := int64(off), min(s.size, int64(off)+length)
	c.firstBlock = min(c.firstBlock, start)
	c.n.End = max(c.n.End, end)
	if !s.bat.isBitmap(i) {
		c.n.Allocated++
		if *previous >= 0 && start != *previous {
			c.n.Fragmented++
		}
		*previous = int64(off) + length
	}
	if used.mark(start, end) {
		f := newFinding("bat-overlap", disk.Error, at, fmt.Sprintf("BAT entry %d: offset", i), "space of no other block", "%d", off)
		f.harmless = true
		return run.add(i, &f, diskOff, diskLen)
	}
	return nil
}

// checkLeaks reports unreferenced space after the first block, if it is as large as a block.
func (c *Checker) checkLeaks(s *structures, used usage) error {
	size := s.size
	if c.o.Device {
		size = min(size, c.n.End)
	}
	leaked := int64(0)
	for start, end := range used.unmarked(size) {
		// qemu leaves space between the metadata and the first block.
		if end-start < c.n.BlockSize || start < c.firstBlock {
			continue
		}
		f := newFinding("leak", disk.Leak, start, "unreferenced space", "none", "%d bytes", end-start)
		f.Bytes = end - start
		f.Text = fmt.Sprintf("%d bytes at offset %d are not referenced by any region or BAT entry", end-start, start)
		leaked += end - start
		if err := c.add(f); err != nil {
			return err
		}
	}
	c.n.Leaked = (leaked + c.n.BlockSize - 1) / c.n.BlockSize
	return nil
}

// checkParents opens the parents, and checks each.
func (c *Checker) checkParents() error {
	if _, ok := c.r.(*os.File); !ok {
		return errors.New("the parents of an image that is not in a file cannot be checked")
	}
	search := c.o.Parents
	search.None, search.Partial = false, true
	img, err := NewImage(c.r, c.size, &OpenOptions{NoLock: c.o.NoLock, Parents: search})
	if err != nil {
		return err
	}
	defer func() { _ = img.Close() }()
	total := c.n
	for level := img; ; level = level.parent {
		if err := level.parentErr; err != nil {
			if errors.Is(err, ErrLocked) || errors.Is(err, fs.ErrPermission) {
				return err // not a fault of the image
			}
			f := newFinding("parent-missing", disk.Error, 0, "parent", "an image with the data write GUID "+level.s.locator.Linkage.String(), "%v", err)
			if err := c.add(f); err != nil {
				return err
			}
			total.Errors++
		}
		if level.parent == nil {
			break
		}
		size, err := disk.FileSize(level.parent.file)
		if err != nil {
			return err
		}
		p := NewChecker(level.parent.file, size, nil)
		p.file, p.ctx, p.yield = level.parentPath, c.ctx, c.yield
		if err := p.run(); err != nil {
			return err
		}
		total.Errors += p.n.Errors
		total.Warnings += p.n.Warnings
		c.file = level.parentPath
	}
	c.n = total
	return nil
}
