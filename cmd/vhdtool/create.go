package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

type createCmdOptions struct {
	target  targetFlags
	format  string
	options []string
	backing backingFlags
	force   bool // replace an existing file by a differencing image
	quiet   bool
	args    []string
}

func (c *cli) newCreateCmd() *cobra.Command {
	var o createCmdOptions
	cmd := &cobra.Command{
		Use:   "create [-f FORMAT] [-o OPTIONS] [--for PRODUCT] [-b PARENT [-F FORMAT]] FILE [SIZE]",
		Short: "Create an empty image",
		Long: `create creates the image FILE, whose disk has SIZE and reads as zeros.
Without -f, the suffix of FILE selects the format: .vhd, .vpc and .avhd
mean VHD, .vhdx and .avhdx mean VHDX, all others mean raw. An existing FILE
is replaced.

SIZE is in bytes. A suffix k, M, G, T, P or E multiplies it by a power of 1024.
The size of a VHD is rounded up to the next disk geometry, unless -o force_size
is set. Most products of --for set it.

With -b PARENT, FILE is a differencing VHD: its disk reads as the disk of
PARENT, and FILE stores the changes. SIZE defaults to the size of PARENT. An
existing FILE is replaced only with --force. Do not change PARENT while it has
children, because they become invalid.`,
		Example: "  vhdtool create disk.vhd 40G\n" +
			"  vhdtool create --for azure disk.vhd 40G\n" +
			"  vhdtool create -f vpc -o subformat=fixed,force_size disk.vhd 10M\n" +
			"  vhdtool create -b base.vhd child.vhd",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runCreate(cmd.Context(), &o)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&o.format, "format", "f", "", "`FORMAT` of the image: vpc (or vhd), or raw")
	fl.StringArrayVarP(&o.options, "options", "o", nil, "`OPTIONS` of the format, as key=value,...; '-o help' lists them")
	o.backing.add(cmd, "b")
	fl.BoolP("backing-unsafe", "u", false, "accepted for compatibility")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print only errors")
	fl.BoolVar(&o.force, "force", false, "with -b: replace an existing FILE")
	markOwn(cmd, "force")
	o.target.add(cmd, "format")
	addAlias(cmd, "backing-format", "", "B") // from qemu 11 on
	markIgnored(cmd, "backing-unsafe")
	return cmd
}

func (c *cli) runCreate(ctx context.Context, o *createCmdOptions) error {
	name := ""
	if len(o.args) > 0 {
		name = fileName(o.args[0])
	}
	if c.isPipe(name) {
		return &hintError{errors.New("create needs the name of a file, found -"), "'convert SOURCE -' writes an image to standard output"}
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
			return swappedError(sizeError("image size", o.args[1], perr), "create", o.args)
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
		if !o.force && !c.likeQEMU && isRegular(name) && !disk.SameFile(fileName(o.backing.file), name) {
			return &hintError{inFile(errors.New("the file exists")), "--force replaces it; the changes that an old child stores are lost then"}
		}
		if err := c.createDifferencing(name, f, o, size, opts.set); err != nil {
			return inFile(err)
		}
		return nil
	}
	if !given {
		err := qemuErrorf("Image creation needs a size parameter")
		if isSize(name) {
			return &hintError{inFile(err), fmt.Sprintf("the file comes before the size: 'create disk.vhd %s'", name)}
		}
		return &hintError{inFile(err), "'create disk.vhd 10G' makes a disk of 10 GiB"}
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
	progress := c.newProgress(false, o.quiet, false, 1)
	defer progress.finish(true)
	if err := f.applyFileOptions(ctx, out, opts.set, true, progress.update); err != nil {
		out.Discard()
		return inFile(err)
	}
	if err := out.Commit(false); err != nil {
		return inFile(withoutPath(err))
	}
	return nil
}

// isRegular reports whether a file of that name exists and is not a device.
func isRegular(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode().IsRegular()
}
