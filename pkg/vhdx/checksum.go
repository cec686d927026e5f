package vhdx

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC-32C of b, with its own field at byte 4 as zeros.
func checksum(b []byte) uint32 {
	var zeros [4]byte
	sum := crc32.Update(0, castagnoli, b[:4])
	sum = crc32.Update(sum, castagnoli, zeros[:])
	return crc32.Update(sum, castagnoli, b[8:])
}

// sealed reports whether the checksum of b is correct.
func sealed(b []byte) bool { return binary.LittleEndian.Uint32(b[4:]) == checksum(b) }

// seal sets the checksum of b.
func seal(b []byte) { binary.LittleEndian.PutUint32(b[4:], checksum(b)) }
