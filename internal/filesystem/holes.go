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

// HoleMap finds the data and holes of a file. It caches the last answer, because queries for each
// piece of a long run of data are quadratic on tmpfs. A HoleMap is for one goroutine. It does not
// notice later changes of a cached run.
type HoleMap struct {
	file       io.ReaderAt
	start, end int64 // the cached run
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

// File returns the mapped file.
func (m *HoleMap) File() io.ReaderAt { return m.file }

// At returns the end of the run that contains off, at most limit, and whether it is data or a hole.
// Past the end of the file there are only holes.
func (m *HoleMap) At(off, limit int64) (end int64, data bool, err error) {
	if off < m.start || off >= m.end {
		if err := m.find(off, limit); err != nil {
			return 0, false, err
		}
	}
	return min(m.end, limit), m.data, nil
}

// find caches the run that contains off.
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

// Zero makes [off, off+n) of the file read as zeros, as a hole if possible. Holes, and reserved
// space that is unwritten, do not change. The file does not grow.
func Zero(f disk.File, off, n int64) error { return zero(f, off, n, punch) }

// ZeroReserved is Zero for a file with reserved space: the file keeps all of its storage.
func ZeroReserved(f disk.File, off, n int64) error { return zero(f, off, n, zeroRange) }

// Reserved reports whether a regular file has storage for all of its length, so that writes into it
// never lack space. It is false for an empty file.
func Reserved(f disk.File) bool { return reserved(f) }

// Fill allocates storage for [off, off+n) of the file. With written, it writes zeros into holes.
// Otherwise it only reserves space, if the system can. Data does not change. progress may be nil;
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

// fillPiece is the number of bytes that Fill writes between two checks of its context.
const fillPiece = 8 << 20

// zero zeroes the data in [off, off+n) of the file by the method, or else by writing zeros.
func zero(f disk.File, off, n int64, method func(f disk.File, off, n int64) bool) error {
	if !disk.IsDevice(f) {
		size, err := disk.FileSize(f)
		if err != nil {
			return err
		}
		n = min(n, size-off) // the file reads as zeros past its end
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
