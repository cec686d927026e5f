// Package gpt finds the backup header of a GUID partition table, which stands
// in the last sector of a disk and is left behind when the disk grows.
package gpt

import (
	"encoding/binary"
	"io"
)

const sectorSize = 512

// BackupLBA returns the sector in which the disk's partition table expects its
// backup header; ok is false if the disk has no such table, or cannot be read.
// (UEFI specification, "GPT Header".)
func BackupLBA(disk io.ReaderAt) (lba int64, ok bool) {
	var b [40]byte
	if n, _ := disk.ReadAt(b[:], sectorSize); n < len(b) || string(b[:8]) != "EFI PART" {
		return 0, false
	}
	v := binary.LittleEndian.Uint64(b[32:])
	return int64(v), v < 1<<54-1 // so that its end has a place, in bytes
}
