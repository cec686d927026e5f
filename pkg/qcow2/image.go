package qcow2

import (
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Image is an open image: a [disk.Disk] that is read through the image and its parents.
// Its methods are safe for concurrent use, except Close, which is called last.
type Image struct {
	r      io.ReaderAt
	length int64 // of the file
	closer io.Closer
	header Header

	size     int64
	l1       []uint64 // of the current state or of the snapshot that was opened
	l1Offset int64

	clusterBits uint
	clusterSize int64
	l2Bits      uint // binary logarithm of the entries in an L2 table
	entryBits   uint // binary logarithm of an entry's length
	l1Shift     uint // an L1 entry is for 1<<l1Shift bytes of the disk
	extended    bool

	tables    *tableCache
	unpacked  *clusterCache
	snapshots []Snapshot

	data       io.ReaderAt // the file that holds the guest data
	dataLength int64
	dataCloser io.Closer // of an external data file
	dataErr    error     // why the external data file is not open

	parent     disk.Disk
	parentPath string
	parentErr  error

	preallocated func() bool // [Image.isPreallocated], called once
}

// Header returns the header. The caller may change it.
func (img *Image) Header() Header { return img.header }

// Snapshots lists the internal snapshots in the order of the table. The caller may change
// the list.
func (img *Image) Snapshots() []Snapshot { return append([]Snapshot(nil), img.snapshots...) }

// Size implements [disk.Disk]: the size of the current state or of the snapshot that was
// opened. A size in the header that is no multiple of 512 is rounded down, as in qemu.
func (img *Image) Size() int64 { return img.size }

// BlockSize implements [disk.Blocker]: the cluster size.
func (img *Image) BlockSize() int64 { return img.clusterSize }

// FormatName implements [disk.Describer].
func (img *Image) FormatName() string { return formatName }

// Subformat implements [disk.Describer]: there is one kind of qcow2 image.
func (img *Image) Subformat() string { return "" }

// RecordedParent implements [disk.Child].
func (img *Image) RecordedParent() (string, bool) {
	return img.header.BackingFile, img.header.BackingFile != ""
}

// Parent implements [disk.Child]. The parent may have any format.
func (img *Image) Parent() disk.Disk { return img.parent }

// ParentPath implements [disk.Child].
func (img *Image) ParentPath() string { return img.parentPath }

// ParentErr implements [disk.Child].
func (img *Image) ParentErr() error { return img.parentErr }

// ParentFindings implements [disk.Child]. A qcow2 image records nothing of its parent that
// could differ; the findings are those of a parent of another format.
func (img *Image) ParentFindings() []disk.Finding {
	child, ok := img.parent.(disk.Child)
	if !ok {
		return nil
	}
	found := child.ParentFindings()
	for i := range found {
		if found[i].File == "" {
			found[i].File = img.parentPath
		}
	}
	return found
}

// Close ends the use of the image. It closes the parents and the external data file, and
// the file of the image if it was opened for the image.
func (img *Image) Close() error {
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	if img.parent != nil {
		keep(img.parent.Close())
	}
	if img.dataCloser != nil {
		keep(img.dataCloser.Close())
	}
	if img.closer != nil {
		keep(img.closer.Close())
	}
	return first
}

var _ interface {
	disk.Child
	disk.Describer
	disk.Blocker
} = (*Image)(nil)
