package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/sizearg"
)

type createCmdOptions struct {
	target  targetFlags
	format  string
	options []string
	backing backingFlags
	quiet   bool
	args    []string
}

func (c *cli) newCreateCmd() *cobra.Command {
	var o createCmdOptions
	cmd := &cobra.Command{
		Use:   "create [-f FORMAT] [-o OPTIONS] [-b PARENT [-F FORMAT]] FILE [SIZE]",
		Short: "Make a new, empty image",
		Long: `Make a new image whose disk reads as zeros.

With -b PARENT it is a differencing VHD, whose disk reads as that of PARENT, and
which keeps what is written to it. It is as large as PARENT unless SIZE says
more. PARENT must not be changed any more while it has such children.

SIZE is in bytes, with an optional suffix k, M, G, T, P or E for powers of 1024.
A VHD is as large as the next geometry unless force_size is set. The format is
the one named, else what the file's suffix says (.vhd, .vpc, .avhd), else raw.`,
		Example: "  vhdtool create disk.vhd 40G\n" +
			"  vhdtool create -f vpc -o subformat=fixed,force_size disk.vhd 10M\n" +
			"  vhdtool create -b base.vhd child.vhd",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runCreate(cmd.Context(), &o)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&o.format, "format", "f", "", "format of the image")
	fl.StringArrayVarP(&o.options, "options", "o", nil, "options of the format, as key=value,...; help lists them")
	o.backing.add(cmd, "b")
	fl.BoolP("backing-unsafe", "u", false, "accepted for compatibility")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but errors")
	o.target.add(cmd, "format")
	addAlias(cmd, "backing-format", "", "B") // from qemu 11 on
	return cmd
}

func (c *cli) runCreate(_ context.Context, o *createCmdOptions) error {
	name := ""
	if len(o.args) > 0 {
		name = fileName(o.args[0])
	}
	inFile := func(err error) error { return fmt.Errorf("%s: %w", name, err) }
	f, err := c.outputFormat(c.backedFormat(&o.backing, o.target.formatName(o.format)), name)
	if err != nil {
		return inFile(err)
	}
	opts, err := c.parseCreateOptions(f, o.options)
	if opts.help {
		c.printOptionHelp(f, name != "")
		return nil
	}
	if errors.Is(err, errOptionList) {
		return err
	}
	if len(o.args) == 0 {
		return usagef("Expecting image file name")
	}
	if len(o.args) > 2 {
		return usagef("Unexpected argument: %s", o.args[2])
	}
	var size int64
	given := len(o.args) == 2
	if given {
		var perr error
		if size, perr = sizearg.Parse(o.args[1]); perr != nil {
			return sizeError("image size", o.args[1], perr)
		}
	}
	if err == nil {
		err = o.target.apply(f, opts.set)
	}
	if err == nil {
		err = checkOptions(f, opts.set)
	}
	if err != nil {
		return inFile(err)
	}
	if o.backing.file != "" && !c.makesChildren(f) {
		return inFile(qemuErrorf("Backing file not supported for file format '%s'", f.Name))
	}
	if o.backing.file == "" && o.backing.format != "" {
		return inFile(qemuErrorf("Backing file format not supported for file format '%s'", f.Name))
	}
	if s, ok := opts.set[sizeOption.name]; ok {
		if given {
			return inFile(qemuErrorf("The image size must be specified only once"))
		}
		size, _ = sizearg.Parse(s)
		given = true
	}
	if o.backing.file != "" {
		if err := c.createDifferencing(name, f, o, size, opts.set); err != nil {
			return inFile(err)
		}
		return nil
	}
	if !given {
		return inFile(qemuErrorf("Image creation needs a size parameter"))
	}
	if err := o.target.promise(f, size, opts.set); err != nil {
		return inFile(err)
	}
	if !o.quiet {
		fmt.Fprintf(c.stdout, "Formatting '%s', fmt=%s size=%d", name, f.Name, size)
		printSettings(c.stdout, f, opts.set)
		if _, err := io.WriteString(c.stdout, "\n"); err != nil {
			return err
		}
	}
	out, err := c.createOutput(name, f, size, newImageOptions(f, o.target.product, opts.set))
	if err != nil {
		return inFile(withoutPath(err))
	}
	if err := f.applyFileOptions(out, opts.set, true); err != nil {
		out.Discard()
		return inFile(err)
	}
	if err := out.Commit(false); err != nil {
		return inFile(withoutPath(err))
	}
	return nil
}
