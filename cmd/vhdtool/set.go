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
		Short: "Change fields of the footer of a VHD",
		Long: `set changes the UUID, creator, timestamp and flags of the VHD in FILE,
in place. The contents of the disk stay the same.

Two images that are used side by side need different UUIDs: run 'set --uuid new'
on the copy. Do not change the UUID of a parent, because its children identify
it by that UUID.

--creator is refused if readers would compute another disk size. --hidden and
--marker are for XenServer. To change the recorded parent, use 'rebase -u'.`,
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
	fl.StringVarP(&o.format, "format", "f", "", "`FORMAT` of the image (default: detected from the contents)")
	fl.StringVar(&o.uuid, "uuid", "", "set the unique `ID`; new makes a random one")
	fl.StringVar(&o.creator, "creator", "", "set the creator application to `NAME`, up to four characters")
	fl.StringVar(&o.timestamp, "timestamp", "", "set the `TIME` of creation, in RFC 3339 or as seconds since 1970")
	fl.StringVar(&o.hidden, "hidden", "", "set or clear the hidden flag, `on|off`: XenServer does not attach hidden images")
	fl.StringVar(&o.savedState, "saved-state", "", "clear the saved state, `off`: no suspended virtual machine depends on the image any more")
	fl.StringVar(&o.marker, "marker", "", "set the marker in the header of XenServer's batmap to `N`, 0 to 255")
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
