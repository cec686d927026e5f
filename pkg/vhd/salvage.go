package vhd

import (
	"errors"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// errSalvageWrite: what is not known of an image must not be written over.
var errSalvageWrite = errors.New("an image that is salvaged cannot be written")

// salvage is what is known of the damage of an image that is salvaged.
type salvage struct {
	lost []disk.LostRange
}

// Lost implements [disk.Salvaged].
func (img *Image) Lost() []disk.LostRange {
	if img.salvage == nil {
		return nil
	}
	return slices.Clone(img.salvage.lost)
}
