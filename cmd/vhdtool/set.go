package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
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
	d, _, err := c.open(ref, true)
	if err != nil {
		return err
	}
	img, ok := d.(*vhd.Image)
	if !ok {
		d.Close()
		return fmt.Errorf("%s: not a VHD", ref.name)
	}
	err = o.apply(img)
	if cerr := img.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", ref.name, withoutPath(err))
	}
	return nil
}

// apply changes the footer, all of it at once, and the marker.
func (o *setOptions) apply(img *vhd.Image) error {
	f := img.Footer()
	if err := o.changeFooter(&f); err != nil {
		return err
	}
	marker := uint64(0)
	if o.marker != "" {
		var err error
		if marker, err = strconv.ParseUint(o.marker, 0, 8); err != nil {
			return fmt.Errorf("marker '%s': want a number from 0 to 255", o.marker)
		}
		if _, ok := img.Marker(); !ok {
			return errors.New("--marker is for images with a batmap of XenServer")
		}
	}
	if f != img.Footer() {
		if err := img.SetFooter(f); err != nil {
			return err
		}
	}
	if o.marker != "" {
		return img.SetMarker(byte(marker))
	}
	return nil
}

func (o *setOptions) changeFooter(f *vhd.Footer) error {
	switch o.uuid {
	case "":
	case "new":
		id, err := uuid.NewRandom()
		if err != nil {
			return err
		}
		f.UniqueID = id
	default:
		id, err := uuid.Parse(o.uuid)
		if err != nil || id == uuid.Nil {
			return fmt.Errorf("uuid '%s': want an id like 0f2c3e5a-6b1d-4c8e-9a57-3d2b1e0f4c6d, or new", o.uuid)
		}
		f.UniqueID = id
	}
	if o.creator != "" {
		creator, err := vhd.ParseCreator(o.creator)
		if err != nil {
			return err
		}
		if err := f.SetCreator(creator); err != nil {
			return err
		}
	}
	if o.timestamp != "" {
		t, err := parseTime(o.timestamp)
		if err != nil {
			return err
		}
		if f.Timestamp, err = vhd.TimestampOf(t); err != nil {
			return err
		}
	}
	if o.hidden != "" {
		on, ok := parseBool(o.hidden)
		if !ok {
			return fmt.Errorf("--hidden '%s': want on or off", o.hidden)
		}
		if err := f.SetHidden(on); err != nil {
			return err
		}
	}
	if o.savedState != "" {
		if on, ok := parseBool(o.savedState); !ok || on {
			return fmt.Errorf("--saved-state '%s': want off", o.savedState)
		}
		f.SavedState = 0
	}
	return nil
}
