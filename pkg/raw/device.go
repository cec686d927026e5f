package raw

import (
	"bytes"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

const (
	// footerCookie starts the footer of a VHD, and the copy of it.
	footerCookie = "conectix"
	// headerCookie starts the header of a dynamic VHD, which follows the copy of the footer.
	headerCookie = "cxsparse"
)

// clearFooters zeroes the footer of a VHD in the last sector of a device of length bytes,
// the copy in the first sector, and the start of the header in the second. Other contents
// stay.
func clearFooters(f disk.File, length int64) error {
	if err := clearMark(f, 0, footerCookie); err != nil {
		return err
	}
	if length >= 2*disk.SectorSize {
		if err := clearMark(f, disk.SectorSize, headerCookie); err != nil {
			return err
		}
	}
	return clearMark(f, lastSector(length), footerCookie)
}

// ClearTrailingFooter zeroes the last sector of a device if the footer of a VHD is there,
// because readers would take the device for that VHD. A caller that has written n bytes from
// the start of the disk calls it; it does nothing if they reach into the last sector, or if
// the disk is not a device.
func (d *Disk) ClearTrailingFooter(n int64) error {
	if d.f == nil || !disk.IsDevice(d.f) || n > lastSector(d.length) {
		return nil
	}
	if n <= disk.SectorSize && lastSector(d.length) >= disk.SectorSize { // the header was not written over
		if err := clearMark(d.f, disk.SectorSize, headerCookie); err != nil {
			return err
		}
	}
	return clearMark(d.f, lastSector(d.length), footerCookie)
}

func lastSector(length int64) int64 {
	return length/disk.SectorSize*disk.SectorSize - disk.SectorSize
}

// clearMark zeroes the sector at off if it starts with the cookie.
func clearMark(f disk.File, off int64, cookie string) error {
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
