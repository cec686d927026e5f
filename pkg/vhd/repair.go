package vhd

import (
	"context"
	"errors"
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// ErrBeyondRepair: what is left of the image does not say enough.
var ErrBeyondRepair = errors.New("the image cannot be repaired: neither footer, nor a header that leads to one, is left")

// ErrOrphans: space that nothing refers to holds data, which may be blocks whose
// entries were lost. It is not returned to the file system.
var ErrOrphans = errors.New("space that no BAT entry refers to holds data, which may be lost blocks: it stays in the file")

// RepairOptions say what to repair. In a VHD, All repairs footers, header and BAT,
// and Deep sets the bits of sectors that hold data under a clear bit.
type RepairOptions = disk.RepairOptions

// Repaired is one thing that Repair has done.
type Repaired = disk.Repaired

// Repair repairs the image in f, a file of size bytes, as far as that loses no
// byte of the disk, and returns what it has done, in order, also with an error. A
// nil o means the zero value. What it cannot repair it leaves alone; a [Checker]
// reports what is left.
//
// The image is checked before anything is written. Every step is durable before the
// next and leaves an image that is no worse: footers are repaired before the header,
// and a block's copy is complete before its entry points there. A cancelled ctx, or
// an error of the file, ends the repair between two steps. Repairing again does
// nothing.
//
// Errors are ErrNotVHD, ErrBeyondRepair, ErrShifted, ErrTwoIDs, ErrTwoImages, ErrOrphans, ErrSavedState, ErrTooLarge,
// ctx.Err(), or of the file.
func Repair(ctx context.Context, f disk.File, size int64, o *RepairOptions) ([]Repaired, error) {
	if o == nil {
		o = &RepairOptions{}
	}
	r := &repairer{ctx: ctx, f: f, size: size, o: *o}
	typ, _, err := r.check()
	if err != nil {
		return nil, err
	}
	fs, err := locateFooters(f, size)
	if err != nil {
		return nil, err
	}
	if fs.twoIDs() {
		return nil, ErrTwoIDs
	}
	if o.All {
		if err := r.metadata(); err != nil {
			return r.done, err
		}
	}
	if typ != Fixed {
		err = r.blocks()
	}
	return r.done, err
}

type repairer struct {
	ctx  context.Context
	f    disk.File
	size int64 // of the file
	o    RepairOptions
	done []Repaired

	overlapped []overlap // before the repair
	torn       []tornBlock
	pages      bool // Windows made the image: the length of the file is a multiple of 4096

	worked, work int64 // bytes examined and moved, and to examine and move
}

// did notes a repair that is durable.
func (r *repairer) did(id string, off, n int64, format string, args ...any) {
	r.done = append(r.done, Repaired{ID: id, Offset: off, Length: n, Text: fmt.Sprintf(format, args...)})
}

// progress reports n bytes of the work as done.
func (r *repairer) progress(n int64) {
	r.worked += n
	if r.o.Progress != nil {
		r.o.Progress(r.worked, r.work)
	}
}

// write writes and flushes: one step.
func (r *repairer) write(b []byte, off int64) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if _, err := r.f.WriteAt(b, off); err != nil {
		return err
	}
	if err := r.f.Sync(); err != nil {
		return err
	}
	r.size = max(r.size, off+int64(len(b)))
	return nil
}

// check checks the file as it is now.
func (r *repairer) check() (DiskType, Counts, error) {
	c := NewChecker(r.f, r.fileSize(), nil)
	for f, err := range c.Findings(r.ctx) {
		if err == nil && f.ID == "two-images" {
			err = ErrTwoImages
		}
		if err == nil && (f.ID == "bytes-missing" || f.ID == "bytes-added") {
			err = ErrShifted
		}
		if err != nil {
			return 0, Counts{}, err
		}
	}
	return c.Type(), c.Counts(), nil
}

// fileSize is the length of the file now.
func (r *repairer) fileSize() int64 {
	if size, err := disk.FileSize(r.f); err == nil && !disk.IsDevice(r.f) {
		return size
	}
	return r.size
}

// blocks repairs the BAT, and returns leaked space to the file system.
func (r *repairer) blocks() error {
	if r.o.All {
		if _, err := r.rebuildEntries(); err != nil {
			return err
		}
	}
	img, err := NewImage(r.f, r.size, &OpenOptions{Write: true, Force: r.o.Force, Parents: disk.ParentSearch{None: true}, tolerateBAT: true})
	if err != nil {
		if errors.Is(err, ErrSavedState) {
			return err
		}
		return nil // what Open refuses even so is beyond this
	}
	if !r.o.All {
		return r.leaks(img)
	}
	r.overlapped = img.overlapping()
	steps := []func(*Image) error{r.separate, r.rebuildSeparated, r.excess, r.batmap}
	if r.o.Deep && !img.differencing() {
		steps = append(steps, r.setBits)
	}
	for _, step := range append(steps, r.leaks) {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if err := step(img); errors.Is(err, errRebuilt) {
			return r.blocks()
		} else if err != nil {
			return err
		}
	}
	return nil
}
