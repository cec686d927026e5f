package disk

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
)

// Section is a part of a disk as a disk of its own. It has the abilities of the whole disk.
// Close does nothing.
type Section struct {
	disk   Disk
	off, n int64
}

// NewSection returns the section [off, off+n) of d. It must be within d.
func NewSection(d Disk, off, n int64) (*Section, error) {
	if off < 0 || n < 0 || off > d.Size() || n > d.Size()-off {
		return nil, fmt.Errorf("bytes %d to %d are not all on the disk, which has %d", off, off+n, d.Size())
	}
	return &Section{d, off, n}, nil
}

// Size is the size in bytes, which may be no multiple of the sector size.
func (s *Section) Size() int64 { return s.n }

// ReadAt implements [io.ReaderAt].
func (s *Section) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	return io.NewSectionReader(s.disk, s.off, s.n).ReadAt(p, off)
}

// within returns an error if [off, off+n) is not in the section.
func (s *Section) within(off, n int64) error {
	if off < 0 || n < 0 || off > s.n || n > s.n-off {
		return fmt.Errorf("%d bytes at offset %d: the section ends at %d", n, off, s.n)
	}
	return nil
}

// WriteAt implements [io.WriterAt]. It fails if the disk is not an io.WriterAt.
func (s *Section) WriteAt(p []byte, off int64) (int, error) {
	w, ok := s.disk.(io.WriterAt)
	if !ok {
		return 0, errors.New("the disk cannot be written")
	}
	if err := s.within(off, int64(len(p))); err != nil {
		return 0, err
	}
	return w.WriteAt(p, s.off+off)
}

// Place implements [Placer]. It returns an n0 of 0 if the disk is not a Placer.
func (s *Section) Place(off, n int64) (f *os.File, fileOff, n0 int64) {
	p, ok := s.disk.(Placer)
	if !ok || s.within(off, n) != nil {
		return nil, 0, 0
	}
	return p.Place(s.off+off, n)
}

// WriteZeroes implements [Zeroer]. It writes zeros if the disk is not a Zeroer.
func (s *Section) WriteZeroes(off, n int64) error {
	if err := s.within(off, n); err != nil {
		return err
	}
	if z, ok := s.disk.(Zeroer); ok {
		return z.WriteZeroes(s.off+off, n)
	}
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		k := min(n, int64(len(zeros)))
		if _, err := s.WriteAt(zeros[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// Reserve implements [Reserver]. It does nothing if the disk is not a Reserver.
func (s *Section) Reserve(off, n int64) error {
	if err := s.within(off, n); err != nil {
		return err
	}
	if r, ok := s.disk.(Reserver); ok {
		return r.Reserve(s.off+off, n)
	}
	return nil
}

// ReadsZero implements [KnownZero].
func (s *Section) ReadsZero() bool {
	z, ok := s.disk.(KnownZero)
	return ok && z.ReadsZero()
}

// Sync implements [Syncer].
func (s *Section) Sync() error {
	if y, ok := s.disk.(Syncer); ok {
		return y.Sync()
	}
	return nil
}

// Extents implements [Disk].
func (s *Section) Extents(off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		n, err := ClipRange(off, n, s.n)
		if err != nil {
			yield(Extent{}, err)
			return
		}
		if n == 0 {
			return // s.off+off may overflow an int64
		}
		for e, err := range s.disk.Extents(s.off+off, n) {
			e.Off -= s.off
			if !yield(e, err) {
				return
			}
		}
	}
}

// Close does nothing. The disk stays open.
func (s *Section) Close() error { return nil }
