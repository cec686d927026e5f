package vhdx

import (
	"io"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

const formatName = "vhdx"

// Format is the VHDX format, for lists of formats. The disks that it opens are an *[Image], and
// those that it creates a *[NewDisk].
//
// Opening accepts no options. Creating accepts subformat (dynamic or fixed), block_size,
// log_size, logical_sector_size, creator and uuid; see [ParseCreateOptions].
var Format = disk.Format{
	Name:         formatName,
	Suffixes:     []string{".vhdx", ".avhdx"},
	Probe:        Probe,
	Open:         openFormat,
	Create:       createFormat,
	CheckOptions: func(o disk.Options) error { return parseCreateOptions(&CreateOptions{}, o) },
	Check:        checkFormat,
}

func openFormat(r io.ReaderAt, size int64, o *disk.OpenOptions) (disk.Disk, error) {
	if o == nil {
		o = &disk.OpenOptions{}
	}
	if err := optlist.Only(o.Options); err != nil {
		return nil, err
	}
	if o.Write {
		return nil, errInPlace
	}
	img, err := NewImage(r, size, &OpenOptions{NoLock: o.Lock == nil, Parents: o.Parents, Closer: o.Closer})
	if err != nil {
		return nil, err // not img: a nil *Image is not a nil disk.Disk
	}
	return img, nil
}

func createFormat(f disk.File, size int64, o disk.Options) (disk.Disk, error) {
	co, err := ParseCreateOptions(size, o)
	if err != nil {
		return nil, err
	}
	d, err := CreateIn(f, co)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func checkFormat(r io.ReaderAt, size int64, o *disk.CheckOptions) (disk.Checker, error) {
	if err := optlist.Only(o.Options); err != nil {
		return nil, err
	}
	return NewChecker(r, size, &CheckOptions{
		Device: o.Device, Chain: o.Chain, Parents: o.Parents, NoLock: o.NoLock,
	}), nil
}
