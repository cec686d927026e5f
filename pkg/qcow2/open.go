package qcow2

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// OpenOptions say how to open an image. The zero value opens the current state with all
// parents, which are raw disks or qcow2 images.
type OpenOptions struct {
	// SnapshotID and SnapshotName choose an internal snapshot instead of the current state;
	// "" matches any. Snapshot is an id, or else a name.
	SnapshotID, SnapshotName, Snapshot string
	// DataFile is the path of the external data file, instead of the path that the image
	// records. It is trusted.
	DataFile string
	// Formats are the formats that parents may have. Without them, a parent is a qcow2 image
	// or a raw disk.
	Formats disk.Formats
	// Parents says where the parents and the external data file may be. They are opened for
	// reading and closed with the image.
	Parents disk.ParentSearch
	// Parent, if set, is the parent, opened by the caller. It is closed with the image, but
	// not if opening the image fails.
	Parent disk.Disk
	// NoLock opens the image even if another process uses it. Reads may then return a mix
	// of old and new.
	NoLock bool
	// Closer, if set, is closed with the image. [Open] sets it.
	Closer io.Closer
}

// Open opens the named image for reading; a nil o means the zero value. Errors are those
// of the file system, [ErrNotQCOW2], or wrap [ErrCorrupt], [ErrUnsupported] or
// [ErrNoSnapshot]; a *[ParentError] says why a parent could not be opened. The caller
// closes the image, which closes the file.
func Open(name string, o *OpenOptions) (*Image, error) {
	var own OpenOptions
	if o != nil {
		own = *o
	}
	f, size, err := disk.OpenFile(name, false, own.lock())
	if err != nil {
		return nil, err
	}
	own.Closer = f
	img, err := NewImage(f, size, &own)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return img, nil
}

func (o *OpenOptions) lock() disk.LockFunc {
	if o.NoLock {
		return nil
	}
	return imagelock.Lock
}

// NewImage opens the image in the first size bytes of r for reading; a nil o means the zero
// value. Parents and an external data file are found only for an image in an [os.File].
// Closing the image does not close r. NewImage does not lock r.
func NewImage(r io.ReaderAt, size int64, o *OpenOptions) (*Image, error) {
	if o == nil {
		o = &OpenOptions{}
	}
	img, err := openAlone(r, size, o)
	if err != nil {
		return nil, err
	}
	if err := img.openFiles(o); err != nil {
		img.closer = nil // the caller's, after an error
		img.Close()
		return nil, err
	}
	return img, nil
}

// openAlone opens an image without its parents and without an external data file.
func openAlone(r io.ReaderAt, size int64, o *OpenOptions) (*Image, error) {
	h, err := readHeader(r, size)
	if err != nil {
		return nil, err
	}
	img := &Image{
		r: r, length: size, closer: o.Closer, header: h, size: int64(h.Size), l1Offset: int64(h.L1Offset),
		clusterBits: uint(h.ClusterBits), clusterSize: h.ClusterSize(), l2Bits: h.l2Bits(), extended: h.ExtendedL2(),
		data: r, dataLength: size,
	}
	img.entryBits = img.clusterBits - img.l2Bits
	img.l1Shift = img.l2Bits + img.clusterBits
	if img.snapshots, _, err = readSnapshots(r, size, &h); err != nil {
		return nil, err
	}
	entries := int64(h.L1Size)
	if o.SnapshotID != "" || o.SnapshotName != "" || o.Snapshot != "" {
		s, err := findSnapshot(img.snapshots, o.SnapshotID, o.SnapshotName, o.Snapshot)
		if err != nil {
			return nil, err
		}
		field := fmt.Sprintf("snapshot %q: ", s.Name)
		img.size, img.l1Offset, entries = s.Size, int64(s.l1Offset), int64(s.l1Size)
		switch {
		case s.l1Offset > uint64(size) || img.l1Offset%img.clusterSize != 0:
			return nil, corrupt(s.at, field+"offset of the L1 table", s.l1Offset, "a multiple of the cluster size within the file")
		case h.l1Needed(s.Size) > entries:
			return nil, corrupt(s.at+8, field+"entries of the L1 table", s.l1Size, fmt.Sprintf("at least %d for a disk of %d bytes", h.l1Needed(s.Size), s.Size))
		}
	}
	// Further entries are for the state of a virtual machine.
	entries = min(entries, h.l1Needed(img.size))
	if img.l1, err = readL1(r, size, img.l1Offset, entries); err != nil {
		return nil, err
	}
	img.size -= img.size % disk.SectorSize
	img.tables = newTableCache(img.clusterSize)
	img.unpacked = newClusterCache(img.clusterSize)
	img.preallocated = sync.OnceValue(img.isPreallocated)
	return img, nil
}

// openFiles opens the external data file and the parents.
func (img *Image) openFiles(o *OpenOptions) error {
	f, inFile := img.r.(*os.File)
	s := newFileSearch(o)
	if inFile {
		if err := s.files.Start(f, o.Parents.Dirs); err != nil {
			return err
		}
	}
	if img.header.HasDataFile() {
		err := img.openDataFile(s, f, o)
		if err != nil && !o.Parents.None {
			return err
		}
		img.dataErr = err
	}
	switch {
	case o.Parent != nil:
		img.parent = o.Parent
		return nil
	case img.header.BackingFile == "" || o.Parents.None:
		return nil
	case !inFile:
		return &ParentError{Recorded: img.header.BackingFile, Tried: []TriedParent{{img.header.BackingFile, errors.New("the image is not in a file")}}}
	}
	last, err := s.openParents(img, f.Name())
	if err != nil && o.Parents.Partial {
		last.parentErr = err
		return nil
	}
	return err
}
