package raw

import (
	"bytes"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// footerCookie is the first field of a VHD footer and of its copy. headerCookie is the first
// field of the header of a dynamic VHD, by which an image without footers is recognised.
const (
	footerCookie = "conectix"
	headerCookie = "cxsparse"
)

// clearMarks zeroes the metadata by which a device of length bytes is recognised as a VHD: the
// footer in the last sector, its copy in the first sector, and the header in the second one.
// Other contents of these sectors are kept.
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

// ClearTrailingFooter zeroes the last sector of a device if it is a VHD footer. It also zeroes
// the header of a dynamic VHD if that was not overwritten. Otherwise readers would open the
// device as that VHD.
// Call it after writing n bytes from the start of the disk. It does nothing if they reach the
// last sector, or if the disk is not a device.
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
