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
	backing string
	quiet   bool
	args    []string
}

func (c *cli) newCreateCmd() *cobra.Command {
	var o createCmdOptions
	cmd := &cobra.Command{
		Use:   "create [-f FORMAT] [-o OPTIONS] FILE [SIZE]",
		Short: "Make a new, empty image",
		Long: `Make a new image whose disk reads as zeros.

SIZE is in bytes, with an optional suffix k, M, G, T, P or E for powers of 1024.
A VHD is as large as the next geometry unless force_size is set. The format is
the one named, else what the file's suffix says (.vhd, .vpc, .avhd), else raw.`,
		Example: "  vhdtool create disk.vhd 40G\n" +
			"  vhdtool create -f vpc -o subformat=fixed,force_size disk.vhd 10M",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runCreate(cmd.Context(), &o)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&o.format, "format", "f", "", "format of the image")
	fl.StringArrayVarP(&o.options, "options", "o", nil, "options of the format, as key=value,...; help lists them")
	fl.StringVarP(&o.backing, "backing", "b", "", "not supported: parent of a differencing image")
	fl.StringP("backing-format", "F", "", "not supported: format of the parent")
	fl.BoolP("backing-unsafe", "u", false, "accepted for compatibility")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but errors")
	o.target.add(cmd, "format")
	return cmd
}

func (c *cli) runCreate(_ context.Context, o *createCmdOptions) error {
	name := ""
	if len(o.args) > 0 {
		name = fileName(o.args[0])
	}
	inFile := func(err error) error { return fmt.Errorf("%s: %w", name, err) }
	f, err := c.outputFormat(o.target.formatName(o.format), name)
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
			return sizeError("image size", perr)
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
	if o.backing != "" {
		return inFile(qemuErrorf("Backing file not supported for file format '%s'", f.Name))
	}
	if s, ok := opts.set[sizeOption.name]; ok {
		if given {
			return inFile(qemuErrorf("The image size must be specified only once"))
		}
		size, _ = sizearg.Parse(s)
		given = true
	}
	if !given {
		return inFile(qemuErrorf("Image creation needs a size parameter"))
	}
	if !o.quiet {
		fmt.Fprintf(c.stdout, "Formatting '%s', fmt=%s size=%d", name, f.Name, size)
		printSettings(c.stdout, f, opts.set)
		if _, err := io.WriteString(c.stdout, "\n"); err != nil {
			return err
		}
	}
	out, err := c.createOutput(name, f, size, opts.set)
	if err != nil {
		return inFile(withoutPath(err))
	}
	if err := out.commit(false); err != nil {
		return inFile(withoutPath(err))
	}
	if !o.quiet {
		c.warnSize(o.target.consumer, out.disk.Size())
	}
	return nil
}
