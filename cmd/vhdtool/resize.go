package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/gpt"
	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/internal/target"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

type resizeOptions struct {
	source        sourceFlags
	target        targetFlags
	preallocation string
	shrink        bool
	quiet         bool
	args          []string
}

func (c *cli) newResizeCmd() *cobra.Command {
	var o resizeOptions
	cmd := &cobra.Command{
		Use:   "resize [-f FORMAT] [--shrink] [--align SIZE] [--for PRODUCT] FILE [[+|-]SIZE]",
		Short: "Change the size of a disk in place",
		Long: `resize sets the size of the disk in FILE to SIZE, or changes it by +SIZE
or -SIZE. New space reads as zeros. Making a disk smaller needs
--shrink, and the data beyond the new end is lost. Partitions and file
systems keep their sizes; resize them in the guest.

Each step is safe against crashes: afterwards the image has the old size or the
new one. If the creator of a VHD is qemu or vpc, some readers compute its size from
the geometry. resize then rounds the size up to the next geometry, unless --align
or --for is given.

--align and --for round the size up. Without SIZE they round the present size.
--for fails if the product would not accept the resized image.`,
		Example: "  vhdtool resize disk.vhd 60G\n" +
			"  vhdtool resize disk.vhd +10G\n" +
			"  vhdtool resize --shrink disk.vhd -1G\n" +
			"  vhdtool resize --for azure disk.vhd",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runResize(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	o.source.addForce(cmd)
	o.target.addSize(cmd, "round the size up so that `PRODUCT` accepts the VHD")
	fl := cmd.Flags()
	fl.StringVar(&o.preallocation, "preallocation", "off", "reserve new space of a raw or fixed disk by `MODE`: off, falloc (allocate) or full (write zeros)")
	fl.BoolVar(&o.shrink, "shrink", false, "allow the disk to become smaller")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print only errors")
	return cmd
}

// resizePreallocation parses --preallocation.
func resizePreallocation(mode string) (target.Preallocation, error) {
	p, err := parsePreallocation(mode)
	if err != nil && mode != "metadata" {
		return 0, &hintError{qemuErrorf("Invalid preallocation mode '%s'", mode), "the modes are off, falloc and full"}
	}
	return p, err
}

// exactResizer is a disk that can be resized without rounding; Resize may round.
type exactResizer interface {
	ResizeExact(ctx context.Context, size int64, progress disk.Progress) error
}

// resized returns the new size in bytes of the disk in the named file, and whether it is exact. It
// is an error if the product will not accept the image.
func (t *targetFlags) resized(f *format, d disk.Disk, name string, size int64) (n int64, exact bool, err error) {
	if *t == (targetFlags{}) {
		return size, false, nil
	}
	if err := t.apply(f, disk.Options{}); err != nil {
		return 0, false, err
	}
	exact = true
	var p *product.Product
	if t.product != "" {
		if p, err = product.Find(t.product); err != nil {
			return 0, false, err
		}
		size, exact = p.ResizedSize(size)
	}
	if t.align != "" {
		align, err := optlist.Size(alignOption.name, t.align)
		if err != nil {
			return 0, false, err
		}
		if align == 0 || align%disk.SectorSize != 0 {
			return 0, false, fmt.Errorf("alignment %d: want a multiple of 512", align)
		}
		if rest := size % align; rest != 0 {
			size += align - rest
		}
		exact = true
	}
	if p == nil {
		return size, exact, nil
	}
	st, err := os.Stat(name)
	if err != nil {
		return 0, false, withoutPath(err)
	}
	length, err := fileLength(name, st)
	if err != nil {
		return 0, false, withoutPath(err)
	}
	broken, err := f.examineResized(d, p, length, size, exact)
	if err == nil && len(broken) > 0 {
		err = promiseError(p, nil, broken)
	}
	return size, exact, err
}

// rawWarning is qemu-img's, for a raw disk whose format was not given.
const rawWarning = `WARNING: Image format was not specified for '%s' and probing guessed raw.
         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.
         Specify the 'raw' format explicitly to remove the restrictions.
`

func (c *cli) runResize(ctx context.Context, o *resizeOptions) (err error) {
	switch {
	case len(o.args) == 1 && o.target != (targetFlags{}):
		o.args = append(o.args, "+0")
	case len(o.args) == 0 || len(o.args) == 1 && o.source.format == "":
		return usagef("Not enough arguments")
	case len(o.args) != 2:
		return usagef("Expecting image file name and size")
	}
	mode, err := resizePreallocation(o.preallocation)
	if err != nil {
		return err
	}
	relative := int64(0)
	arg := o.args[1]
	if rest, ok := strings.CutPrefix(arg, "+"); ok {
		arg, relative = rest, 1
	} else if rest, ok := strings.CutPrefix(arg, "-"); ok {
		arg, relative = rest, -1
	}
	size, err := optlist.Size("size", arg)
	if err != nil {
		return swappedError(err, "resize", o.args)
	}
	if err := o.source.check(); err != nil {
		return err
	}
	ref, err := o.source.resolve(o.args[0])
	if err != nil {
		return err
	}
	d, f, err := c.open(ref, true)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := d.Close(); err == nil {
			err = cerr
		}
	}()
	c.warnRaw(ref, f)
	if relative != 0 {
		size = d.Size() + relative*size
	}
	if size <= 0 {
		return qemuErrorf("New image size must be positive")
	}
	size, exact, err := o.target.resized(f, d, ref.name, size)
	if err != nil {
		return fmt.Errorf("%s: %w", ref.name, creationError(f, err))
	}
	if size < d.Size() && !o.shrink {
		return errors.Join(qemuErrorf("Use the --shrink option to perform a shrink operation."),
			qemuErrorf("warning: Shrinking an image will delete all data beyond the shrunken image's end. "+
				"Before performing such an operation, make sure there is no important data there."))
	}
	r, ok := d.(disk.Resizer)
	if !ok {
		return qemuErrorf("Image format driver does not support resize")
	}
	if mode != target.PreallocateOff && size <= d.Size() {
		return qemuErrorf("Preallocation can only be used for growing images")
	}
	if b, ok := d.(disk.Blocker); ok && b.BlockSize() != 0 && mode != target.PreallocateOff {
		return fmt.Errorf("%s: --preallocation=%s needs a raw or fixed disk", ref.name, o.preallocation)
	}
	resizeTo := r.Resize
	if x, ok := d.(exactResizer); ok && exact {
		resizeTo = x.ResizeExact
	}
	old := d.Size()
	backup, hasGPT := gpt.BackupLBA(d)
	progress := c.newProgress(false, o.quiet, false, 1)
	defer func() { progress.finish(err == nil) }()
	if err := growReserved(ctx, d, ref.name, mode, resizeTo, size, progress.update); err != nil {
		return fmt.Errorf("%s: %w", ref.name, creationError(f, withoutPath(err)))
	}
	if o.quiet {
		return nil
	}
	fmt.Fprintln(c.stdout, "Image resized.")
	if got := d.Size(); got != size && !c.likeQEMU {
		fmt.Fprintf(c.stdout, "The disk is now %s, the next size that the image can have.\n", humanSize(got))
	}
	if hasGPT {
		c.warnResizedGPT(ref.name, backup, old, d.Size())
	}
	return nil
}
