package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

type snapshotOptions struct {
	source                sourceFlags
	list                  bool
	create, apply, delete string
	actions               int // number of the four flags given
	quiet                 bool
	args                  []string
}

func (c *cli) newSnapshotCmd() *cobra.Command {
	var o snapshotOptions
	cmd := &cobra.Command{
		Use:    "snapshot [-l | -c NAME | -a NAME | -d NAME] FILE",
		Short:  "List the snapshots of an image",
		Hidden: true, // for scripts
		Long: `snapshot exists for scripts of qemu-img. Raw disks and VHDs have no
snapshots, so the list is empty, and the other actions fail. To keep the
present state of a disk, make a child with 'create -b' and use the
child.`,
		Example:     "  vhdtool snapshot -l disk.vhd",
		Annotations: onlyReads,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			for _, name := range []string{"list", "create", "apply", "delete"} {
				if cmd.Flags().Changed(name) {
					o.actions++
				}
			}
			return c.runSnapshot(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	fl := cmd.Flags()
	fl.BoolVarP(&o.list, "list", "l", false, "list the snapshots (default)")
	fl.StringVarP(&o.create, "create", "c", "", "create the snapshot `NAME`")
	fl.StringVarP(&o.apply, "apply", "a", "", "return to the snapshot `NAME`")
	fl.StringVarP(&o.delete, "delete", "d", "", "delete the snapshot `NAME`")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print only errors")
	return cmd
}

func (c *cli) runSnapshot(_ context.Context, o *snapshotOptions) error {
	switch {
	case o.actions > 1:
		return usagef("Cannot mix '-l', '-a', '-c', '-d'")
	case len(o.args) != 1:
		return usagef("Expecting one image file name")
	}
	if err := o.source.check(); err != nil {
		return err
	}
	ref, err := o.source.resolve(o.args[0])
	if err != nil {
		return err
	}
	write := o.actions == 1 && !o.list
	if write && o.source.share {
		return qemuErrorf("Could not open '%s': force-share=on can only be used with read-only images", ref.name)
	}
	d, _, err := c.openToRefuse(ref, write)
	if err != nil {
		return err
	}
	defer d.Close()
	switch {
	case o.create != "":
		name := o.create
		return &hintError{&versionedError{lines: func(v qemuVersion) []string {
			if v < qemuNewWords {
				return []string{"Could not create snapshot '" + name + "': -95 (Operation not supported)"}
			}
			return []string{"Could not create snapshot '" + name + "': Operation not supported"}
		}}, fmt.Sprintf("'create -b %s CHILD' keeps the present state: CHILD stores the changes", quoteArg(ref.name))}
	case o.apply != "":
		return qemuErrorf("Could not apply snapshot '%s': Block driver does not support snapshots", o.apply)
	case o.delete != "":
		return qemuErrorf("Could not delete snapshot '%s': snapshot not found", o.delete)
	}
	return nil
}
