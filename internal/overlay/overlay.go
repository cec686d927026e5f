// Package overlay shows a file with changes that are kept apart from it.
package overlay

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

const (
	pageSize = 4096
	// memoryPages is the number of pages kept in memory. Further pages are written to a temporary
	// file.
	memoryPages = 8 << 20 / pageSize
	// zeroPage is the slot of a page of zeros. It is not stored.
	zeroPage = -1
)

// File is a [disk.File] that reads like another file and keeps all changes apart from it.
// It is for one goroutine.
type File struct {
	base    io.ReaderAt
	device  bool
	holes   *filesystem.HoleMap // of base
	size    int64
	visible int64           // bytes of base that show through unwritten pages
	pages   map[int64]int64 // slots by page number
	sorted  []int64         // page numbers in order; nil: to be sorted
	memory  [][]byte        // the first slots
	slots   int64
	spill   *os.File // the slots after those in memory
}

var _ disk.File = (*File)(nil)

// New returns a File that reads like the first size bytes of base. The caller keeps base open and
// unchanged while the File is in use, and closes it.
func New(base io.ReaderAt, size int64) *File {
	return &File{
		base: base, device: disk.IsDevice(base), holes: filesystem.NewHoleMap(base),
		size: size, visible: size, pages: map[int64]int64{},
	}
}

// Size is the length of the changed file.
func (f *File) Size() (int64, error) { return f.size, nil }

// FixedLength reports whether the file is a device.
func (f *File) FixedLength() bool { return f.device }

// Below returns the unchanged file.
func (f *File) Below() io.ReaderAt { return f.base }

// Name returns the name of the unchanged file, or "".
func (f *File) Name() string {
	if n, ok := f.base.(interface{ Name() string }); ok {
		return n.Name()
	}
	return ""
}

// Sync does nothing: no change is kept.
func (f *File) Sync() error { return nil }

// ReadAt implements [io.ReaderAt].
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("offset %d is negative", off)
	}
	n := int(max(0, min(int64(len(p)), f.size-off)))
	for done := 0; done < n; {
		at := off + int64(done)
		page, in := at/pageSize, at%pageSize
		part := p[done:min(n, done+int(pageSize-in))]
		if slot, ok := f.pages[page]; ok {
			if err := f.readSlot(part, slot, in); err != nil {
				return done, err
			}
		} else {
			for end := done + len(part); end < n; { // all unchanged pages up to the next changed one
				if _, ok := f.pages[(off+int64(end))/pageSize]; ok {
					break
				}
				end = min(n, end+pageSize)
				part = p[done:end]
			}
			if err := f.readBase(part, at); err != nil {
				return done, err
			}
		}
		done += len(part)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readBase reads the visible part of base.
func (f *File) readBase(p []byte, off int64) error {
	n := max(0, min(int64(len(p)), f.visible-off))
	clear(p[n:])
	got, err := f.base.ReadAt(p[:n], off)
	if int64(got) == n {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading %d bytes at offset %d: %w", n, off, err)
}

// readSlot reads a stored page, starting at its byte in.
func (f *File) readSlot(p []byte, slot, in int64) error {
	switch {
	case slot == zeroPage:
		clear(p)
	case slot < int64(len(f.memory)):
		copy(p, f.memory[slot][in:])
	default:
		_, err := f.spill.ReadAt(p, (slot-memoryPages)*pageSize+in)
		return err
	}
	return nil
}

// WriteAt implements [io.WriterAt]. A device does not become longer.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > math.MaxInt64-int64(len(p)) || f.device && off+int64(len(p)) > f.size {
		return 0, fmt.Errorf("writing %d bytes at offset %d of %d", len(p), off, f.size)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		page, in := at/pageSize, at%pageSize
		part := p[done:min(len(p), done+int(pageSize-in))]
		if err := f.writePage(part, page, in); err != nil {
			return done, err
		}
		done += len(part)
		f.size = max(f.size, off+int64(done))
	}
	return done, nil
}

