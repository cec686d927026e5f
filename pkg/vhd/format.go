package vhd

import (
	"io"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Format is the VHD format, for lists of formats. Its disks have type *Image.
//
// Opening accepts the options force_size_calc (chs or current_size) and ignore_checksums; see
// [ParseOpenOptions]. Creating accepts subformat (dynamic or fixed), force_size, block_size,
// creator, uuid, align, min_size, data_align, file_align and timestamp; see
// [ParseCreateOptions]. Errors about options use qemu's words.
var Format = disk.Format{
	Name:         formatName,
	Aliases:      []string{"vhd"},
	Suffixes:     []string{".vhd", ".vpc", ".avhd"},
	Probe:        Probe,
	Open:         openFormat,
	Create:       createFormat,
	CheckOptions: func(o disk.Options) error { return parseCreateOptions(&CreateOptions{}, o) },
	Check:        checkFormat,
	Repair:       Repair,
}

const formatName = "vpc"

// FormatName implements [disk.Describer].
func (img *Image) FormatName() string { return formatName }

// Subformat implements [disk.Describer]: it returns the name of the disk type.
func (img *Image) Subformat() string { return img.footer.Type.String() }

func checkFormat(r io.ReaderAt, size int64, o *disk.CheckOptions) (disk.Checker, error) {
	vo, err := ParseOpenOptions(&disk.OpenOptions{Options: o.Options})
	if err != nil {
		return nil, err
	}
	opened, _ := o.Opened.(*Image)
	return NewChecker(r, size, &CheckOptions{
		Opened:   opened,
		SizeRule: vo.SizeRule, Device: o.Device, Deep: o.Deep, Chain: o.Chain, Parents: o.Parents, NoLock: o.NoLock,
		Now: o.Now, Progress: o.Progress,
	}), nil
}

func openFormat(r io.ReaderAt, size int64, o *disk.OpenOptions) (disk.Disk, error) {
	vo, err := ParseOpenOptions(o)
	if err != nil {
		return nil, err
	}
	img, err := NewImage(r, size, vo)
	if err != nil {
		return nil, err // without img: a nil *Image is not a nil disk.Disk
	}
	return img, nil
}

func createFormat(f disk.File, size int64, o disk.Options) (disk.Disk, error) {
	vo, err := ParseCreateOptions(size, o)
	if err != nil {
		return nil, err
	}
	img, err := CreateIn(f, vo)
	if err != nil {
		return nil, err
	}
	return img, nil
}

// ParseOpenOptions returns the options for [NewImage] that correspond to o. A nil o means the
// zero value. NoLock, which applies to the parents, is set if o has no Lock.
func ParseOpenOptions(o *disk.OpenOptions) (*OpenOptions, error) {
	if o == nil {
		o = &disk.OpenOptions{}
	}
	if err := optlist.Only(o.Options, "force_size_calc", "ignore_checksums"); err != nil {
		return nil, err
	}
	vo := &OpenOptions{Write: o.Write, Force: o.Force, Salvage: o.Salvage, Parents: o.Parents, NoLock: o.Lock == nil, Closer: o.Closer}
	switch calc, given := o.Options["force_size_calc"]; {
	case !given:
	case calc == "chs":
		vo.SizeRule = SizeFromGeometry
	case calc == "current_size":
		vo.SizeRule = SizeFromCurrent
	default:
		return nil, optlist.Errorf("Invalid size calculation mode: '%s'", calc)
	}
	if v, given := o.Options["ignore_checksums"]; given {
		on, err := optlist.Bool("ignore_checksums", v)
		if err != nil {
			return nil, err
		}
		vo.IgnoreChecksums = on
	}
	return vo, nil
}

// ParseCreateOptions returns the options that correspond to o, for a new image of at least size
// bytes. It checks them with [CreateOptions.Validate]. A negative size is unknown, and sets
// Growing. align implies force_size, unless o has another value for it.
func ParseCreateOptions(size int64, o disk.Options) (*CreateOptions, error) {
	vo := &CreateOptions{Type: Dynamic, Size: max(size, 0), Growing: size < 0}
	if err := parseCreateOptions(vo, o); err != nil {
		return nil, err
	}
	if err := vo.Validate(); err != nil {
		return nil, err
	}
	return vo, nil
}

// parseCreateOptions sets the options in o. Like qemu it parses switches and sizes first.
func parseCreateOptions(vo *CreateOptions, o disk.Options) (err error) {
	if err := optlist.Only(o, "subformat", "force_size", "block_size", "creator", "uuid", "align", "min_size", "data_align", "file_align", "timestamp"); err != nil {
		return err
	}
	if v, given := o["align"]; given {
		if vo.Align, err = optlist.Size("align", v); err != nil {
			return err
		}
		vo.Exact = true // a size rounded to a geometry does not stay aligned
	}
	if v, given := o["min_size"]; given {
		if vo.MinSize, err = optlist.Size("min_size", v); err != nil {
			return err
		}
	}
	if vo.DataAlign, err = fileAlignment(o, "data_align"); err != nil {
		return err
	}
	if vo.FileAlign, err = fileAlignment(o, "file_align"); err != nil {
		return err
	}
	if v, given := o["force_size"]; given {
		if vo.Exact, err = optlist.Bool("force_size", v); err != nil {
			return err
		}
	}
	if v, given := o["block_size"]; given {
		if vo.BlockSize, err = optlist.Size("block_size", v); err != nil {
			return err
		}
		if vo.BlockSize == 0 {
			return optlist.Errorf("Parameter 'block_size' expects a power of two from 4k to 256M")
		}
	}
	switch v := o["subformat"]; v {
	case "":
	case "dynamic":
		vo.Type = Dynamic
	case "fixed":
		vo.Type = Fixed
	default:
		return &optlist.ValueError{Key: "subformat", Value: v}
	}
	if v, given := o["creator"]; given {
		if vo.Creator, err = ParseCreator(v); err != nil {
			return err
		}
	}
	switch v, given := o["uuid"]; {
	case !given, v == "random":
	case v == "derived":
		vo.DeriveID = true
	default:
		id, err := uuid.Parse(v)
		if err != nil || id == uuid.Nil {
			return optlist.Errorf("Parameter 'uuid' expects random, derived, or an id like 0f2c3e5a-6b1d-4c8e-9a57-3d2b1e0f4c6d, not '%s'", v)
		}
		vo.UniqueID = id
	}
	if v, given := o["timestamp"]; given {
		if vo.Time, err = ParseTime(v); err != nil {
			return err
		}
	}
	return nil
}

// fileAlignment returns the value of an option for an alignment in the file; 0 if it is not
// set.
func fileAlignment(o disk.Options, key string) (int64, error) {
	v, given := o[key]
	if !given {
		return 0, nil
	}
	n, err := optlist.Size(key, v)
	if err == nil && n != SectorSize && n != dataAlign {
		err = optlist.Errorf("Parameter '%s' expects 512 or 4k", key)
	}
	return n, err
}

var _ interface {
	disk.Child
	disk.Describer
	disk.Salvaged
} = (*Image)(nil)
