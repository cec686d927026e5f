// Package diskend finds the end of a disk from its partition table or file system.
package diskend

import (
	"encoding/binary"
	"io"

	"github.com/vhdtool/vhdtool/internal/gpt"
)

const sectorSize = 512

// End is the end of a disk according to its contents.
type End struct {
	Off int64 // bytes from the start of the disk, more than 0
	// Exact says that nothing follows on the disk. Otherwise unused space may follow.
	Exact bool
	By    string // names the structure: "the GPT"
}

// maxEnd is larger than any disk. Rounding it up does not overflow.
const maxEnd = 1 << 62

// Find returns the end of a disk by its GPT, an ext file system without a partition table,
// or its MBR, in this order. ok is false if the disk has none of them, or cannot be read.
func Find(disk io.ReaderAt) (end End, ok bool) {
	if lba, ok := gpt.BackupLBA(disk); ok && lba > 0 && lba < maxEnd/sectorSize {
		return End{(lba + 1) * sectorSize, true, "the GPT"}, true
	}
	b := make([]byte, 4*sectorSize)
	if n, _ := disk.ReadAt(b, 0); n < len(b) {
		return End{}, false
	}
	for _, find := range []func([]byte) (End, bool){extEnd, mbrEnd} {
		if end, ok := find(b); ok && end.Off > 0 {
			return end, true
		}
	}
	return End{}, false
}

// HasBackupGPT reports whether the backup header of a GPT is in the last sector of a disk of
// size bytes.
func HasBackupGPT(disk io.ReaderAt, size int64) bool {
	var b [8]byte
	n, _ := disk.ReadAt(b[:], size-sectorSize)
	return n == len(b) && string(b[:]) == "EFI PART"
}

// blocks returns the end of n blocks of size bytes.
func blocks(n, size uint64, by string) (End, bool) {
	if n > maxEnd/size {
		return End{}, false
	}
	return End{Off: int64(n * size), By: by}, true
}

// extEnd reads the superblock of ext2, ext3 and ext4, at offset 1024.
func extEnd(b []byte) (End, bool) {
	super, le := b[1024:], binary.LittleEndian
	logSize := le.Uint32(super[24:])
	if le.Uint16(super[56:]) != 0xef53 || logSize > 6 {
		return End{}, false
	}
	n := uint64(le.Uint32(super[4:]))
	if const64bit := uint32(0x80); le.Uint32(super[96:])&const64bit != 0 {
		n |= uint64(le.Uint32(super[0x150:])) << 32
	}
	return blocks(n, 1024<<logSize, "the ext file system")
}

// mbrEnd returns the end of the last partition.
func mbrEnd(b []byte) (End, bool) {
	le := binary.LittleEndian
	if le.Uint16(b[510:]) != 0xaa55 {
		return End{}, false
	}
	last := uint64(0)
	for entry := 446; entry < 510; entry += 16 {
		p := b[entry : entry+16]
		start, n := le.Uint32(p[8:]), le.Uint32(p[12:])
		switch {
		case p[0]&0x7f != 0:
			return End{}, false // this is boot code, not a table
		case p[4] == 0:
		case p[4] == 0xee:
			return End{}, false // it represents a GPT, and may be longer than the disk
		case start == 0 || n == 0:
			return End{}, false
		default:
			last = max(last, uint64(start)+uint64(n))
		}
	}
	return blocks(last, sectorSize, "the MBR")
}
