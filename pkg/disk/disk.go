// Package disk is the vocabulary that image formats, the copier and the
// command share: what a virtual disk is, how its contents are described as
// extents, and how the format of a file is detected.
//
// A format (packages raw and vhd) implements [Disk] and exports a [Format]. What
// only some disks can do is a small interface, found by type assertion: [io.WriterAt],
// [Syncer], [Zeroer], [Resizer], [Blocker], [Reserver], [Placer], [Packer], [KnownZero],
// [Child], [Describer]. Code that copies, compares or draws disks sees these interfaces only.
package disk

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"
)

// SectorSize is the unit of every disk and of the VHD format, in bytes.
const SectorSize = 512

// ErrReadOnly: a write to a disk that was opened for reading.
var ErrReadOnly = errors.New("image is open for reading only")

// Disk is a virtual disk: Size bytes that can be read at random.
//
// ReadAt is safe from many goroutines. It follows [io.ReaderAt]: reading up to
// the end of the disk or beyond returns [io.EOF] with what there is.
type Disk interface {
	io.ReaderAt
	io.Closer

	// Size is the virtual size in bytes, a multiple of SectorSize.
	Size() int64

	// Extents yields, in order and without gaps, the extents of [off, off+n),
	// cut to the disk's end. Neighbours of the same kind are merged. A negative
	// off or n is an error, and after an error nothing more is yielded.
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
	// BlockSize is that size in bytes, a power of two; 0 for an image without blocks
	// in a format that also has images with blocks.
	BlockSize() int64
}

// Child is a disk of a format whose images can have a parent: a disk that provides
// everything the image itself does not store.
type Child interface {
	Disk
	// RecordedParent returns the path of its parent that the image records, as text
	// from the image that is not to be trusted. ok is false if the image has no
	// parent. It does not depend on whether the parent is open.
	RecordedParent() (path string, ok bool)
	// Parent is the open parent. It is nil if the image has none, or was opened
	// without it. It is closed with the child.
	Parent() Disk
	// ParentPath is the path by which Parent was opened. It is "" if there is no
	// Parent, or if the caller opened it.
	ParentPath() string
	// ParentErr is why the parent could not be opened, in an image that
	// [ParentSearch].Partial opened without it; nil otherwise.
	ParentErr() error
	// ParentFindings lists where the open parents differ from what their children record
	// of them, nearest first. The File of a finding is the path of the child; "" for the
	// image itself.
	ParentFindings() []Finding
}

// Describer is a disk that names its format, and the variant of it.
type Describer interface {
	// FormatName is the Name of the disk's [Format].
	FormatName() string
	// Subformat is the variant in the format's own words, such as "dynamic"; "" if the
	// format has only one.
	Subformat() string
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

// Progress is called from time to time with the bytes done and the bytes to do. It
// may be nil.
type Progress = func(done, total int64)

// Packer is a new disk that stores its data compressed, in units that are written whole and
// once. Many goroutines compress at a time; the order of the calls of Place determines the
// file.
type Packer interface {
	// PackUnit is the size of a unit in bytes, a power of two.
	PackUnit() int64
	// Pack compresses the units that p holds, which are at off. The last unit of the disk may
	// be cut by the disk's end. The caller may change p afterwards. It is safe from many
	// goroutines.
	Pack(p []byte, off int64) (Packed, error)
}

// Packed is data that a [Packer] has compressed. Place is called first, then Write.
type Packed interface {
	// Place allocates the space of the data in the file. Calls in the order of the disk make
	// the file reproducible.
	Place() error
	// Write writes the data. Calls for different data run side by side.
	Write() error
}
