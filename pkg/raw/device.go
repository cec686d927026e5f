package raw

import (
	"bytes"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// footerCookie starts the footer of a VHD, and the copy of it. headerCookie starts the
// header of a dynamic one, which shows that it is a VHD without footers, too.
const (
	footerCookie = "conectix"
	headerCookie = "cxsparse"
)

// clearMarks zeroes what shows that a device of length bytes holds a VHD: the footer in the
// last sector, the copy in the first one, and the first sector of the header of a dynamic
// VHD. Other contents stay.
func clearMarks(f disk.File, length int64) error {
	if err := clearSector(f, 0, footerCookie); err != nil {
		return err
	}
	if length >= 2*disk.SectorSize {
		if err := clearSector(f, disk.SectorSize, headerCookie); err != nil {
			return err
		}
	}
	return clearSector(f, lastSector(length), footerCookie)
}

// ClearTrailingFooter zeroes the last sector of a device if the footer of a VHD is there,
// because readers would recognise that VHD, and the start of its header if nothing was
// written over that. A caller that has written n bytes from
// the start of the disk calls it; it does nothing if they reach into the last sector, or if
// the disk is not a device.
func (d *Disk) ClearTrailingFooter(n int64) error {
	if d.f == nil || !disk.IsDevice(d.f) || n > lastSector(d.length) {
		return nil
	}
	if n <= disk.SectorSize && lastSector(d.length) >= disk.SectorSize {
		if err := clearSector(d.f, disk.SectorSize, headerCookie); err != nil {
			return err
		}
	}
	return clearSector(d.f, lastSector(d.length), footerCookie)
}

func lastSector(length int64) int64 {
	return length/disk.SectorSize*disk.SectorSize - disk.SectorSize
}

// clearSector zeroes the sector at off if it starts with the cookie.
func clearSector(f disk.File, off int64, cookie string) error {
	if off < 0 {
		return nil
	}
	sector := make([]byte, disk.SectorSize)
	if _, err := f.ReadAt(sector, off); err != nil {
		return err
	}
	if !bytes.HasPrefix(sector, []byte(cookie)) {
		return nil
	}
	clear(sector)
	_, err := f.WriteAt(sector, off)
	return err
}
