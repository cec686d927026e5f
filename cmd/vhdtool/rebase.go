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
	given    bool // -b
	unsafe   bool
	compress bool
	cache    string
	srcCache string
	product  string // whose spelling of paths
	progress bool
	quiet    bool
	args     []string
}

func (c *cli) newRebaseCmd() *cobra.Command {
	var o rebaseOptions
	cmd := &cobra.Command{
		Use:   "rebase [-u] -b PARENT [-F FORMAT] [-p] [-q] FILE",
		Short: "Give a differencing VHD another parent",
		Long: `Make PARENT the parent of the differencing VHD in FILE. The disk stays the same:
what the new parent has not, or has otherwise, is written to FILE first. With
-b "" FILE gets all that it inherits, and has no parent afterwards.

With -u only the record of the parent changes, and its path with it: for a parent
that was moved, or whose contents are the same. Nothing is compared, but a parent
that is made of FILE, or larger, is refused all the same.

The new path has the form of the old one: FILE keeps its kinds of parent locators.

If it fails, or the machine does, FILE has its old parent or the new one, and the
same disk with both.`,
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
	fl.StringVarP(&o.backing.file, "backing", "b", "", "the new parent; \"\" for none")
	fl.StringVarP(&o.backing.format, "backing-format", "F", "", "format of the new parent; raw must be said")
	fl.BoolVarP(&o.unsafe, "unsafe", "u", false, "change only the record of the parent")
	fl.StringVarP(&o.cache, "cache", "t", "writeback", "cache mode, accepted for compatibility: what is changed is durable at the end")
	fl.StringVarP(&o.srcCache, "source-cache", "T", "writeback", "cache mode, accepted for compatibility")
	fl.BoolVarP(&o.progress, "progress", "p", false, "print the progress in per cent")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but errors")
	addProductFlag(cmd, &o.product, "spell the paths to the parent as this product does, not as FILE did before")
	_ = cmd.RegisterFlagCompletionFunc("backing-format", completeFormats)
	fl.BoolVarP(&o.compress, "compress", "c", false, "accepted to be refused: no format here compresses")
	_ = fl.MarkHidden("compress")
	addAlias(cmd, "backing-format", "", "B") // from qemu 11 on
	addAlias(cmd, "unsafe", "backing-unsafe", "")
	addAlias(cmd, "source-cache", "backing-cache", "")
	return cmd
}

func (c *cli) runRebase(ctx context.Context, o *rebaseOptions) error {
	if !o.given && !c.likeQEMU {
		return usagef("-b says which image is to be the parent")
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

// findNewParent finds the file that the flags name, and its format, for the image in
// the named file.
func (c *cli) findNewParent(name string, o *rebaseOptions, ro *chain.RebaseOptions) error {
	d, parent, f, err := c.openBacking(&o.backing, name, disk.ParentSearch{None: true})
	if err == nil {
		if err = refuseParentFormat(d, parent); err != nil {
			d.Close()
		}
	}
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
