package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Exit statuses of compare, as qemu-img's.
const (
	compareDiffers    = 1 // and wrong usage
	compareOpenFailed = 2
	compareMapFailed  = 3
	compareReadFailed = 4
)

type compareOptions struct {
	source   sourceFlags
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

Exit status: 0 identical, 1 different, 2 an image could not be opened, 3 the
allocation of an image could not be determined, 4 an image could not be read.`,
		Example: "  vhdtool compare disk.raw disk.vhd",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runCompare(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "a-format")
	fl := cmd.Flags()
	fl.StringVarP(&o.second, "b-format", "F", "", "`FORMAT` of the second image")
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
		return &statusError{compareOpenFailed, qemuErrorf("Invalid source cache option: %s", o.cache)}
	}
	if o.source.imageOpts && (o.source.format != "" || o.second != "") {
		return &statusError{compareOpenFailed, qemuErrorf("--image-opts and --format are mutually exclusive")}
	}
	var disks [2]disk.Disk
	for i, format := range []string{o.source.format, o.second} {
		flags := o.source
		flags.format = format
		ref, err := flags.resolve(o.args[i])
		if err != nil {
			return &statusError{compareOpenFailed, err}
		}
		if disks[i], _, err = c.open(ref, false); err != nil {
			return &statusError{compareOpenFailed, err}
		}
		defer disks[i].Close()
		if !o.quiet {
			for _, w := range parentWarnings(disks[i], ref.name) {
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
	at, err := convert.Compare(ctx, disks[0], disks[1], &convert.CompareOptions{Workers: workers(0), Progress: progress.update})
	var side *convert.SideError
	if errors.As(err, &side) && side.Op == "mapping" {
		return &statusError{compareMapFailed, fmt.Errorf("error while looking for what is allocated of %s, at offset %d: %w", o.args[side.Side], side.Off, side.Err)}
	}
	if errors.As(err, &side) {
		return &statusError{compareReadFailed, fmt.Errorf("error while reading offset %d of %s: %w", side.Off, o.args[side.Side], side.Err)}
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
	common := min(disks[0].Size(), disks[1].Size())
	if disks[0].Size() != disks[1].Size() && (at < 0 || at >= common) {
		say("Warning: Image size mismatch!")
	}
	if at >= 0 {
		return differ("Content mismatch at offset %d!", at)
	}
	say("Images are identical.")
	return nil
}
