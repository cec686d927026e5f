package disk

import (
	"fmt"
	"io"
)

// State says how the bytes of an extent come to be.
type State uint8

const (
	// Data must be read to know what it is.
	Data State = iota
	// Zero has its storage, and reads as zeros.
	Zero
	// Unallocated has no storage: it reads as zeros.
	Unallocated
	// Absent is stored neither by the image nor by a parent: it reads as zeros. Formats
	// whose images record zeros, too, tell it from Unallocated.
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

// Extent is a run of a disk's bytes of one state.
type Extent struct {
	Off   int64 // offset in the disk, bytes
	Len   int64 // length, bytes
	State State
	Depth int // 0 for the image itself, 1 for its parent, and so on

	// File is the file in which the bytes stand plainly, at FileOff, or would
	// stand if they were not a hole. It is nil where they have no place.
	File    io.ReaderAt
	FileOff int64

	// Compressed says that the bytes are stored compressed. File is nil then.
	Compressed bool
}

// End is the offset just behind the extent.
func (e Extent) End() int64 { return e.Off + e.Len }

// Follows reports whether e continues prev, so that the two are one extent.
func (e Extent) Follows(prev Extent) bool {
	return prev.End() == e.Off && prev.State == e.State && prev.Depth == e.Depth && prev.File == e.File && prev.Compressed == e.Compressed &&
		(e.File == nil || prev.FileOff+prev.Len == e.FileOff)
}

// Clip returns the part of e that stands in [off, end), which it must overlap.
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

// ClipRange checks the arguments of Extents on a disk of size bytes, and returns how
// many of the n bytes from off on are on the disk. A negative off or n is an error.
func ClipRange(off, n, size int64) (int64, error) {
	if off < 0 || n < 0 {
		return 0, fmt.Errorf("extents of %d bytes at offset %d: negative", n, off)
	}
	return max(0, min(n, size-off)), nil
}

// Merger joins neighbouring extents on their way to a consumer. Add and Flush
// return false when the consumer wants no more.
type Merger struct {
	Yield func(Extent, error) bool
	held  Extent
}

// Add takes the next extent.
func (m *Merger) Add(e Extent) bool {
	if e.Len == 0 {
		return true
	}
	if m.held.Len > 0 && e.Follows(m.held) {
		m.held.Len += e.Len
		return true
	}
	if !m.Flush() {
		return false
	}
	m.held = e
	return true
}

// Flush hands over the extent that is held back.
func (m *Merger) Flush() bool {
	if m.held.Len == 0 {
		return true
	}
	e := m.held
	m.held = Extent{}
	return m.Yield(e, nil)
}

// Fail hands over what is held back, then the error.
func (m *Merger) Fail(err error) {
	if m.Flush() {
		m.Yield(Extent{}, err)
	}
}
