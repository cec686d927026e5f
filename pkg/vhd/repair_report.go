package vhd

import (
	"errors"
	"slices"
	"strings"

	"github.com/vhdtool/vhdtool/internal/overlay"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// leave records a reason why findings of a kind remain. Several reasons are joined; the next
// step is that of the first.
func (r *repairer) leave(id string, next disk.NextStep, reason string) {
	if r.left == nil {
		r.left = map[string]Unrepaired{}
	}
	x, ok := r.left[id]
	if !ok {
		r.left[id] = Unrepaired{ID: id, Reason: reason, Next: next}
		return
	}
	if !strings.Contains(x.Reason, reason) {
		x.Reason += "; " + reason
		r.left[id] = x
	}
}

// refusedRepair returns the reason why Repair refuses to repair anything, if err is one.
func refusedRepair(err error) (reason string, next disk.NextStep, refused bool) {
	switch {
	case errors.Is(err, ErrShifted):
		return "the bytes after the damage are not at their offsets", disk.NextCopyAgain, true
	case errors.Is(err, ErrTwoIDs):
		return "the copies of the footer have different unique ids", disk.NextNewID, true
	case errors.Is(err, ErrTwoImages):
		return "the file holds two images, one after the other", disk.NextNone, true
	case errors.Is(err, ErrSavedState):
		return "the image belongs to a suspended virtual machine", disk.NextForce, true
	case errors.Is(err, ErrBeyondRepair):
		return "no footer is left to identify the image", disk.NextSalvage, true
	}
	return "", disk.NextNone, false
}

// defaultReason returns the reason for findings that no step has recorded a reason for.
func defaultReason(id string) (reason string, next disk.NextStep) {
	switch id {
	case "header-cookie", "data-offset":
		return "no header was found in the first MiB of the file", disk.NextSalvage
	case "trailing-footer", "leading-footer", "footers-differ", "footer-checksum", "header-checksum":
		return "the structures that the footer leads to must be readable first", disk.NextSalvage
	case "bat-beyond-end", "bat-over-metadata":
		return "no block can be where the entry points, and the offset of the block is unknown", disk.NextDiscardLost
	case "leak":
		return "the errors of the image must be repaired first", disk.NextNone
	case "fixed-length":
		return "the file has lost these bytes", disk.NextSalvage
	}
	return "the correct value is not known", disk.NextSalvage
}

// unrepaired checks the image in its current state, and returns the reason why each kind of
// error and leak remains. It includes warnings for which a step has recorded a reason. A reason
// that is not empty applies to all kinds.
func (r *repairer) unrepaired(reason string, next disk.NextStep) ([]Unrepaired, error) {
	found, err := r.check()
	if errors.Is(err, ErrNotVHD) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var withAll map[string]Unrepaired
	if !r.o.All && reason == "" && found.counts.Errors > 0 {
		if withAll, err = r.leftByAll(); err != nil {
			return nil, err
		}
	}
	var left []Unrepaired
	for _, f := range found.order {
		x, noted := r.left[f.ID]
		if f.Severity == disk.Warning && !noted {
			continue
		}
		switch {
		case reason != "":
			x = Unrepaired{Reason: reason, Next: next}
		case noted:
		case !r.o.All && f.Severity == disk.Error:
			var ok bool
			if x, ok = withAll[f.ID]; !ok {
				x = Unrepaired{Reason: "only leaked space was to be returned", Next: disk.NextRepairAll}
			}
		default:
			x.Reason, x.Next = defaultReason(f.ID)
		}
		x.ID, x.Count = f.ID, found.kinds[f.ID]
		left = append(left, x)
	}
	if reason != "" || !r.o.All {
		return left, nil
	}
	return left, r.candidates(left)
}

// leftByAll returns what a repair with All would leave, by ID.
func (r *repairer) leftByAll() (map[string]Unrepaired, error) {
	o := r.o
	o.All, o.Reconnect, o.Progress = true, nil, nil
	size := r.fileSize()
	view := overlay.New(r.f, size)
	defer view.Close()
	report, err := Repair(r.ctx, view, size, &o)
	if _, _, refused := refusedRepair(err); err != nil && !refused {
		return nil, err
	}
	left := map[string]Unrepaired{}
	for _, x := range report.Left {
		left[x.ID] = x
	}
	return left, nil
}

// maxReconnections is the most reconnections that a report names.
const maxReconnections = 8

// candidates adds the data that may belong to impossible entries.
func (r *repairer) candidates(left []Unrepaired) error {
	impossible := func(x Unrepaired) bool { return x.ID == "bat-beyond-end" || x.ID == "bat-over-metadata" }
	if !slices.ContainsFunc(left, impossible) {
		return nil
	}
	img, err := NewImage(r.f, r.fileSize(), &OpenOptions{IgnoreChecksums: true, Parents: disk.ParentSearch{None: true}, tolerateBAT: true})
	if err != nil {
		return nil // the errors of Open are findings
	}
	p := img.lay.placement()
	byOrder := map[string][]disk.Reconnection{}
	any := false
	for o, err := range img.orphanBlocks(r.ctx) {
		if err != nil {
			return err
		}
		any = true
		if len(o.Blocks) != 1 {
			continue
		}
		id := "bat-beyond-end"
		switch e := img.bat.load(o.Blocks[0]); {
		case e == unused:
			continue
		case p.over(e) != nil:
			id = "bat-over-metadata"
		}
		if len(byOrder[id]) < maxReconnections {
			byOrder[id] = append(byOrder[id], disk.Reconnection{Block: o.Blocks[0], Offset: o.Offset})
		}
	}
	for i, x := range left {
		switch {
		case !impossible(x):
		case len(byOrder[x.ID]) > 0:
			left[i].Next, left[i].Reconnect = disk.NextReconnect, byOrder[x.ID]
			left[i].Reason = strings.Replace(x.Reason, "the offset of the block is unknown", "data that may be the block is elsewhere in the file", 1)
		case any:
			left[i].Next = disk.NextExtractOrphans
			left[i].Reason = strings.Replace(x.Reason, "the offset of the block is unknown", "unreferenced data in the file may be the block", 1)
		}
	}
	return nil
}
