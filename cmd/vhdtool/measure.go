package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

type measureOptions struct {
	source   sourceFlags
	salvage  salvageFlags
	target   targetFlags
	format   string
	options  []string
	output   string
	size     string
	snapshot snapshotFlag
	args     []string
}

func (c *cli) newMeasureCmd() *cobra.Command {
	var o measureOptions
	cmd := &cobra.Command{
		Use:   "measure [-f FORMAT] [-O FORMAT] [-o OPTIONS] [--for PRODUCT] [--output=human|json] {FILE | --size SIZE}",
		Short: "Compute the length of a new image's file",
		Long: `measure prints the length of the file that convert would make of FILE,
or that create would make of SIZE. The second line is the length after
the whole disk is written. The target format is raw unless -O or --for
is given.` + salvageHelp,
		Example: "  vhdtool measure -O vpc disk.raw\n" +
			"  vhdtool measure --for azure --size 40G",
		Annotations: onlyReads,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			if err := o.snapshot.check(cmd); err != nil {
				return err
			}
			return c.runMeasure(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	o.salvage.add(cmd, "count unreadable data as zeros instead of failing")
	addOutputFlag(cmd, &o.output)
	fl := cmd.Flags()
	fl.StringVarP(&o.format, "target-format", "O", "", "`FORMAT` of the new image: vpc (or vhd), or raw (default: raw)")
	fl.StringArrayVarP(&o.options, "options", "o", nil, "`OPTIONS` of the new image's format, as key=value,...; '-o help' lists them")
	fl.StringVarP(&o.size, "size", "s", "", "measure an empty disk of `SIZE` instead of a file")
	o.target.add(cmd, "target-format")
	o.snapshot.add(cmd)
	return cmd
}

// measurement is the output of measure, in the order of qemu-img's JSON.
type measurement struct {
	Required       int64       `json:"required"`
	FullyAllocated int64       `json:"fully-allocated"`
	LostRanges     []lostRange `json:"lost-ranges,omitempty"`
}

func (c *cli) runMeasure(ctx context.Context, o *measureOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	size := int64(-1)
	if o.size != "" {
		var err error
		if size, err = sizearg.Parse(o.size); err != nil {
			return sizeError("image size", o.size, err)
		}
	}
	switch {
	case len(o.args) > 1:
		return qemuErrorf("At most one filename argument is allowed.")
	case len(o.args) == 0 && (o.source.imageOpts || o.source.format != "" || o.snapshot.given):
		return qemuErrorf("--image-opts, -f, and -l require a filename argument.")
	case len(o.args) == 0 && size < 0:
		return qemuErrorf("Either --size N or one filename must be specified.")
	case len(o.args) == 1 && size >= 0:
		return qemuErrorf("--size N cannot be used together with a filename.")
	}
	if err := o.salvage.check(); err != nil {
		return err
	}
	in := &input{Source: &source.Source{}}
	if len(o.args) == 1 {
		err := o.source.check()
		if err == nil {
			in, err = c.openInputDisk(ctx, &o.source, &o.salvage, o.args[0])
		}
		if err != nil {
			return err
		}
		defer in.Close()
		if err := o.snapshot.load(in.formats[0]); err != nil {
			return err
		}
		size = in.Size()
	}
	f, err := c.outputFormat(o.target.formatName(o.format), "")
	if err != nil {
		return err
	}
	opts, err := c.parseCreateOptions(f, o.options)
	if opts.help {
		c.printOptionHelp(f, false)
		return nil
	}
	if err == nil {
		err = o.target.apply(f, opts.set)
	}
	if err == nil {
		err = checkOptions(f, opts.set)
	}
	if err == nil {
		err = checkValues(f, opts.set)
	}
	if err != nil {
		return errors.Join(err, qemuErrorf("Invalid options for file format '%s'", f.Name))
	}
	if err := o.target.promise(f, size, opts.set); err != nil {
		return err
	}
	progress := c.newProgress(false, false, false, 1)
	m, err := measureFile(ctx, f, in.Disk, size, newImageOptions(f, o.target.product, opts.set), progress.update)
	progress.finish(err == nil)
	var read *source.Error
	switch {
	case errors.As(err, &read):
		return c.copyError(in.Name, err)
	case err != nil:
		return creationError(f, err)
	}
	lost := in.Losses.Ranges()
	if o.output == "json" {
		m.LostRanges = lostRanges(lost)
		err = printJSON(c.stdout, m)
	} else {
		_, err = fmt.Fprintf(c.stdout, "required size: %d\nfully allocated size: %d\n", m.Required, m.FullyAllocated)
	}
	if err != nil {
		return err
	}
	return c.reportLost(&o.salvage, in.Name, size, lost, false)
}

// measureFile measures a new image of the disk src. If src is nil, it is empty and has the given
// size.
func measureFile(ctx context.Context, f *format, src disk.Disk, size int64, o disk.Options, progress disk.Progress) (m measurement, err error) {
	if f.fileSize == nil {
		size, err := raw.AlignedSize(size, o)
		return measurement{Required: size, FullyAllocated: size}, err
	}
	file, err := f.fileSize(size, o)
	if err != nil {
		return m, err
	}
	var used []int64
	if src != nil && file.blockSize > 0 {
		if used, err = convert.UsedBlocks(ctx, src, file.blockSize, progress); err != nil {
			return m, err
		}
	}
	if m.Required, err = file.length(int64(len(used))); err != nil {
		return m, err
	}
	m.FullyAllocated, err = file.length(file.blocks)
	return m, err
}
