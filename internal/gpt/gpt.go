// Package gpt finds the backup header of a GUID partition table. It is in the last sector of a
// disk. When the disk grows, it is no longer there.
package gpt

import (
	"encoding/binary"
	"io"
)

const sectorSize = 512

// BackupLBA returns the sector where the partition table of the disk expects its backup header.
// ok is false if the disk has no such table or cannot be read. See "GPT Header" in the UEFI
// specification.
func BackupLBA(disk io.ReaderAt) (lba int64, ok bool) {
	var b [40]byte
	if n, _ := disk.ReadAt(b[:], sectorSize); n < len(b) || string(b[:8]) != "EFI PART" {
		return 0, false
	}
	v := binary.LittleEndian.Uint64(b[32:])
	return int64(v), v < 1<<54-1 // larger values would overflow as byte offsets
}
