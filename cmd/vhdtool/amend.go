package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

type amendOptions struct {
	source   sourceFlags
	options  []string
	cache    string
	progress bool
	quiet    bool
	args     []string
}

func (c *cli) newAmendCmd() *cobra.Command {
	var o amendOptions
	cmd := &cobra.Command{
		Use:    "amend -o OPTIONS [-f FORMAT] FILE",
		Short:  "Change the options of an image",
		Hidden: true, // scripts of qemu-img call it, and get its error
		Long: `amend exists for scripts of qemu-img, and fails as qemu-img does: raw
disks and VHDs have no options that can be changed. 'set' changes fields
of a VHD, and 'resize' its size.`,
		Annotations: onlyReads,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runAmend(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	fl := cmd.Flags()
	fl.StringArrayVarP(&o.options, "options", "o", nil, "`OPTIONS`, as key=value,...")
	fl.StringVarP(&o.cache, "cache", "t", "writeback", "cache `MODE`, accepted for compatibility")
	fl.Bool("force", false, "accepted for compatibility")
	fl.BoolVarP(&o.progress, "progress", "p", false, "print the progress in per cent")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print only errors")
	addAlias(cmd, "progress", "progres", "") // as qemu-img's help spells it
	markIgnored(cmd, "cache", "force")
	return cmd
}

func (c *cli) runAmend(_ context.Context, o *amendOptions) error {
	if len(o.options) == 0 {
		return usagef("Must specify options (-o)")
	}
	help := false
	for _, list := range o.options {
		opts, err := optlist.Parse(list)
		if err != nil {
			return qemuErrorf("%w: %s", errOptionList, list)
		}
		help = help || optlist.HasHelp(opts)
	}
	refuse := func(f *format) error {
		return &hintError{
			qemuErrorf("Format driver '%s' does not support option amendment", f.Name),
			"'set' changes fields of a VHD, 'resize' the size, and 'convert' makes a new image",
		}
	}
	if help && len(o.args) == 0 {
		f, err := formatByName(o.source.format)
		if err != nil {
			return err
		}
		return refuse(f)
	}
	if len(o.args) != 1 {
		return qemuErrorf("Expecting one image file name")
	}
	if _, ok := cacheMode(o.cache); !ok {
		return cacheError("cache", o.cache)
	}
	if err := o.source.check(); err != nil {
		return err
	}
	ref, err := o.source.resolve(o.args[0])
	if err != nil {
		return err
	}
	d, f, err := c.openToRefuse(ref, true)
	if err != nil {
		return err
	}
	defer d.Close()
	if o.progress && !o.quiet {
		fmt.Fprintln(c.stdout)
	}
	return refuse(f)
}

// openToRefuse opens an image for an operation that no format supports, so that errors of the image
// are reported first. With write, a raw disk whose format was not given gets qemu-img's warning.
func (c *cli) openToRefuse(ref imageRef, write bool) (disk.Disk, *format, error) {
	ref.options.Parents.None = true
	d, f, err := c.open(ref, false)
	if err == nil && write {
		c.warnRaw(ref, f)
	}
	return d, f, err
}
