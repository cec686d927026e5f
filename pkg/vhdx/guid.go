package vhdx

import (
	"encoding/binary"

	"github.com/google/uuid"
)

// guidAt decodes the GUID at the start of b. Its first three fields are little-endian.
func guidAt(b []byte) uuid.UUID {
	var id uuid.UUID
	binary.BigEndian.PutUint32(id[0:], binary.LittleEndian.Uint32(b[0:]))
	binary.BigEndian.PutUint16(id[4:], binary.LittleEndian.Uint16(b[4:]))
	binary.BigEndian.PutUint16(id[6:], binary.LittleEndian.Uint16(b[6:]))
	copy(id[8:], b[8:16])
	return id
}

// putGUID encodes id at the start of b.
func putGUID(b []byte, id uuid.UUID) {
	binary.LittleEndian.PutUint32(b[0:], binary.BigEndian.Uint32(id[0:]))
	binary.LittleEndian.PutUint16(b[4:], binary.BigEndian.Uint16(id[4:]))
	binary.LittleEndian.PutUint16(b[6:], binary.BigEndian.Uint16(id[6:]))
	copy(b[8:16], id[8:])
}
