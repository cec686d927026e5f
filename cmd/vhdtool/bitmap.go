package main

import (
	"context"
	"math/bits"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/sizearg"
)

type bitmapOptions struct {
	source       sourceFlags
	actions      []string // in the order in which qemu-img runs them
	granularity  string
	sourceFile   string
	sourceFormat string
	args         []string
}

// bitmapActions are the flags for actions.
var bitmapActions = []string{"add", "remove", "remove-all", "clear", "enable", "disable", "merge"}

func (c *cli) newBitmapCmd() *cobra.Command {
	var o bitmapOptions
	cmd := &cobra.Command{
		Use:    "bitmap {--add | --remove | --clear | --enable | --disable | --merge SOURCE}... FILE BITMAP",
		Short:  "Change the dirty bitmaps of an image",
		Hidden: true, // scripts of qemu-img call it, and get its error
		Long: `bitmap exists for scripts of qemu-img, and fails as qemu-img does: raw
disks and VHDs have no dirty bitmaps.`,
		Annotations: onlyReads,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			for _, name := range bitmapActions {
				if cmd.Flags().Changed(name) {
					o.actions = append(o.actions, name)
				}
			}
			return c.runBitmap(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	fl := cmd.Flags()
	for _, name := range bitmapActions[:len(bitmapActions)-1] {
		fl.Bool(name, false, strings.Replace(name+" the bitmap", "-all the bitmap", " all bitmaps", 1))
	}
	fl.String("merge", "", "merge the bitmap `SOURCE` into BITMAP")
	fl.StringVarP(&o.granularity, "granularity", "g", "", "granularity of a new bitmap, as a `SIZE`")
	fl.StringVarP(&o.sourceFile, "source-file", "b", "", "`FILE` that holds the bitmap to merge")
	fl.StringVarP(&o.sourceFormat, "source-format", "F", "", "`FORMAT` of that file")
	return cmd
}

func (c *cli) runBitmap(_ context.Context, o *bitmapOptions) error {
	size := int64(0)
	if o.granularity != "" {
		var err error
		if size, err = sizearg.Parse(o.granularity); err != nil {
			return sizeError("granularity", o.granularity, err)
		}
	}
	has := func(action string) bool {
		for _, a := range o.actions {
			if a == action {
				return true
			}
		}
		return false
	}
	onlyAll := len(o.actions) == 1 && has("remove-all")
	switch {
	case len(o.actions) == 0:
		return &versionedError{lines: func(v qemuVersion) []string {
			all := ""
			if v >= qemuNewerTalk {
				all = " --remove-all,"
			}
			return []string{"Need at least one of --add, --remove," + all + " --clear, --enable, --disable, or --merge"}
		}}
	case o.granularity != "" && !has("add"):
		return qemuErrorf("granularity only supported with --add")
	case o.sourceFormat != "" && o.sourceFile == "":
		return qemuErrorf("-F only supported with -b")
	case o.sourceFile != "" && !has("merge"):
		return qemuErrorf("Merge bitmap source file only supported with --merge")
	case len(o.args) != 2 && !(onlyAll && len(o.args) == 1):
		return qemuErrorf("Expecting filename and bitmap name")
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
	if o.sourceFile != "" {
		flags := sourceFlags{format: o.sourceFormat}
		other, err := flags.resolve(o.sourceFile)
		if err != nil {
			return err
		}
		src, _, err := c.openToRefuse(other, false)
		if err != nil {
			return err
		}
		defer src.Close()
	}
	if onlyAll {
		return nil
	}
	name := o.args[1]
	switch action := o.actions[0]; {
	case action == "add" && size != 0 && (size < 512 || bits.OnesCount64(uint64(size)) != 1):
		return qemuErrorf("Operation add on bitmap %s failed: Granularity must be power of 2 and at least 512", name)
	case action == "add":
		// Here qemu-img names a node by a number that changes.
		return qemuErrorf("Operation add on bitmap %s failed: Can't store persistent bitmaps to %s: Operation not supported", name, f.Name)
	default:
		return qemuErrorf("Operation %s on bitmap %s failed: Dirty bitmap '%s' not found", action, name, name)
	}
}
