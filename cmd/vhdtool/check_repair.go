package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/vhdtool/vhdtool/internal/overlay"
	"github.com/vhdtool/vhdtool/internal/undo"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// unrepaired are the findings of one kind that a repair did not repair.
type unrepaired struct {
	Check     string         `json:"check"`
	Count     int64          `json:"count"`
	Reason    string         `json:"reason"`
	Next      string         `json:"next,omitempty"` // a command
	Reconnect []reconnection `json:"reconnect,omitempty"`
}

// reconnection is a block of the disk, and the offset in the file where its data may be.
type reconnection struct {
	Block  int64 `json:"block"`
	Offset int64 `json:"offset"`
}

// parseReconnection parses BLOCK=OFFSET.
func parseReconnection(arg string) (c disk.Reconnection, err error) {
	block, off, ok := strings.Cut(arg, "=")
	if ok {
		c.Block, err = strconv.ParseInt(block, 0, 64)
	}
	if ok && err == nil {
		c.Offset, err = strconv.ParseInt(off, 0, 64)
	}
	if !ok || err != nil {
		return c, usagef("Invalid value for --reconnect (expecting BLOCK=OFFSET): %s", arg)
	}
	return c, nil
}

// conditional has the verbs of repair texts, and their forms in a dry run.
var conditional = strings.NewReplacer(" was ", " would be ", " were ", " would be ", " got ", " would get ", " are zeros now", " would be zeros")

// said returns the text of a repair, in the conditional for a dry run.
func (o *checkCmdOptions) said(text string) string {
	if o.dryRun {
		return conditional.Replace(text)
	}
	return text
}

// choose returns the first text, or the second for a dry run.
func (o *checkCmdOptions) choose(now, dry string) string {
	if o.dryRun {
		return dry
	}
	return now
}

// repair runs the repair, and checks again if it changed anything. A dry run does both on a view of
// the file that keeps changes apart.
func (k *checking) repair(ctx context.Context, before checkCounts, size int64) (checkCounts, error) {
	var f disk.File = k.file
	if k.o.dryRun {
		view := overlay.New(k.file, size)
		defer view.Close()
		f, k.view = view, view
	}
	report, err := k.repairFile(ctx, f, size)
	var texts []string
	var doubt []doubtful
	for _, x := range report.Done {
		texts = append(texts, k.o.said(x.Text))
		for _, lost := range x.Doubtful {
			if lost.N > 0 {
				doubt = append(doubt, doubtful{lost.Off, lost.N, x.ID})
			}
		}
		if k.talks() {
			fmt.Fprintf(k.stdout, "%s: %s\n", k.o.choose("repaired", "would repair"), k.o.said(x.Text))
		}
	}
	var left []unrepaired
	for _, x := range report.Left {
		u := unrepaired{Check: x.ID, Count: x.Count, Reason: x.Reason, Next: k.nextCommand(&x)}
		for _, c := range x.Reconnect {
			u.Reconnect = append(u.Reconnect, reconnection{c.Block, c.Offset})
		}
		left = append(left, u)
		if k.talks() {
			u.print(k)
		}
	}
	if err := k.refused(err); err != nil {
		return before, err
	}
	note := func(n *checkCounts) {
		if !k.likeQEMU {
			n.Repairs, n.Doubtful, n.NotRepaired, n.DryRun = texts, doubt, left, k.o.dryRun
		}
	}
	if len(report.Done) == 0 {
		note(&before)
		return before, nil
	}
	if size, err = disk.FileSize(f); err != nil {
		return before, err
	}
	talk := k.o.output == "human" && !k.o.quiet
	if talk {
		fmt.Fprint(k.stdout, k.o.choose("Double checking the fixed image now...\n", "Double checking the image as it would be...\n"))
	}
	after, err := k.pass(ctx, size)
	after.LeaksFixed, after.Fixed = max(0, before.Leaks-after.Leaks), max(0, before.Corruptions-after.Corruptions)
	if after.LeaksFixed+after.Fixed > 0 && talk {
		fmt.Fprintf(k.stdout, "The following inconsistencies %s:\n\n    %d leaked clusters\n    %d corruptions\n\n",
			k.o.choose("were found and repaired", "would be repaired"), after.LeaksFixed, after.Fixed)
	}
	note(&after)
	return after, err
}

