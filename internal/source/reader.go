package source

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Error is an error of reading a source.
type Error struct {
	Name string // of the file that could not be read, for messages
	Off  int64  // in that file's disk or in the stream, bytes
	Err  error
}

func (e *Error) Error() string { return e.Name + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// named is a disk whose errors name its file. All else is unchanged, so that extents can be cloned
// and mapped.
type named struct {
	disk.Disk
	name    string
	parents []string // other files that are read
}

// Named returns a disk whose errors of reading name its file, or one of its parents' files.
// Closing it closes d.
func Named(d disk.Disk, name string) disk.Disk { return &named{d, name, parentFiles(d)} }

// parentFiles lists the files of a disk's open parents, nearest first.
func parentFiles(d disk.Disk) []string {
	var files []string
	for child, ok := d.(disk.Child); ok && child.Parent() != nil; child, ok = child.Parent().(disk.Child) {
		files = append(files, child.ParentPath())
	}
	return files
}

// unnamed returns the disk that a named one wraps, or d itself.
func unnamed(d disk.Disk) disk.Disk {
	if n, ok := d.(*named); ok {
		return n.Disk
	}
	return d
}

// fail adds the file name to an error.
func (d *named) fail(err error, off int64) error {
	name := d.name
	var pe *fs.PathError
	if errors.As(err, &pe) && slices.Contains(d.parents, pe.Path) {
		name = pe.Path
	}
	return &Error{name, off, err}
}

// ReadAt implements [io.ReaderAt].
func (d *named) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Disk.ReadAt(p, off)
	if err == nil || n == len(p) || errors.Is(err, io.EOF) && off+int64(n) >= d.Size() {
		return n, err
	}
	return n, d.fail(err, off+int64(n))
}

// Extents implements [disk.Disk].
func (d *named) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		at := off
		for e, err := range d.Disk.Extents(off, n) {
			if err != nil {
				err = d.fail(err, at)
			}
			if !yield(e, err) {
				return
			}
			at = e.End()
		}
	}
}

// BlockSize implements [disk.Blocker]: 0 for a disk without blocks.
func (d *named) BlockSize() int64 { return blockSize(d.Disk) }

func blockSize(d disk.Disk) int64 {
	if b, ok := d.(disk.Blocker); ok {
		return b.BlockSize()
	}
	return 0
}

// reader is a disk that is salvaged, throttled or both. Its extents name no file, so that
// all data passes through ReadAt.
type reader struct {
	disk.Disk
	losses   *Losses   // nil: not salvaged
	throttle *Throttle // nil: not throttled
}

// ReadAt implements [io.ReaderAt].
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.Disk.ReadAt(p, off)
	if n < len(p) && r.losses != nil && off+int64(n) < r.Size() {
		n, err = r.salvage(p, off, err)
	}
	if r.throttle != nil {
		if werr := r.throttle.Wait(int64(n)); werr != nil {
			return 0, werr
		}
	}
	return n, err
}

// salvage reads a range that ReadAt could not read. It halves the range until a part can be read,
// or is one sector, which becomes zeros.
func (r *reader) salvage(p []byte, off int64, cause error) (int, error) {
	if off+int64(len(p)) > r.Size() {
		n, err := r.salvage(p[:r.Size()-off], off, cause)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	if errors.Is(cause, context.Canceled) || errors.Is(cause, fs.ErrClosed) {
		return 0, cause
	}
	end := off + int64(len(p))
	if off/disk.SectorSize == (end-1)/disk.SectorSize {
		clear(p)
		r.losses.addUnread(off, int64(len(p)), cause)
		return len(p), nil
	}
	half := off + int64(len(p))/2
	half += disk.SectorSize - 1 - (half+disk.SectorSize-1)%disk.SectorSize
	if half >= end {
		half = (end - 1) / disk.SectorSize * disk.SectorSize
	}
	for _, part := range [][2]int64{{off, half}, {half, end}} {
		b := p[part[0]-off : part[1]-off]
		n, err := r.Disk.ReadAt(b, part[0])
		if n == len(b) {
			continue
		}
		if n, err = r.salvage(b, part[0], err); err != nil {
			return int(part[0]-off) + n, err
		}
	}
	return len(p), nil
}

// Extents implements [disk.Disk].
func (r *reader) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		merge := disk.Merger{Yield: yield}
		for e, err := range r.Disk.Extents(off, n) {
			if err != nil {
				merge.Fail(err)
				return
			}
			e.File, e.FileOff = nil, 0
			if !merge.Add(e) {
				return
			}
		}
		merge.Flush()
	}
}

// namedStream is a stream whose errors name it.
type namedStream struct {
	r    io.Reader
	name string
	off  int64
}

// Read implements [io.Reader].
func (s *namedStream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.off += int64(n)
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = &Error{s.name, s.off, err}
	}
	return n, err
}

// throttledStream is a stream that is read no faster than a throttle allows.
type throttledStream struct {
	r        io.Reader
	throttle *Throttle
}

// Read implements [io.Reader].
func (s *throttledStream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if werr := s.throttle.Wait(int64(n)); werr != nil {
		return 0, werr
	}
	return n, err
}
