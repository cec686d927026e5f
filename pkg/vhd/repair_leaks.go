package vhd

import (
	"context"
	"fmt"

	"github.com/dustin/go-humanize/english"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// leaks returns unreferenced space to the file system. The space may be in use while an entry
// is impossible or the size of the disk is in doubt: then leaks keeps it. It also keeps it in a
// call that changed BAT entries. Space that holds data is returned only if the caller saves it
// or discards it.
func (r *repairer) leaks(img *Image) error {
	before, err := r.check()
	if err != nil || before.counts.Leaked == 0 {
		return err
	}
	if err := r.keepLeaks(img, before.counts); err != nil {
		return err
	}
	if _, kept := r.left["leak"]; kept {
		return nil
	}
	size := r.fileSize()
	if err := img.reclaim(r.ctx, r.o.Progress); err != nil {
		return err
	}
	after, err := r.check()
	if n := before.counts.Leaked - after.counts.Leaked; err == nil && n > 0 {
		end := r.fileSize()
		r.did("leak", end, size-end, "unreferenced space for %s was returned to the file system", english.Plural(int(n), "block", ""))
	}
	if err == nil && after.counts.Leaked > 0 {
		r.leave("leak", disk.NextNone, "the file system has no space to move blocks")
		if img.trailer.onDevice() {
			r.left["leak"] = Unrepaired{Reason: "a device keeps its length"}
		}
	}
	return err
}

// keepLeaks records the reasons why unreferenced space stays in the file. n are the counts of a
// check.
func (r *repairer) keepLeaks(img *Image, n Counts) error {
	keep := func(next disk.NextStep, reason string) { r.leave("leak", next, reason) }
	if !img.bat.sane(&img.lay) {
		keep(disk.NextNone, "while a BAT entry is wrong, the space may belong to its block")
	}
	reason, err := r.sizeInDoubt(img)
	if err != nil {
		return err
	}
	if reason != "" {
		keep(disk.NextNone, reason)
	}
	if !r.o.DiscardOrphans {
		at, err := img.foreignFooter(r.ctx)
		if err != nil {
			return err
		}
		if at >= 0 {
			keep(disk.NextDiscardOrphans, fmt.Sprintf("a footer of another image is at offset %d", at))
		}
	}
	if !r.o.DiscardOrphans && !r.o.Saved {
		orphans, err := img.orphans(r.ctx, r.overlapped)
		if err != nil {
			return err
		}
		if orphans {
			keep(disk.NextSave, "the space holds data, which may be lost blocks")
		}
	}
	if r.changedEntries {
		next := disk.NextRepairLeaks
		switch {
		case r.o.DiscardOrphans:
			next = disk.NextDiscardOrphans
		case n.Orphaned > 0:
			next = disk.NextSave
		}
		keep(next, "BAT entries were changed: nothing is returned in the same run")
	}
	return nil
}

// sizeInDoubt returns the reason why the disk may be larger than its footer says, or "".
func (r *repairer) sizeInDoubt(img *Image) (string, error) {
	fs, err := locateFooters(r.f, r.fileSize())
	if err != nil {
		return "", err
	}
	if fs.leading.valid() && fs.trailing.valid() && fs.leading.CurrentSize != fs.trailing.CurrentSize {
		return "the copies of the footer have different sizes", nil
	}
	x, err := scanExcess(r.ctx, r.f, img.lay.batOff, img.bat.len(), int64(img.header.MaxTableEntries), nil)
	if err == nil && x.used > 0 {
		return "entries past the end of the disk are in use (bat-excess): the space may be theirs", nil
	}
	return "", err
}

// spaces yields the unreferenced ranges [start, end) of the file that are as large as a block
// or larger.
func (img *Image) spaces(yield func(start, end int64) bool) {
	for _, g := range img.gaps() {
		if g[1]-g[0] >= img.lay.stored() && !yield(g[0], g[1]) {
			return
		}
	}
}

// foreignFooter searches the unreferenced space for a footer that is not a stale one of this
// image. It may belong to another image. It returns the offset of the footer, or -1.
func (img *Image) foreignFooter(ctx context.Context) (int64, error) {
	found := int64(-1)
	holes := filesystem.NewHoleMap(img.r)
	for start, end := range img.spaces {
		err := scanData(ctx, img.r, holes, start, end, func(b []byte, off int64) bool {
			for ; len(b) >= footerSize; b, off = b[SectorSize:], off+SectorSize {
				f := DecodeFooter((*[footerSize]byte)(b))
				if f.valid() && f.UniqueID != img.footer.UniqueID {
					found = off
					return false
				}
			}
			return true
		})
		if err != nil || found >= 0 {
			return found, err
		}
	}
	return -1, nil
}
