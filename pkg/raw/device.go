package raw

import (
	"bytes"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// footerCookie starts the footer of a VHD, and the copy of it.
const footerCookie = "conectix"

// clearFooters zeroes the footer of a VHD in the last sector of a device of length bytes,
// and the copy in the first one. Other contents stay.
func clearFooters(f disk.File, length int64) error {
	if err := clearFooter(f, 0); err != nil {
		return err
	}
	return clearFooter(f, lastSector(length))
}

// ClearTrailingFooter zeroes the last sector of a device if the footer of a VHD is there,
// because readers would take the device for that VHD. A caller that has written n bytes from
// the start of the disk calls it; it does nothing if they reach into the last sector, or if
// the disk is not a device.
func (d *Disk) ClearTrailingFooter(n int64) error {
	if d.f == nil || !disk.IsDevice(d.f) || n > lastSector(d.length) {
		return nil
	}
	return clearFooter(d.f, lastSector(d.length))
}

func lastSector(length int64) int64 {
	return length/disk.SectorSize*disk.SectorSize - disk.SectorSize
}

func clearFooter(f disk.File, off int64) error {
	if off < 0 {
		return nil
	}
	sector := make([]byte, disk.SectorSize)
	if _, err := f.ReadAt(sector, off); err != nil {
		return err
	}
	if !bytes.HasPrefix(sector, []byte(footerCookie)) {
		return nil
	}
	clear(sector)
	_, err := f.WriteAt(sector, off)
	return err
}
