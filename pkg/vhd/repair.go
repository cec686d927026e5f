package vhd

import (
	"context"
	"errors"
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// ErrBeyondRepair: the remains of the image are not enough for a repair.
var ErrBeyondRepair = errors.New("the image cannot be repaired: it has no footer, and no header from which to rebuild one")

// ErrReconnect: a block cannot be connected with data at an offset.
var ErrReconnect = errors.New("the block cannot be reconnected")

// RepairOptions control a repair. In a VHD, All repairs footers, header and BAT, and Deep sets
// the bits of sectors that hold data under a clear bit.
type RepairOptions = disk.RepairOptions

// Repaired is one step that Repair has done.
type Repaired = disk.Repaired

// Unrepaired describes the findings of one kind that Repair has left.
type Unrepaired = disk.Unrepaired

// RepairReport lists what Repair has done and what it has left.
type RepairReport = disk.RepairReport

// Repair repairs the image in f, a file of size bytes, without losing a byte of the disk. It
// returns the steps that it has done, also with an error, and the reasons for the remaining
// errors and leaks. A nil o means the zero value.
//
// The image is checked before anything is written. Every step is durable before the next, and
// leaves an image that is no worse. Footers are repaired before the header, and the copy of a
// block is complete before its entry points to it. A step that is not safe does not prevent the
// others. A cancelled ctx, or an error of the file, ends the repair between two steps; the
// report has no Left then.
//
// A second repair does nothing, with one exception. If BAT entries have changed, the same call
// returns no space to the file system; the next one may.
//
// Errors are ErrNotVHD, ErrBeyondRepair, ErrShifted, ErrTwoIDs, ErrTwoImages, ErrSavedState,
// ErrTooLarge, ErrReconnect, ctx.Err(), or those of the file.
func Repair(ctx context.Context, f disk.File, size int64, o *RepairOptions) (RepairReport, error) {
	if o == nil {
		o = &RepairOptions{}
	}
	r := &repairer{ctx: ctx, f: f, size: size, o: *o}
	err := r.repair()
	report := RepairReport{Done: r.done}
	if reason, next, refused := refusedRepair(err); refused || err == nil {
		left, lerr := r.unrepaired(reason, next)
		report.Left = left
		if err == nil {
			err = lerr
		}
	}
	return report, err
}

func (r *repairer) repair() error {
	found, err := r.check()
	if err != nil {
		return err
	}
	if found.kinds["bytes-missing"]+found.kinds["bytes-added"] > 0 {
		return ErrShifted
	}
	if found.kinds["two-images"] > 0 {
		return ErrTwoImages
	}
	fs, err := locateFooters(r.f, r.size)
	if err != nil {
		return err
	}
	if fs.twoIDs() {
		return ErrTwoIDs
	}
	if r.o.All {
		if err := r.metadata(); err != nil {
			return err
		}
	}
	if found.typ != Fixed {
		return r.blocks()
	}
	if len(r.o.Reconnect) > 0 {
		return fmt.Errorf("%w: a fixed disk has no blocks", ErrReconnect)
	}
	return nil
}

type repairer struct {
	ctx  context.Context
	f    disk.File
	size int64 // size of the file
	o    RepairOptions
	done []Repaired
	left map[string]Unrepaired // reasons for remaining findings, by ID

	overlapped     []overlap // before the repair
	changedEntries bool      // BAT entries have changed
	torn           []tornBlock
	pages          bool // Windows made the image: the length of the file is a multiple of 4096

	worked, work int64 // bytes examined and moved, and their total
}

// did records a durable step.
func (r *repairer) did(id string, off, n int64, format string, args ...any) {
	r.done = append(r.done, Repaired{ID: id, Offset: off, Length: n, Text: fmt.Sprintf(format, args...)})
}

// progress reports that n more bytes of the work are done.
func (r *repairer) progress(n int64) {
	r.worked += n
	if r.o.Progress != nil {
		r.o.Progress(r.worked, r.work)
	}
}

// write writes b and flushes: one step.
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

// checked is the result of a check.
type checked struct {
	typ    DiskType
	counts Counts
	kinds  map[string]int64 // faults by ID
	order  []finding        // the first finding of each kind
}

// check checks the file in its current state.
func (r *repairer) check() (checked, error) {
	c := NewChecker(r.f, r.fileSize(), nil)
	found := checked{kinds: map[string]int64{}}
	for f, err := range c.Findings(r.ctx) {
		if err != nil {
			return checked{}, err
		}
		if found.kinds[f.ID] == 0 {
			found.order = append(found.order, finding{Finding: f})
		}
		found.kinds[f.ID] += f.Faults()
	}
	found.typ, found.counts = c.Type(), c.Counts()
	return found, nil
}

// fileSize returns the current length of the file.
func (r *repairer) fileSize() int64 {
	if size, err := disk.FileSize(r.f); err == nil && !disk.IsDevice(r.f) {
		return size
	}
	return r.size
}

// blocks repairs the BAT, and returns leaked space to the file system.
func (r *repairer) blocks() error {
	if len(r.o.Reconnect) > 0 {
		img, err := r.open()
		if err != nil {
			if errors.Is(err, ErrSavedState) {
				return err
			}
			return fmt.Errorf("%w: %w", ErrReconnect, err)
		}
		if err := r.reconnect(img); err != nil {
			return err
		}
		r.o.Reconnect = nil
	}
	if r.o.All {
		if _, err := r.rebuildEntries(); err != nil {
			return err
		}
	}
	img, err := r.open()
	if errors.Is(err, ErrSavedState) {
		return err
	}
	if err != nil {
		return nil // Open refuses the image for another reason: repairing the BAT does not help
	}
	var steps []func(*Image) error
	if r.o.All {
		r.overlapped = img.overlapping()
		steps = append(steps, r.excess, r.separate, r.rebuildSeparated)
		if r.o.DiscardLost {
			steps = append(steps, r.discardLost)
		}
		steps = append(steps, r.excess, r.batmap) // wrong entries may have prevented the first one
		if r.o.Deep && !img.differencing() {
			steps = append(steps, r.setBits)
		}
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

// open opens the image as far as possible, to repair its BAT.
func (r *repairer) open() (*Image, error) {
	return NewImage(r.f, r.size, &OpenOptions{Write: true, Force: r.o.Force, Parents: disk.ParentSearch{None: true}, tolerateBAT: true})
}
