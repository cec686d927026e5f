package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/chain"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

type rebaseOptions struct {
	source   sourceFlags
	backing  backingFlags
	given    bool // whether -b is given
	unsafe   bool
	compress bool
	cache    string
	srcCache string
	product  string // for the form of the recorded paths
	progress bool
	quiet    bool
	args     []string
}

func (c *cli) newRebaseCmd() *cobra.Command {
	var o rebaseOptions
	cmd := &cobra.Command{
		Use:   "rebase [-u] -b PARENT [-F FORMAT] [--for PRODUCT] [-p] [-q] FILE",
		Short: "Change the parent of a differencing VHD",
		Long: `rebase makes PARENT the parent of the differencing VHD in FILE. The disk
stays the same: data that is missing from or different in the new parent
is copied into FILE first. With -b "", FILE receives all inherited data
and has no parent afterwards.

With -u, only the record of the parent changes, and no data is compared. Use it
after a parent was moved, or if both parents have the same contents. A parent
that is larger than FILE or a child of FILE is refused.

FILE keeps its kinds of parent locators, and the new path has the form of the
old one. If the command or the machine fails, FILE has its old parent or the new
one, and the same disk with both.`,
		Example: "  vhdtool rebase -b other.vhd child.vhd\n" +
			"  vhdtool rebase -u -b moved/base.vhd child.vhd\n" +
			"  vhdtool rebase -b \"\" child.vhd",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			o.given = cmd.Flags().Changed("backing")
			return c.runRebase(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	o.source.addForce(cmd)
	fl := cmd.Flags()
	fl.StringVarP(&o.backing.file, "backing", "b", "", "make `PARENT` the new parent; \"\" for none")
	fl.StringVarP(&o.backing.format, "backing-format", "F", "", "`FORMAT` of the new parent (required if it is raw)")
	fl.BoolVarP(&o.unsafe, "unsafe", "u", false, "change only the record of the parent")
	fl.StringVarP(&o.cache, "cache", "t", "writeback", "cache `MODE`, accepted for compatibility: changes are always durable")
	fl.StringVarP(&o.srcCache, "source-cache", "T", "writeback", "cache `MODE`, accepted for compatibility")
	fl.BoolVarP(&o.progress, "progress", "p", false, "print the progress in per cent")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print only errors")
	addProductFlag(cmd, &o.product, "record the paths to the parent in the form that `PRODUCT` expects")
	_ = cmd.RegisterFlagCompletionFunc("backing-format", completeFormats)
	fl.BoolVarP(&o.compress, "compress", "c", false, "refused: no format here compresses")
	_ = fl.MarkHidden("compress")
	addAlias(cmd, "backing-format", "", "B") // from qemu 11 on
	addAlias(cmd, "unsafe", "backing-unsafe", "")
	addAlias(cmd, "source-cache", "backing-cache", "")
	markIgnored(cmd, "cache", "source-cache")
	return cmd
}

func (c *cli) runRebase(ctx context.Context, o *rebaseOptions) error {
	if !o.given && !c.likeQEMU {
		return usagef("-b PARENT names the new parent")
	}
	if !o.given {
		return usagef("Must specify backing file (-b) or use unsafe mode (-u)")
	}
	if o.compress {
		return qemuErrorf("Compression not supported for this file format")
	}
	for _, mode := range []struct{ what, name string }{{"cache", o.cache}, {"source cache", o.srcCache}} {
		if _, ok := cacheMode(mode.name); !ok {
			return qemuErrorf("Invalid %s option: %s", mode.what, mode.name)
		}
	}
	if o.product != "" {
		if _, err := product.Find(o.product); err != nil {
			return err
		}
	}
	ref, err := c.differencingFile(&o.source, o.args)
	if c.likeQEMU && errors.Is(err, errNoBacking) {
		why := "Operation not supported"
		if o.unsafe && o.backing.file != "" && o.backing.format == "" {
			why = "backing format must be specified"
		}
		return qemuErrorf("Could not change the backing file to '%s': %s", o.backing.file, why)
	}
	if err != nil {
		return err
	}
	vo, err := vhd.ParseOpenOptions(&ref.options)
	if err != nil {
		return err
	}
	vo.NoLock = false
	ro := chain.RebaseOptions{Unsafe: o.unsafe, Open: *vo, Workers: workers(0)}
	if o.backing.file != "" {
		if err := c.findNewParent(ref.name, o, &ro); err != nil {
			return err
		}
	}
	progress := c.newProgress(o.progress, o.quiet, false, 1)
	ro.Progress = progress.update
	err = chain.Rebase(ctx, ref.name, &ro)
	progress.finish(err == nil)
	if newParent := (*chain.NewParentError)(nil); errors.As(err, &newParent) {
		ref.name, ref.backing = ro.Parent, true
	}
	if err != nil {
		return hintFor(pathFirst(err), ref)
	}
	if ro.Parent != "" && !o.quiet {
		c.warnApart(ref.name)
	}
	return nil
}

// findNewParent finds the file that the flags name, and its format, for the image in the named
// file.
func (c *cli) findNewParent(name string, o *rebaseOptions, ro *chain.RebaseOptions) error {
	d, parent, f, err := c.openBacking(&o.backing, name, disk.ParentSearch{None: true})
	if err != nil {
		return err
	}
	defer d.Close()
	if o.product != "" {
		style, err := pathStyleFor(o.product, d)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		ro.Paths = &style
	}
	ro.Parent, ro.Raw = parent, f == &rawFormat
	return nil
}
