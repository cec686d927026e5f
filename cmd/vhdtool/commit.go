package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/chain"
)

type commitOptions struct {
	source   sourceFlags
	base     string
	cache    string
	rate     string
	keep     bool // do not empty the image
	keepID   bool // keep the unique id of the changed parent
	progress bool
	quiet    bool
	args     []string
}

func (c *cli) newCommitCmd() *cobra.Command {
	var o commitOptions
	cmd := &cobra.Command{
		Use:   "commit [-b BASE] [-d] [-p] [-q] FILE",
		Short: "Merge a differencing VHD into its parent",
		Long: `commit writes the changes that FILE stores into its parent, or with -b
into BASE, an image further down the chain. Then FILE is emptied and
reads the same through its parent. With -d or -b, it is not emptied.

All other children of the changed image become invalid, and so do the images
between FILE and BASE. The changed image and the images between get new unique
ids, so that their other children are refused from then on. --keep-id keeps the
ids. VirtualBox needs that for registered disks. A raw parent has no id.

FILE changes only after the data is durable in the parent. If commit fails
before that, run it again.`,
		Example: "  vhdtool commit child.vhd\n" +
			"  vhdtool commit -b base.vhd grandchild.vhd",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runCommit(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	o.source.addForce(cmd)
	fl := cmd.Flags()
	fl.StringVarP(&o.base, "base", "b", "", "merge into `BASE`, one of the parents")
	fl.BoolVar(&o.keepID, "keep-id", false, "keep the unique ids: other children are invalid, but not refused")
	markOwn(cmd, "keep-id")
	fl.BoolVarP(&o.keep, "drop", "d", false, "do not empty the image afterwards")
	fl.StringVarP(&o.cache, "cache", "t", "writeback", "cache `MODE`, accepted for compatibility: changes are always durable")
	fl.StringVarP(&o.rate, "rate-limit", "r", "", "read at most `SIZE` of data per second; holes do not count")
	fl.BoolVarP(&o.progress, "progress", "p", false, "print the progress in per cent")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print only errors")
	markIgnored(cmd, "cache")
	return cmd
}

func (c *cli) runCommit(ctx context.Context, o *commitOptions) error {
	if _, ok := cacheMode(o.cache); !ok {
		return cacheError("cache", o.cache)
	}
	rate, err := parseRate(o.rate)
	if err != nil {
		return err
	}
	ref, err := c.differencingFile(&o.source, o.args)
	if c.likeQEMU && o.base != "" && errors.Is(err, errNoBacking) {
		return qemuErrorf("Did not find '%s' in the backing chain of '%s'", o.base, ref.name)
	}
	if err != nil {
		return err
	}
	vo, err := vhd.ParseOpenOptions(&ref.options)
	if err != nil {
		return err
	}
	vo.NoLock = false
	progress := c.newProgress(o.progress, o.quiet, false, 1)
	co := chain.CommitOptions{
		Base: fileName(o.base), Keep: o.keep, KeepID: o.keepID || c.likeQEMU, Open: *vo,
		Workers: workers(0), Progress: progress.update,
	}
	if throttle := source.NewThrottle(ctx, rate, c.pause); throttle != nil {
		co.ReadThrough = throttle.Disk
	}
	err = chain.Commit(ctx, ref.name, &co)
	progress.finish(err == nil)
	if err != nil {
		return hintFor(pathFirst(err), ref)
	}
	if !o.quiet {
		fmt.Fprintln(c.stdout, "Image committed.")
		if intoRaw(ref.name, fileName(o.base)) {
			c.warn(warning{ref.name + ": the changed parent is a raw disk, which has no unique id: its other children are invalid now, but are not refused", ""})
		}
	}
	return nil
}

// intoRaw reports whether the image in the named file was merged into a raw disk: base, or its own
// parent if base is "".
func intoRaw(name, base string) bool {
	if base != "" {
		f, size, err := disk.OpenFile(base, false, nil)
		if err != nil {
			return false
		}
		defer f.Close()
		return errors.Is(vhd.Probe(f, size), disk.ErrNotThisFormat)
	}
	img, err := vhd.Open(name, &vhd.OpenOptions{NoLock: true, Parents: disk.ParentSearch{None: true}})
	if err != nil {
		return false
	}
	defer img.Close()
	return img.ParentRecord().ID == uuid.Nil
}

// differencingFile opens the only image of a command line, which must be a differencing image.
func (c *cli) differencingFile(flags *sourceFlags, args []string) (imageRef, error) {
	alone := *flags
	alone.parents = disk.ParentSearch{None: true}
	ref, d, f, err := c.openOne(&alone, args)
	if err != nil {
		return ref, err
	}
	defer d.Close()
	if c.likeQEMU {
		c.warnRaw(ref, f)
	}
	if child, ok := d.(disk.Child); !ok || f != &vpcFormat {
		return ref, c.noBacking(ref)
	} else if _, has := child.RecordedParent(); !has {
		return ref, c.noBacking(ref)
	}
	ref.options.Parents, ref.options.Force = flags.parents, flags.force
	return ref, nil
}

// noBacking is the error of an image without a parent; qemu-img does not name it.
func (c *cli) noBacking(ref imageRef) error {
	if c.likeQEMU {
		return errNoBacking
	}
	return fmt.Errorf("%s: %w", ref.name, errNoBacking)
}

var errNoBacking = qemuErrorf("Image does not have a backing file")
