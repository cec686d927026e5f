package qcow2

import (
	"errors"
	"io"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

const formatName = "qcow2"

// Format is the qcow2 format, for lists of formats. Its disks are an *Image, and
// for a new image a *Writer or a *PackedWriter.
//
// Opening accepts the options of [ParseOpenOptions], creating those of
// [ParseCreateOptions]. Errors about options have qemu's words.
var Format = disk.Format{
	Name:         formatName,
	Suffixes:     []string{".qcow2"},
	Probe:        Probe,
	Open:         openFormat,
	Create:       createFormat,
	CheckOptions: func(o disk.Options) error { _, err := ParseCreateOptions(0, o); return err },
	Check:        checkFormat,
}

// errInPlace: images are not opened for writing.
var errInPlace = errors.New("qcow2 images are not changed in place; convert writes a new one")

func openFormat(r io.ReaderAt, size int64, o *disk.OpenOptions) (disk.Disk, error) {
	if o != nil && o.Write {
		return nil, errInPlace
	}
	qo, err := ParseOpenOptions(o)
	if err != nil {
		return nil, err
	}
	img, err := NewImage(r, size, qo)
	if err != nil {
		return nil, err // not img: a nil *Image is not a nil disk.Disk
	}
	return img, nil
}

func createFormat(f disk.File, size int64, o disk.Options) (disk.Disk, error) {
	qo, err := ParseCreateOptions(size, o)
	if err != nil {
		return nil, err
	}
	// Not as one expression: a nil *Writer is not a nil disk.Disk.
	if qo.Compress {
		w, err := CreatePacked(f, qo)
		if err != nil {
			return nil, err
		}
		return w, nil
	}
	w, err := Create(f, qo)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// ParseOpenOptions returns the options for [NewImage] that correspond to o; a nil o means
// the zero value. The options are snapshot (an id or a name), snapshot.id, snapshot.name
// and data-file.filename. NoLock is set if o has no Lock.
func ParseOpenOptions(o *disk.OpenOptions) (*OpenOptions, error) {
	if o == nil {
		o = &disk.OpenOptions{}
	}
	if err := optlist.Only(o.Options, "snapshot", "snapshot.id", "snapshot.name", "data-file.filename", "data-file.driver", "lazy-refcounts"); err != nil {
		return nil, err
	}
	return &OpenOptions{
		Snapshot: o.Options["snapshot"], SnapshotID: o.Options["snapshot.id"], SnapshotName: o.Options["snapshot.name"],
		DataFile: o.Options["data-file.filename"], Formats: o.Formats, Parents: o.Parents, NoLock: o.Lock == nil, Closer: o.Closer,
	}, nil
}
