package vhdx

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

const (
	mib = 1 << 20

	fileIdentifier = "vhdxfile"
	creatorSize    = 512 // bytes of UTF-16

	headerSize      = 4 << 10
	headerSignature = "head"
)

var headerOffsets = [2]int64{64 << 10, 128 << 10}

// Header is a header of the file. The valid copy with the larger sequence number is the current
// one.
//
//	0  4  signature
//	4  4  checksum
//	8  8  sequence number
//	16 16 file write GUID
//	32 16 data write GUID
//	48 16 log GUID
//	64 2  log version
//	66 2  version
//	68 4  log length
//	72 8  log offset
type Header struct {
	Sequence      uint64
	FileWriteGUID uuid.UUID // changes whenever the file changes
	DataWriteGUID uuid.UUID // changes whenever the contents of the disk change
	LogGUID       uuid.UUID // of the entries to replay; zero if the log is empty
	LogVersion    uint16
	Version       uint16
	LogLength     uint32 // bytes
	LogOffset     uint64 // bytes
}

func decodeHeader(b []byte) Header {
	le := binary.LittleEndian
	return Header{
		Sequence:      le.Uint64(b[8:]),
		FileWriteGUID: guidAt(b[16:]),
		DataWriteGUID: guidAt(b[32:]),
		LogGUID:       guidAt(b[48:]),
		LogVersion:    le.Uint16(b[64:]),
		Version:       le.Uint16(b[66:]),
		LogLength:     le.Uint32(b[68:]),
		LogOffset:     le.Uint64(b[72:]),
	}
}

func (h *Header) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, headerSize)
	copy(b, headerSignature)
	le.PutUint64(b[8:], h.Sequence)
	putGUID(b[16:], h.FileWriteGUID)
	putGUID(b[32:], h.DataWriteGUID)
	putGUID(b[48:], h.LogGUID)
	le.PutUint16(b[64:], h.LogVersion)
	le.PutUint16(b[66:], h.Version)
	le.PutUint32(b[68:], h.LogLength)
	le.PutUint64(b[72:], h.LogOffset)
	seal(b)
	return b
}

// headers are the two copies of the header.
type headers struct {
	copies [2]Header
	valid  [2]bool
	best   int // index of the current copy, or -1
}

// readHeaders reads both headers of a file of size bytes. An error is a read error.
func readHeaders(r io.ReaderAt, size int64) (h headers, found []finding, err error) {
	h.best = -1
	for i, off := range headerOffsets {
		field := fmt.Sprintf("header %d", i+1)
		if off+headerSize > size {
			found = append(found, newFinding("header-missing", disk.Warning, off, field, "a header", "the end of the file, at %d", size))
			continue
		}
		b := make([]byte, headerSize)
		if err := readFull(r, b, off); err != nil {
			return h, nil, err
		}
		h.copies[i] = decodeHeader(b)
		switch version := h.copies[i].Version; {
		case string(b[:4]) != headerSignature:
			found = append(found, newFinding("header-signature", disk.Warning, off, field+": signature", headerSignature, "%q", b[:4]))
		case !sealed(b):
			found = append(found, newFinding("header-checksum", disk.Warning, off+4, field+": checksum",
				fmt.Sprintf("%#08x", checksum(b)), "%#08x", binary.LittleEndian.Uint32(b[4:])))
		case version != 1:
			f := newFinding("header-version", disk.Error, off+66, field+": version", "1", "%d", version)
			f.unsupported = true
			found = append(found, f.number(uint64(version), disk.Number{OneOf: []uint64{1}}))
		default:
			h.valid[i] = true
		}
	}
	a, b := &h.copies[0], &h.copies[1]
	switch {
	case h.valid[0] && h.valid[1]:
		if b.Sequence > a.Sequence {
			h.best = 1
		} else {
			h.best = 0
		}
		if a.Sequence == b.Sequence && *a != *b {
			found = append(found, newFinding("header-sequence", disk.Error, headerOffsets[1]+8, "header 2: sequence number",
				"another one than in header 1, which differs", "%d", b.Sequence))
		}
	case h.valid[0]:
		h.best = 0
	case h.valid[1]:
		h.best = 1
	default: // neither can be used
		for i := range found {
			found[i].Severity = disk.Error
		}
	}
	return h, found, nil
}

// current returns the current header.
func (h *headers) current() *Header { return &h.copies[h.best] }
