// Package disk is the vocabulary that image formats, the copier and the
// command share: what a virtual disk is, how its contents are described as
// extents, and how a file's format is found out.
//
// A format (packages raw and vhd) implements [Disk]. What not every disk can
// do is a small interface of its own, found by type assertion: [io.WriterAt],
// [Syncer], [Zeroer], [Blocker], [Reserver], [Placer]. Code that copies, compares or
// draws disks sees these interfaces only.
package disk

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
)

// SectorSize is the unit of every disk and of the VHD format, in bytes.
const SectorSize = 512

// Disk is a virtual disk: Size bytes that can be read at random.
//
// ReadAt is safe from many goroutines. It follows [io.ReaderAt]: reading up to
// the end of the disk or beyond returns [io.EOF] with what there is.
type Disk interface {
	io.ReaderAt
	io.Closer

	// Size is the virtual size in bytes, a multiple of SectorSize.
	Size() int64

	// Extents yields, in order and without gaps, what stands in [off, off+n),
	// cut to the disk's end; neighbours of the same kind are merged. After an
	// error nothing more is yielded.
	Extents(off, n int64) iter.Seq2[Extent, error]
}

// Syncer is a disk that can make what was written durable.
type Syncer interface {
	// Sync returns when everything written before it survives a power cut.
	Sync() error
}

// Zeroer is a disk that can make a range read as zeros without being handed
// the zeros, giving storage back where that is possible.
type Zeroer interface {
	WriteZeroes(off, n int64) error
}

// Resizer is a disk whose size can be changed, while nothing else uses it.
type Resizer interface {
	// Resize sets the size in bytes; the disk may round it up. What it gains
	// reads as zeros. A cancelled ctx ends it early with an error; the disk then
	// has the old size or the new one. progress may be nil.
	Resize(ctx context.Context, size int64, progress Progress) error
}

// Blocker is a disk that allocates storage in blocks of one size.
type Blocker interface {
	// BlockSize is that size in bytes, a power of two.
	BlockSize() int64
}

// Reserver is a disk that hands out storage in the order in which it is asked
// for. Writers that run side by side call Reserve in the guest's order so that
// the file does not depend on which of them was first.
type Reserver interface {
	// Reserve gives every block that [off, off+n) touches its place in the
	// file. A reserved block reads as before until it is written.
	Reserve(off, n int64) error
}

// Placer is a disk whose bytes stand plainly in a file, so that they can come to
// stand there in other ways than by WriteAt.
type Placer interface {
	// Place returns where in which file the first n0 of the n bytes at off stand,
	// which were reserved before if the disk is a [Reserver], and whatever is put
	// there is the disk's from then on. n0 is 0 where only WriteAt will do. The
	// call counts as a write.
	Place(off, n int64) (f *os.File, fileOff, n0 int64)
}

// KnownZero is a disk that knows whether it is new: whether all of it reads as
// zeros until something is written.
type KnownZero interface {
	ReadsZero() bool
}

// File is the storage of an image that is written. An [os.File] is one; any other
// type also has a method Size() (int64, error), which [FileSize] calls. A File does
// not close itself: whoever opened it does.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Truncate sets the length in bytes.
	Truncate(size int64) error
	// Sync returns when everything written before it survives a power cut.
	Sync() error
}

// FileSize measures a file or block device in bytes: an [os.File], or anything that
// has a method Size() (int64, error) or Size() int64.
func FileSize(f any) (int64, error) {
	switch f := f.(type) {
	case *os.File:
		st, err := f.Stat()
		if err != nil {
			return 0, err
		}
		if st.Mode().IsRegular() {
			return st.Size(), nil
		}
		return f.Seek(0, io.SeekEnd) // block devices have no size in Stat
	case interface{ Size() (int64, error) }:
		return f.Size()
	case interface{ Size() int64 }:
		return f.Size(), nil
	}
	return 0, fmt.Errorf("%T has no size: want an *os.File or a Size method", f)
}

// IsDevice reports whether f has a length that can neither grow nor be cut: an
// [os.File] that is not a regular file, or anything else whose method FixedLength()
// bool says so.
func IsDevice(f any) bool {
	switch f := f.(type) {
	case *os.File:
		st, err := f.Stat()
		return err == nil && !st.Mode().IsRegular()
	case interface{ FixedLength() bool }:
		return f.FixedLength()
	}
	return false
}

// Progress is called from time to time with the bytes done and the bytes to do. It
// may be nil.
type Progress = func(done, total int64)