// writePage changes a page, starting at its byte in.
func (f *File) writePage(p []byte, page, in int64) error {
	slot, stored := f.pages[page]
	var b [pageSize]byte
	copy(b[in:], p)
	if len(p) < pageSize {
		var err error
		if stored {
			err = f.readSlot(b[:], slot, 0)
		} else {
			err = f.readBase(b[:], page*pageSize)
		}
		if err != nil {
			return err
		}
		copy(b[in:], p)
	}
	if !stored {
		slot, f.sorted = zeroPage, nil
	}
	if slot == zeroPage {
		if b == [pageSize]byte{} {
			f.pages[page] = zeroPage
			return nil
		}
		slot = f.slots
	}
	if err := f.writeSlot(b[:], slot); err != nil {
		return err
	}
	f.slots = max(f.slots, slot+1)
	f.pages[page] = slot
	return nil
}

func (f *File) writeSlot(b []byte, slot int64) error {
	switch {
	case slot < int64(len(f.memory)):
		copy(f.memory[slot], b)
		return nil
	case slot < memoryPages:
		f.memory = append(f.memory, slices.Clone(b))
		return nil
	}
	if f.spill == nil {
		spill, err := os.CreateTemp("", "vhdtool-*")
		if err != nil {
			return err
		}
		_ = os.Remove(spill.Name()) // systems that keep an open file lose it in Close
		f.spill = spill
	}
	_, err := f.spill.WriteAt(b, (slot-memoryPages)*pageSize)
	return err
}

// Truncate changes the length. Added bytes are zero. The length of a device does not change.
func (f *File) Truncate(n int64) error {
	if n < 0 || f.device && n != f.size {
		return fmt.Errorf("truncating %d bytes to %d", f.size, n)
	}
	if n < f.size {
		f.visible = min(f.visible, n)
		for page := range f.pages {
			if page*pageSize >= n {
				delete(f.pages, page)
				f.sorted = nil
			}
		}
		if in := n % pageSize; in != 0 {
			if _, ok := f.pages[n/pageSize]; ok {
				if err := f.writePage(make([]byte, pageSize-in), n/pageSize, in); err != nil {
					return err
				}
			}
		}
	}
	f.size = n
	return nil
}

// NextData returns the first run of data that ends after off, for [filesystem.HoleMap]. start is
// MaxInt64 if only a hole follows.
func (f *File) NextData(off int64) (start, end int64, ok bool, err error) {
	if f.sorted == nil {
		f.sorted = make([]int64, 0, len(f.pages))
		for page := range f.pages {
			f.sorted = append(f.sorted, page)
		}
		slices.Sort(f.sorted)
	}
	for off < f.size {
		end, data, err := f.run(off)
		if err != nil {
			return 0, 0, false, err
		}
		if data {
			return off, end, true, nil
		}
		off = end
	}
	return math.MaxInt64, math.MaxInt64, true, nil
}

// run returns the end of a run of data, or of a hole, that begins at off.
func (f *File) run(off int64) (end int64, data bool, err error) {
	page := off / pageSize
	i, changed := slices.BinarySearch(f.sorted, page)
	if changed {
		data = f.pages[page] != zeroPage
		for changed && (f.pages[page] != zeroPage) == data {
			i, page = i+1, page+1
			changed = i < len(f.sorted) && f.sorted[i] == page
		}
		return min(page*pageSize, f.size), data, nil
	}
	limit := f.size
	if i < len(f.sorted) {
		limit = min(limit, f.sorted[i]*pageSize)
	}
	if off >= f.visible {
		return limit, false, nil
	}
	return f.holes.At(off, min(limit, f.visible))
}

// Close discards the changes.
func (f *File) Close() error {
	if f.spill == nil {
		return nil
	}
	name := f.spill.Name()
	err := f.spill.Close()
	if rerr := os.Remove(name); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	f.spill = nil
	return err
}
