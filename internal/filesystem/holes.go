// Package filesystem has the operations on files besides reading and writing. It finds and
// punches holes, allocates space, clones and copies ranges, and maps files into memory. If a
// file system does not support an operation, it is skipped, or is an error that callers expect.
//
// Each function has one implementation for Linux, and one that works everywhere: there
// everything counts as data, zeros are written, and nothing is cloned or mapped.
package filesystem

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// HoleMap answers where a file has data. It remembers the last answer, because
// asking again for every piece of one long run of data is quadratic on tmpfs.
// A HoleMap is for one goroutine. It sees the file as it was when asked.
type HoleMap struct {
	file       io.ReaderAt
	start, end int64 // the run known, [start, end)
	data       bool
}

// NewHoleMap returns a HoleMap of the file. If holes cannot be found in such a file,
// all of it counts as data. A wrapper has a method Holds() io.ReaderAt, which returns the
// wrapped file: its holes are mapped. A file that knows its holes has a method NextData. It is
// called with an offset and returns the first run of data that ends after it. If ok is false,
// all may be data.
func NewHoleMap(file io.ReaderAt) *HoleMap {
	for {
		w, ok := file.(interface{ Holds() io.ReaderAt })
		if !ok {
			return &HoleMap{file: file}
		}
		file = w.Holds()
	}
}

// File is the file that is mapped.
func (m *HoleMap) File() io.ReaderAt { return m.file }

// At returns the end of the run that holds off, cut to limit, and whether it
// is data or a hole. Past the file's end there are only holes.
func (m *HoleMap) At(off, limit int64) (end int64, data bool, err error) {
	if off < m.start || off >= m.end {
		if err := m.find(off, limit); err != nil {
			return 0, false, err
		}
	}
	return min(m.end, limit), m.data, nil
}

// find learns the run that holds off.
func (m *HoleMap) find(off, limit int64) error {
	next := func(off int64) (start, end int64, ok bool, err error) { return nextData(m.file, off) }
	if f, ok := m.file.(interface {
		NextData(off int64) (start, end int64, ok bool, err error)
	}); ok {
		next = f.NextData
	}
	start, end, ok, err := next(off)
	switch {
	case err != nil:
		return err
	case !ok: // not known
		m.start, m.end, m.data = off, limit, true
	case start > off:
		m.start, m.end, m.data = off, start, false
	default:
		m.start, m.end, m.data = off, end, true
	}
	return nil
}

// Extents yields the disk's bytes [off, off+n) of a disk that is stored plainly in the file
// from offset start on. Holes of the file have the given state, all else is Data.
func (m *HoleMap) Extents(start, off, n int64, hole disk.State) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		merge := disk.Merger{Yield: yield}
		for off, limit := off, off+n; off < limit; {
			end, data, err := m.At(start+off, start+limit)
			if err != nil {
				merge.Fail(err)
				return
			}
			e := disk.Extent{Off: off, Len: end - start - off, State: hole, File: m.file, FileOff: start + off}
			if data {
				e.State = disk.Data
			}
			if !merge.Add(e) {
				return
			}
			off = e.End()
		}
		merge.Flush()
	}
}

// Zero makes [off, off+n) of the file read as zeros, as a hole where the system allows
// it. Holes, and space that is reserved but unwritten, stay as they are. The file does
// not grow past its end by it.
func Zero(f disk.File, off, n int64) error { return zero(f, off, n, punch) }

// ZeroReserved is Zero for a file whose space is reserved: the file keeps all of its
// storage.
func ZeroReserved(f disk.File, off, n int64) error { return zero(f, off, n, zeroRange) }

// Reserved reports whether a regular file has storage for all of its length, so that
// writing into it cannot fail for want of space. An empty file has not.
func Reserved(f disk.File) bool { return reserved(f) }

// Fill gives [off, off+n) of the file storage. With written, it writes zeros into its holes;
// else it only reserves space, if the system can. Data stays as it is. progress may be nil;
// it counts the bytes. A cancelled ctx ends it with the context's error.
func Fill(ctx context.Context, f *os.File, off, n int64, written bool, progress disk.Progress) error {
	holes := NewHoleMap(f)
	for start, limit := off, off+n; off < limit; {
		if err := ctx.Err(); err != nil {
			return err
		}
		end, data, err := holes.At(off, limit)
		if err != nil {
			return err
		}
		if !data {
			err = errors.ErrUnsupported
			if !written {
				err = reserve(f, off, end-off)
			}
			if errors.Is(err, errors.ErrUnsupported) {
				end = min(end, off+fillPiece)
				err = writeZeros(f, off, end-off)
			}
			if err != nil {
				return err
			}
		}
		off = end
		if progress != nil {
			progress(off-start, n)
		}
	}
	return nil
}

// fillPiece is how much Fill writes before it looks at its context.
const fillPiece = 8 << 20

// zero zeroes the data in [off, off+n) of the file by the method, or by writing zeros
// where that cannot be had.
func zero(f disk.File, off, n int64, method func(f disk.File, off, n int64) bool) error {
	if !disk.IsDevice(f) {
		size, err := disk.FileSize(f)
		if err != nil {
			return err
		}
		n = min(n, size-off) // the file is zero past its end anyway
	}
	holes := NewHoleMap(f)
	for n > 0 {
		end, data, err := holes.At(off, off+n)
		if err != nil {
			return err
		}
		if data && !method(f, off, end-off) {
			if err := writeZeros(f, off, end-off); err != nil {
				return err
			}
		}
		off, n = end, n-(end-off)
	}
	return nil
}

func writeZeros(f disk.File, off, n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		w, err := f.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off += int64(w)
		n -= int64(w)
	}
	return nil
}
