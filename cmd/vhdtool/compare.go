package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Exit statuses of compare, equal to qemu-img's.
const (
	compareDiffers    = 1 // and wrong usage
	compareOpenFailed = 2
	compareMapFailed  = 3
	compareReadFailed = 4
)

type compareOptions struct {
	source   sourceFlags
	salvage  salvageFlags
	second   string // format of the second image
	cache    string
	strict   bool
	quiet    bool
	progress bool
	args     []string
}

func (c *cli) newCompareCmd() *cobra.Command {
	var o compareOptions
	cmd := &cobra.Command{
		Use:   "compare [-f FORMAT] [-F FORMAT] [-s] FILE1 FILE2",
		Short: "Compare the disks in two images",
		Long: `compare reads two disks and stops at the first difference. If one disk
is larger, the rest of it must be zeros. With -s, sizes and allocation
must be equal, too.

With --salvage, damaged images are read as far as possible. Lost ranges of either
disk are listed, and differences inside them do not count.`,
		Example: "  vhdtool compare disk.raw disk.vhd",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runCompare(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "a-format")
	cmd.Flags().Lookup("a-format").Usage = "`FORMAT` of the first image (default: detected from the contents)"
	o.salvage.add(cmd, "skip unreadable data instead of failing")
	fl := cmd.Flags()
	fl.StringVarP(&o.second, "b-format", "F", "", "`FORMAT` of the second image (default: detected from the contents)")
	fl.StringVarP(&o.cache, "cache", "T", "writeback", "cache `MODE`, accepted for compatibility")
	fl.BoolVarP(&o.strict, "strict", "s", false, "sizes and allocation must be equal, too")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print only errors")
	fl.BoolVarP(&o.progress, "progress", "p", false, "print the progress in per cent")
	_ = cmd.RegisterFlagCompletionFunc("b-format", completeFormats)
	markIgnored(cmd, "cache")
	return cmd
}

func (c *cli) runCompare(ctx context.Context, o *compareOptions) (err error) {
	if len(o.args) != 2 {
		return usagef("Expecting two image file names")
	}
	if _, ok := cacheMode(o.cache); !ok {
		return &statusError{compareOpenFailed, cacheError("source cache", o.cache)}
	}
	if o.source.imageOpts && (o.source.format != "" || o.second != "") {
		return &statusError{compareOpenFailed, qemuErrorf("--image-opts and --format are mutually exclusive")}
	}
	err = o.salvage.check()
	if o.salvage.on && o.strict {
		err = usagef("-s and --salvage cannot be combined: the allocation of lost ranges is unknown")
	}
	if err != nil {
		return &statusError{compareOpenFailed, err}
	}
	var ins [2]*input
	var disks [2]disk.Disk
	for i, format := range []string{o.source.format, o.second} {
		flags := o.source
		flags.format = format
		in, err := c.openInputDisk(ctx, &flags, &o.salvage, o.args[i])
		if err != nil {
			return &statusError{compareOpenFailed, err}
		}
		defer in.Close()
		ins[i], disks[i] = in, in.Disk
		if !o.quiet {
			for _, w := range in.warnings {
				c.warn(w)
			}
		}
	}
	say := func(format string, args ...any) {
		if !o.quiet {
			fmt.Fprintf(c.stdout, format+"\n", args...)
		}
	}
	differ := func(format string, args ...any) error {
		say(format, args...)
		return &statusError{code: compareDiffers}
	}
	if disks[0].Size() != disks[1].Size() && o.strict {
		return differ("Strict mode: Image size mismatch!")
	}
	progress := c.newProgress(o.progress, o.quiet, false, 2)
	longer := disks[0]
	if disks[1].Size() > longer.Size() {
		longer = disks[1]
	}
	asCompared(progress, longer)
	defer func() { progress.finish(err == nil) }()
	co := &convert.CompareOptions{Workers: workers(0), Progress: progress.update}
	var ignored atomic.Int64 // differing sectors that a disk has lost
	if o.salvage.on {
		co.Ignore = func(off int64) bool {
			lost := ins[0].Losses.Contains(off) || ins[1].Losses.Contains(off)
			if lost {
				ignored.Add(1)
			}
			return lost
		}
	}
	at, err := convert.Compare(ctx, disks[0], disks[1], co)
	var side *convert.SideError
	if errors.As(err, &side) {
		name, cause := o.args[side.Side], side.Err
		var read *source.Error
		if errors.As(err, &read) {
			cause = withoutPath(read.Err)
			if slices.Contains(ins[side.Side].Parents, read.Name) && !c.likeQEMU {
				name = read.Name
			}
		}
		if side.Op == "mapping" {
			return &statusError{compareMapFailed, fmt.Errorf("error while reading the allocation of %s, at offset %d: %w", name, side.Off, cause)}
		}
		return &statusError{compareReadFailed, fmt.Errorf("error while reading offset %d of %s: %w", side.Off, name, cause)}
	}
	if err != nil {
		return &statusError{compareReadFailed, err}
	}
	if o.strict {
		status, err := convert.CompareAllocation(disks[0], disks[1])
		if err != nil {
			return &statusError{compareMapFailed, err}
		}
		if status >= 0 && (at < 0 || status <= at) {
			return differ("Strict mode: Offset %d block status mismatch!", status)
		}
	}
	if !c.likeQEMU { // qemu-img ends its progress line after the result
		progress.finish(at < 0)
	}
	common := min(disks[0].Size(), disks[1].Size())
	if disks[0].Size() != disks[1].Size() && (at < 0 || at >= common) {
		say("Warning: Image size mismatch!")
	}
	if at >= 0 {
		return differ("Content mismatch at offset %d!", at)
	}
	lost := source.MergeLost(ins[0].Losses.Ranges(), ins[1].Losses.Ranges())
	if len(lost) == 0 {
		say("Images are identical.")
		return nil
	}
	say("Images are identical, apart from lost ranges.")
	if n := ignored.Load(); n > 0 {
		say("%s inside the lost ranges differ.", humanSize(n*disk.SectorSize))
	}
	var damaged []string
	for i, in := range ins {
		if len(in.Losses.Ranges()) > 0 {
			damaged = append(damaged, o.args[i])
		}
	}
	return c.reportLost(&o.salvage, strings.Join(damaged, ", "), max(disks[0].Size(), disks[1].Size()), lost, o.quiet)
}
