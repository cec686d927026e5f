package main

import (
	"fmt"

	"github.com/dustin/go-humanize"

	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// sectorSizeOption is the option of formats whose disks have sectors of 512 or 4096 bytes.
const sectorSizeOption = "logical_sector_size"

// keepSectorSize refuses a target whose disk has another sector size than the source: partition
// tables count sectors, so no system would find the partitions. If the format has an option for
// the size, the source's is its default.
func keepSectorSize(src *source.Source, f *format, o disk.Options) error {
	if src.SectorSize == 0 || f.sectorSize == nil {
		return nil
	}
	if _, given := o[sectorSizeOption]; !given {
		for _, s := range f.createOptions {
			if s.name == sectorSizeOption {
				o[sectorSizeOption] = fmt.Sprint(src.SectorSize)
			}
		}
	}
	got, err := f.sectorSize(o)
	if err != nil || got == src.SectorSize {
		return nil // starting the target reports wrong options
	}
	return &hintError{
		fmt.Errorf("%s: the disk has sectors of %s bytes, and the target, of format %s, has sectors of %s: the partition table would not be valid",
			src.Name, humanize.Comma(src.SectorSize), f.Name, humanize.Comma(got)),
		"keep the sector size with -O raw or -O vhdx",
	}
}
