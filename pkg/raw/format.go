package raw

import (
	"fmt"
	"io"
	"math"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Format is the raw format, for lists of formats. It accepts every file, so it must be the last
// one of a list.
//
// Opening accepts no options. Creating accepts "align", which rounds the size up to a multiple
// of that many bytes, itself a multiple of 512.
var Format = disk.Format{
	Name:         formatName,
	Open:         openFormat,
	Create:       createFormat,
	CheckOptions: func(o disk.Options) error { _, err := alignment(o); return err },
}

const formatName = "raw"

// FormatName implements [disk.Describer].
func (d *Disk) FormatName() string { return formatName }

// Subformat implements [disk.Describer]. Raw disks have no variants.
func (d *Disk) Subformat() string { return "" }

func openFormat(r io.ReaderAt, size int64, o *disk.OpenOptions) (disk.Disk, error) {
	if o == nil {
		o = &disk.OpenOptions{}
	}
	if err := optlist.Only(o.Options); err != nil {
		return nil, err
	}
	d := Open(r, size)
	if o.Write {
		f, ok := r.(disk.File)
		if !ok {
			return nil, fmt.Errorf("%T cannot be written, want a disk.File", r)
		}
		d = OpenWrite(f, size)
	}
	d.closer = o.Closer
	return d, nil
}

func createFormat(f disk.File, size int64, o disk.Options) (disk.Disk, error) {
	align, err := alignment(o)
	if err != nil {
		return nil, err
	}
	if size < 0 && disk.IsDevice(f) {
		length, err := disk.FileSize(f)
		if err != nil {
			return nil, err
		}
		if err := clearMarks(f, length); err != nil {
			return nil, err
		}
		return OpenWrite(f, length), nil
	}
	n, err := alignUp(max(size, 0), align)
	if err != nil {
		return nil, err
	}
	d, err := Create(f, n)
	if err != nil {
		return nil, err // d would be a disk.Disk that is not nil
	}
	d.align = align
	return d, nil
}

// AlignedSize returns the size in bytes of a disk that Format creates for size bytes with the
// options o.
func AlignedSize(size int64, o disk.Options) (int64, error) {
	align, err := alignment(o)
	if err != nil {
		return 0, err
	}
	return alignUp(size, align)
}

var errAlign = optlist.Errorf("Parameter 'align' expects a multiple of 512")

// alignment returns the value of "align" in the options of a new disk.
func alignment(o disk.Options) (int64, error) {
	if err := optlist.Only(o, "align"); err != nil {
		return 0, err
	}
	v, given := o["align"]
	if !given {
		return disk.SectorSize, nil
	}
	align, err := optlist.Size("align", v)
	if err != nil {
		return 0, err
	}
	if align <= 0 || align%disk.SectorSize != 0 {
		return 0, errAlign
	}
	return align, nil
}

// alignUp rounds a size up to a multiple of align bytes.
func alignUp(size, align int64) (int64, error) {
	if size > math.MaxInt64-align {
		return 0, errAlign
	}
	return (size + align - 1) / align * align, nil
}
