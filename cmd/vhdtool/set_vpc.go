package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// setVPC changes the footer of a VHD in one write, and the hidden marker.
func setVPC(d disk.Disk, o *setOptions) error {
	img := d.(*vhd.Image)
	f := img.Footer()
	_, batmap := img.Marker()
	if err := o.changeFooter(&f, batmap); err != nil {
		return err
	}
	marker := uint64(0)
	if o.marker != "" {
		var err error
		if marker, err = strconv.ParseUint(o.marker, 0, 8); err != nil {
			return fmt.Errorf("marker '%s': want a number from 0 to 255", o.marker)
		}
		if !batmap {
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

// changeFooter sets the fields that the flags name. The image may have a batmap.
func (o *setOptions) changeFooter(f *vhd.Footer, batmap bool) error {
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
		if err := f.SetCreator(creator, batmap); err != nil {
			return err
		}
	}
	if o.timestamp != "" {
		t, err := vhd.ParseTime(o.timestamp)
		if err != nil {
			return err
		}
		if f.Timestamp, err = vhd.TimestampOf(t); err != nil {
			return err
		}
	}
	if o.hidden != "" {
		on, ok := optlist.ParseBool(o.hidden)
		if !ok {
			return fmt.Errorf("--hidden '%s': want on or off", o.hidden)
		}
		if err := f.SetHidden(on); err != nil {
			return err
		}
	}
	if o.savedState != "" {
		if on, ok := optlist.ParseBool(o.savedState); !ok || on {
			return fmt.Errorf("--saved-state '%s': want off", o.savedState)
		}
		f.SavedState = 0
	}
	return nil
}
