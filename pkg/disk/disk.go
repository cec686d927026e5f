// Package disk defines the terms that image formats, the copier and the command share: virtual
// disks, extents that describe their contents, and formats that are detected from the contents
// of a file.
//
// A format, such as packages raw and vhd, implements [Disk] and exports a [Format]. Abilities
// that only some disks have are small interfaces, found by type assertion: [io.WriterAt],
// [Syncer], [Zeroer], [Resizer], [Blocker], [SectorSizer], [Reserver], [Placer], [Packer],
// [KnownZero], [Child], [Describer], [Salvaged]. Code that copies, compares or draws disks uses
// only these interfaces.
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

// ErrReadOnly reports a write to a disk that was opened for reading.
var ErrReadOnly = errors.New("image is open for reading only")

// Disk is a virtual disk of Size bytes with random access.
//
// ReadAt is safe for concurrent use. It follows [io.ReaderAt]: a read up to or past the end of
// the disk returns the bytes before the end, and [io.EOF].
type Disk interface {
	io.ReaderAt
	io.Closer

	// Size is the virtual size in bytes, a multiple of SectorSize.
	Size() int64

	// Extents yields the extents of [off, off+n) in order, without gaps, and clipped to the end
	// of the disk. Adjacent extents of the same kind are merged. A negative off or n is an
	// error. After an error the sequence ends.
	Extents(off, n int64) iter.Seq2[Extent, error]
}

// Syncer is a disk that can make its writes durable.
type Syncer interface {
	// Sync returns when everything written before it survives a power cut.
	Sync() error
}

// Zeroer is a disk that can make a range read as zeros without receiving the zeros. It frees
// the storage of the range where possible.
type Zeroer interface {
	WriteZeroes(off, n int64) error
}

// Resizer is a disk whose size can be changed while nothing else uses it.
type Resizer interface {
	// Resize sets the size in bytes; the disk may round it up. Added bytes read as zeros. A
	// cancelled ctx stops Resize with an error, and the disk then has the old or the new size.
	// progress may be nil.
	Resize(ctx context.Context, size int64, progress Progress) error
}

// Blocker is a disk that allocates storage in blocks of one size.
type Blocker interface {
	// BlockSize is the block size in bytes, a power of two. It is 0 for an image without
	// blocks, in a format that also has images with blocks.
	BlockSize() int64
}

// SectorSizer is a disk that records the size of its logical sectors. Partition tables count in
// this unit, so the contents of a disk are valid for one size only.
type SectorSizer interface {
	// LogicalSectorSize is 512 or 4096 bytes.
	LogicalSectorSize() int64
}

// Child is a disk of a format whose images can have a parent: a disk that provides everything
// that the image itself does not store.
type Child interface {
	Disk
	// RecordedParent returns the path of the parent that the image records, whether or not the
	// parent is open. The path is text from the image: do not trust it. ok is false if the
	// image has no parent.
	RecordedParent() (path string, ok bool)
	// Parent is the open parent, or nil if the image has none or was opened without it. Closing
	// the child closes it.
	Parent() Disk
	// ParentPath is the path by which Parent was opened. It is "" if there is no Parent, or if
	// the caller opened it.
	ParentPath() string
	// ParentErr is the reason why the parent could not be opened, if [ParentSearch].Partial
	// opened the image without it. Otherwise it is nil.
	ParentErr() error
	// ParentFindings lists differences between the open parents and the records of their
	// children, nearest parent first. File is the path of the child, or "" for the image
	// itself.
	ParentFindings() []Finding
}

// Describer is a disk that names its format and subformat.
type Describer interface {
	// FormatName is the Name of the disk's [Format].
	FormatName() string
	// Subformat is the variant in the terms of the format, such as "dynamic". It is "" if the
	// format has only one.
	Subformat() string
}

// Reserver is a disk that allocates storage in the order of the calls to Reserve. Concurrent
// writers call Reserve in disk order, so that the layout of the file does not depend on their
// speed.
type Reserver interface {
	// Reserve allocates every block that overlaps [off, off+n). A reserved block reads as
	// before until it is written.
	Reserve(off, n int64) error
}

// Placer is a disk whose bytes are stored unchanged in a file, so that they can also be written
// without WriteAt, for example by cloning.
type Placer interface {
	// Place returns where the bytes at off are stored: n0 bytes of f from fileOff on, with n0
	// <= n. The caller may write them there directly. n0 is 0 if only WriteAt is possible.
	//
	// A call counts as a write. If the disk is a [Reserver], the caller must reserve the range
	// first.
	Place(off, n int64) (f *os.File, fileOff, n0 int64)
}

// KnownZero is a disk that knows whether it is new, so that all of it reads as zeros until the
// first write.
type KnownZero interface {
	ReadsZero() bool
}

// Progress is called from time to time with the number of bytes done and the total. It may be
// nil.
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
