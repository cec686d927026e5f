package disk

import (
	"fmt"
	"io"
)

// State says how the contents of an extent are known.
type State uint8

const (
	// Data has contents that only a read can determine.
	Data State = iota
	// Zero is allocated and reads as zeros.
	Zero
	// Unallocated has no storage and reads as zeros.
	Unallocated
	// Absent is stored neither by the image nor by a parent, and reads as zeros. Formats that
	// also record zeros distinguish it from Unallocated.
	Absent
)

// String returns the state's name in lower case.
func (s State) String() string {
	switch s {
	case Data:
		return "data"
	case Zero:
		return "zero"
	case Unallocated:
		return "unallocated"
	case Absent:
		return "absent"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Extent is a range of a disk whose bytes have the same state.
type Extent struct {
	Off   int64 // offset in the disk, bytes
	Len   int64 // length, bytes
	State State
	Depth int // 0 for the image itself, 1 for its parent, and so on

	// File stores the bytes unchanged, from FileOff on. It is also set for a hole of the file.
	// It is nil if the bytes are not stored in a file.
	File    io.ReaderAt
	FileOff int64

	// Compressed says that the bytes are stored compressed. File is nil then.
	Compressed bool
}

// End is the offset of the first byte after the extent.
func (e Extent) End() int64 { return e.Off + e.Len }

// Follows reports whether e continues prev, so that both can be merged.
func (e Extent) Follows(prev Extent) bool {
	return prev.End() == e.Off && prev.State == e.State && prev.Depth == e.Depth && prev.File == e.File && prev.Compressed == e.Compressed &&
		(e.File == nil || prev.FileOff+prev.Len == e.FileOff)
}

// Clip returns the part of e in [off, end), which e must overlap.
func (e Extent) Clip(off, end int64) Extent {
	if d := off - e.Off; d > 0 {
		e.Off += d
		e.Len -= d
		if e.File != nil {
			e.FileOff += d
		}
	}
	if e.End() > end {
		e.Len = end - e.Off
	}
	return e
}

// ClipRange validates the arguments of Extents. It returns the number of the n bytes from off
// that are on a disk of size bytes. A negative off or n is an error.
func ClipRange(off, n, size int64) (int64, error) {
	if off < 0 || n < 0 {
		return 0, fmt.Errorf("extents of %d bytes at offset %d: negative", n, off)
	}
	return max(0, min(n, size-off)), nil
}

// Merger merges adjacent extents before it yields them. Add and Flush return false when the
// loop over the extents has ended.
type Merger struct {
	Yield func(Extent, error) bool
	last  Extent // may still grow
}

// Add appends an extent. It yields the extent before it, unless both are merged.
func (m *Merger) Add(e Extent) bool {
	if e.Len == 0 {
		return true
	}
	if m.last.Len > 0 && e.Follows(m.last) {
		m.last.Len += e.Len
		return true
	}
	if !m.Flush() {
		return false
	}
	m.last = e
	return true
}

// AddParent appends the extents of the parent in [off, end), with their Depth raised by one. It
// returns where they end: the end of the parent, if that is before end.
func (m *Merger) AddParent(parent Disk, off, end int64) (stop int64, ok bool) {
	stop = min(end, parent.Size())
	if off >= stop {
		return off, true
	}
	for e, err := range parent.Extents(off, stop-off) {
		if err != nil {
			m.Fail(fmt.Errorf("parent: %w", err))
			return off, false
		}
		e.Depth++
		if !m.Add(e) {
			return off, false
		}
	}
	return stop, true
}

// Flush yields the extent that may still grow.
func (m *Merger) Flush() bool {
	if m.last.Len == 0 {
		return true
	}
	e := m.last
	m.last = Extent{}
	return m.Yield(e, nil)
}

// Fail flushes, and then yields err.
func (m *Merger) Fail(err error) {
	if m.Flush() {
		m.Yield(Extent{}, err)
	}
}
