package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// snapshotFixed is the length of the fixed part of an entry in the snapshot table.
const snapshotFixed = 40

// Snapshot is an internal snapshot: an earlier state of the disk that the image keeps. An
// entry of the table, big-endian:
//
//	 0  8  offset of its L1 table     24  8  time of the guest's clock, ns
//	 8  4  entries of the L1 table    32  4  size of the virtual machine's state
//	12  2  length of the id           36  4  length of the extra data
//	14  2  length of the name         40  extra data: u64 size of the machine's state,
//	16  4  seconds since 1970             u64 size of the disk, u64 number of
//	20  4  nanoseconds                    instructions; then id and name, padded to 8 bytes
type Snapshot struct {
	ID, Name string
	Time     time.Time
	Clock    time.Duration // of the virtual machine
	// StateSize is the size of the virtual machine's state in bytes; 0 if only the disk was
	// kept.
	StateSize uint64
	Size      int64 // of the disk, bytes
	// Instructions is the number of instructions that the machine has executed; HasInstructions
	// says whether it is recorded.
	Instructions    uint64
	HasInstructions bool

	l1Offset uint64
	l1Size   uint32
	at       int64 // offset of the entry in the file
}

// readSnapshots reads the snapshot table, and returns its length in bytes.
func readSnapshots(r io.ReaderAt, length int64, h *Header) ([]Snapshot, int64, error) {
	if h.Snapshots == 0 {
		return nil, 0, nil
	}
	var list []Snapshot
	start := int64(h.SnapshotsOffset)
	off := start
	limit := min(length, start+maxSnapshotBytes)
	field := func(i uint32) string { return fmt.Sprintf("snapshot table: entry %d", i) }
	read := func(i uint32, n int64) ([]byte, error) {
		if n > limit-off {
			return nil, corrupt(off, field(i), fmt.Sprintf("%d bytes", n), fmt.Sprintf("an entry that ends before offset %d", limit))
		}
		b := make([]byte, n)
		if k, err := r.ReadAt(b, off); k < len(b) {
			return nil, readError(field(i), off, err)
		}
		off += n
		return b, nil
	}
	for i := range h.Snapshots {
		at := off
		b, err := read(i, snapshotFixed)
		if err != nil {
			return nil, 0, err
		}
		s := Snapshot{
			l1Offset: binary.BigEndian.Uint64(b), l1Size: binary.BigEndian.Uint32(b[8:]), at: at,
			Time:      time.Unix(int64(binary.BigEndian.Uint32(b[16:])), int64(binary.BigEndian.Uint32(b[20:]))),
			Clock:     time.Duration(binary.BigEndian.Uint64(b[24:])),
			StateSize: uint64(binary.BigEndian.Uint32(b[32:])), Size: int64(h.Size),
		}
		idLen, nameLen := int64(binary.BigEndian.Uint16(b[12:])), int64(binary.BigEndian.Uint16(b[14:]))
		extra, err := read(i, int64(binary.BigEndian.Uint32(b[36:])))
		if err != nil {
			return nil, 0, err
		}
		if len(extra) >= 8 {
			s.StateSize = binary.BigEndian.Uint64(extra)
		}
		if len(extra) >= 16 {
			size := binary.BigEndian.Uint64(extra[8:])
			if size > 1<<63-1 {
				return nil, 0, corrupt(at, field(i)+": size of the disk", size, "less than 2^63")
			}
			s.Size = int64(size)
		}
		if len(extra) >= 24 {
			s.Instructions = binary.BigEndian.Uint64(extra[16:])
			s.HasInstructions = s.Instructions != 1<<64-1
		}
		text, err := read(i, idLen+nameLen)
		if err != nil {
			return nil, 0, err
		}
		s.ID, s.Name = string(text[:idLen]), string(text[idLen:])
		off = start + (off-start+7)&^7
		list = append(list, s)
	}
	return list, off - start, nil
}

// findSnapshot finds a snapshot by id and name; "" matches any. either matches an id, and if
// no id matches a name.
func findSnapshot(list []Snapshot, id, name, either string) (*Snapshot, error) {
	if either != "" {
		for i := range list {
			if list[i].ID == either {
				return &list[i], nil
			}
		}
		id, name = "", either
	}
	for i := range list {
		if (id == "" || list[i].ID == id) && (name == "" || list[i].Name == name) {
			return &list[i], nil
		}
	}
	what := name
	if id != "" {
		what = id
	}
	return nil, fmt.Errorf("%w: %q", ErrNoSnapshot, what)
}