// refused reports an error that kept the repair from changing anything, and returns any other.
func (k *checking) refused(err error) error {
	err = withoutPath(err)
	var backup *backupError
	if err == nil || errors.As(err, &backup) {
		return err
	}
	named := fmt.Errorf("%s: %w", k.ref.name, err)
	switch {
	case errors.Is(err, vhd.ErrSavedState):
		return &hintError{named, "resume and shut down the machine first, or use --force; the machine cannot be resumed after that"}
	case errors.Is(err, vhd.ErrReconnect):
		return &hintError{named, "'vhdtool check --orphans DIR " + quoteArg(k.ref.name) + "' lists unreferenced data with its offsets"}
	case errors.Is(err, vhd.ErrTwoIDs):
		k.cli.report(&hintError{named, "determine which image it is; 'vhdtool set --uuid ID' gives both copies one id"})
	case errors.Is(err, vhd.ErrShifted):
		k.cli.report(&hintError{named, "copy the file again from its source, in binary mode"})
	case errors.Is(err, vhd.ErrBeyondRepair), errors.Is(err, vhd.ErrTwoImages):
		k.cli.report(named)
	default:
		return named
	}
	return nil
}

// print prints the unrepaired findings, the reasons, and the next step.
func (u *unrepaired) print(k *checking) {
	count := ""
	if u.Count > 1 {
		count = fmt.Sprintf(" (%d)", u.Count)
	}
	fmt.Fprintf(k.stdout, "%s: %s%s: %s\n", k.o.choose("not repaired", "would not repair"), u.Check, count, u.Reason)
	if u.Next != "" {
		fmt.Fprintf(k.stdout, "  next: %s\n", u.Next)
	}
}

// nextCommand returns the command for the next step, or "".
func (k *checking) nextCommand(x *disk.Unrepaired) string {
	name := quoteArg(k.ref.name)
	what := "-r " + k.o.repair
	if k.o.repair == "" {
		what = "-r all"
	}
	check := func(flags string) string { return "vhdtool check " + flags + " " + name }
	switch x.Next {
	case disk.NextRepairAll:
		return check("-r all")
	case disk.NextRepairLeaks:
		return check("-r leaks")
	case disk.NextSave:
		return check(what + " --backup " + quoteArg(k.ref.name+".undo"))
	case disk.NextDiscardOrphans:
		return check(what + " --discard-orphans")
	case disk.NextExtractOrphans:
		return check("--orphans " + quoteArg(k.ref.name+".orphans"))
	case disk.NextDiscardLost:
		return check("-r all --discard-lost --backup " + quoteArg(k.ref.name+".undo"))
	case disk.NextForce:
		return check(what + " --force")
	case disk.NextNewID:
		return "vhdtool set --uuid new " + name
	case disk.NextSalvage:
		return "vhdtool convert --salvage -O raw " + name + " " + quoteArg(k.ref.name+".raw")
	case disk.NextReconnect:
		var flags []string
		for _, c := range x.Reconnect {
			flags = append(flags, fmt.Sprintf("--reconnect %d=%d", c.Block, c.Offset))
		}
		return check(strings.Join(flags, " ") + " --backup " + quoteArg(k.ref.name+".undo"))
	}
	return ""
}

// repairFile repairs the image in f. With --backup it saves the bytes to overwrite.
func (k *checking) repairFile(ctx context.Context, f disk.File, size int64) (disk.RepairReport, error) {
	o := &disk.RepairOptions{
		All: k.o.repair == "all", Deep: k.o.deep, Force: k.o.force, Saved: k.o.backup != "",
		DiscardOrphans: k.o.discard, DiscardLost: k.o.lost, Reconnect: k.o.reconnect, Progress: k.progress.update,
	}
	if k.o.backup == "" {
		return k.format.Repair(ctx, f, size, o)
	}
	id, err := vhd.Identify(f, size)
	if err != nil { // no identity for the undo file
		view := overlay.New(f, size)
		defer view.Close()
		report, rerr := k.format.Repair(ctx, view, size, o)
		if rerr == nil {
			rerr = fmt.Errorf("%w: %w", vhd.ErrBeyondRepair, err)
		}
		return disk.RepairReport{Left: report.Left}, rerr
	}
	if k.o.dryRun {
		return k.format.Repair(ctx, f, size, o)
	}
	saved, err := undo.Create(k.o.backup, f, size, id.UniqueID)
	if err != nil {
		return disk.RepairReport{}, &backupError{k.o.backup, withoutPath(err)}
	}
	report, err := k.format.Repair(ctx, saved, size, o)
	if cerr := closeUndo(saved); cerr != nil && err == nil {
		err = &backupError{k.o.backup, withoutPath(cerr)}
	}
	return report, err
}

// closeUndo completes an undo file with the identity of the repaired image.
func closeUndo(saved *undo.File) error {
	var identify []undo.Span
	size, err := saved.Size()
	if err == nil {
		var id vhd.Identity
		id, err = vhd.Identify(saved, size)
		for _, x := range id.Metadata {
			identify = append(identify, undo.Span{Start: x[0], End: x[1]})
		}
	}
	return errors.Join(err, saved.Close(identify...))
}

// backupError is an error of the undo file, not of the image.
type backupError struct {
	name string
	err  error
}

func (e *backupError) Error() string { return fmt.Sprintf("%s: %v", e.name, e.err) }
func (e *backupError) Unwrap() error { return e.err }
