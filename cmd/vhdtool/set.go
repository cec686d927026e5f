package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

type setOptions struct {
	format     string
	uuid       string
	creator    string
	timestamp  string
	hidden     string
	savedState string
	marker     string
	args       []string
}

func (c *cli) newSetCmd() *cobra.Command {
	var o setOptions
	cmd := &cobra.Command{
		Use:   "set [--uuid ID|new] [--creator NAME] [--timestamp TIME] [--saved-state off] [--hidden on|off] [--marker N] FILE",
		Short: "Change what a VHD says of itself",
		Long: `Change fields of the footer of the VHD in FILE, in place. The contents of the disk
stay as they are. A copy that is to be used beside the original needs an id of
its own; but an image that differencing ones are made of keeps its id, by which
they know it.

--creator is refused where readers would take another size for the disk's.
--hidden and --marker are for images of XenServer. To change the parent of a
differencing image, see 'rebase -u'.`,
		Example: "  vhdtool set --uuid new copy.vhd\n  vhdtool set --saved-state off disk.vhd",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			if cmd.Flags().NFlag() == 0 {
				return usagef("Nothing to set")
			}
			return c.runSet(cmd.Context(), &o)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&o.format, "format", "f", "", "format of the image (default: found out by its contents)")
	fl.StringVar(&o.uuid, "uuid", "", "unique id, or new for a random one")
	fl.StringVar(&o.creator, "creator", "", "creator application, up to four characters")
	fl.StringVar(&o.timestamp, "timestamp", "", "time of creation, RFC 3339 or seconds since 1970")
	fl.StringVar(&o.hidden, "hidden", "", "on or off: XenServer is not to attach the image")
	fl.StringVar(&o.savedState, "saved-state", "", "off: no suspended virtual machine depends on the image any more")
	fl.StringVar(&o.marker, "marker", "", "byte in the header of XenServer's batmap, 0 to 255")
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormats)
	return cmd
}

func (c *cli) runSet(_ context.Context, o *setOptions) (err error) {
	if len(o.args) != 1 {
		return usagef("Expecting one image file name")
	}
	flags := sourceFlags{format: o.format, parents: disk.ParentSearch{None: true}, force: o.savedState != ""}
	ref, err := flags.resolve(o.args[0])
	if err != nil {
		return err
	}
	d, f, err := c.open(ref, true)
	if err != nil {
		return err
	}
	if f.set == nil {
		d.Close()
		return fmt.Errorf("%s: not a VHD", ref.name)
	}
	err = f.set(d, o)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", ref.name, withoutPath(err))
	}
	return nil
}
