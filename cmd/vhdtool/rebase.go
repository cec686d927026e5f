package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

type rebaseOptions struct {
	source   sourceFlags
	backing  backingFlags
	given    bool // -b
	unsafe   bool
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
	addConsumerFlag(cmd, &o.product, "spell the path to the parent as this product does")
	_ = cmd.RegisterFlagCompletionFunc("backing-format", completeFormats)
	return cmd
}

func (c *cli) runRebase(ctx context.Context, o *rebaseOptions) (err error) {
	if !o.given {
		return usagef("-b says which image is to be the parent")
	}
	if _, err := spellingFor(o.product, nil); err != nil {
		return err
	}
	ref, err := c.differencingFile(&o.source, o.args)
	if err != nil {
		return err
	}
	r := rebase{cli: c, o: o, name: ref.name}
	if o.backing.file != "" {
		if err := r.openParent(); err != nil {
			return err
		}
		defer r.closeParent()
		spelling, err := spellingFor(o.product, r.parent)
		if err != nil {
			return fmt.Errorf("%s: %w", ref.name, err)
		}
		if r.parentage, err = vhd.ParentRecordOf(ref.name, r.parentName, r.parent, spelling); err != nil {
			return fmt.Errorf("%s: %w", ref.name, withoutPath(err))
		}
	}
	if o.unsafe {
		ref.options.Parents = disk.ParentSearch{None: true}
	}
	d, _, err := c.open(ref, true)
	if err != nil {
		return err
	}
	progress := c.newProgress(o.progress, o.quiet, false, 1)
	err = r.run(ctx, d.(*vhd.Image), progress.update)
	progress.finish(err == nil)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err == nil && r.o.backing.file != "" && !o.quiet {
		c.warnApart(ref.name)
	}
	return c.copyError(ref.name, ref.name, err)
}

// rebase is a change of parent.
type rebase struct {
	*cli
	o    *rebaseOptions
	name string

	parent     disk.Disk // the new one; nil for none, or when the image has it
	parentName string
	parentage  vhd.ParentRecord
}

// openParent opens the new parent, which must not be a child of the image.
func (r *rebase) openParent() error {
	parents := disk.ParentSearch{Dirs: r.o.source.parents.Dirs, Trust: r.o.source.parents.Trust}
	d, name, _, err := r.openBacking(&r.o.backing, r.name, parents)
	if search := (*vhd.ParentError)(nil); r.o.unsafe && errors.As(err, &search) && search.Kind != vhd.ErrParentLoop {
		// Perhaps it is the next one to be given a parent.
		d, name, _, err = r.openBacking(&r.o.backing, r.name, disk.ParentSearch{None: true})
	}
	if err != nil {
		return err
	}
	if err := refuseMadeOf(d, name, r.name); err != nil {
		d.Close()
		return err
	}
	r.parent, r.parentName = d, name
	return nil
}

func (r *rebase) closeParent() {
	if r.parent != nil {
		r.parent.Close()
	}
}

func (r *rebase) run(ctx context.Context, img *vhd.Image, progress func(done, total int64)) error {
	none := r.parent == nil
	switch {
	case r.o.unsafe && none:
		return errors.New("-u needs a parent: without one, what the image does not have would be lost")
	case !none && r.parent.Size() > img.Size():
		return fmt.Errorf("the new parent has %d bytes, more than the image, which has %d", r.parent.Size(), img.Size())
	case r.o.unsafe:
		return img.SetParent(nil, r.parentage)
	}
	err := convert.CopyDifference(ctx, img, img, r.parent, &convert.Options{
		Workers: workers(0),
		// All that is not in the image itself: the parent's, and what is behind its end.
		Only:     func(e disk.Extent) bool { return e.Depth > 0 || e.State != disk.Data },
		Progress: progress,
	})
	if err != nil {
		return err
	}
	if none {
		return img.Detach(ctx, nil)
	}
	err = img.SetParent(r.parent, r.parentage)
	if err == nil {
		r.parent = nil // the image closes it
	}
	return err
}
