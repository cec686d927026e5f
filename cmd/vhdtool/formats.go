package main

import (
	"context"
	"io"
	"iter"
	"math"
	"os"
	"slices"

	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

// format is a format with what only the command needs to know about it.
type format struct {
	disk.Format
	foreign       bool // recognised, but not supported
	createOptions []optionSpec

	// describe returns what info tells about a disk beyond its size; nil if
	// there is nothing.
	describe func(d disk.Disk, fileLength int64) description
	// fileSize says how long the file of a new image will be; nil if as long as
	// the disk.
	fileSize func(size int64, o disk.Options) (fileSize, error)
	// stream writes a new image of src to a pipe, with all of its blocks if so
	// asked; nil if it is the disk's bytes.
	stream func(ctx context.Context, w io.Writer, src disk.Disk, o disk.Options, all bool) error
	// streamEnd writes what follows the bytes of a disk that went to a pipe
	// before its size was known; nil if nothing does.
	streamEnd func(w io.Writer, size int64, o disk.Options) error
	// examine returns what keeps a product from accepting an image; nil if the format
	// has no products.
	examine func(r io.ReaderAt, size int64, o disk.Options, product string) ([]disk.Finding, error)
	// parent returns the disk that a disk inherits from, and the file that is in; nil
	// if the format has no such thing.
	parent func(d disk.Disk) (disk.Disk, string)
	// subformat names the kind of image a disk is; nil if there is one only.
	subformat func(d disk.Disk) string
	// fileParts yields what the parts of a file of so many bytes are for, in order
	// and without gaps; nil if the disk's bytes are the file's.
	fileParts func(d disk.Disk, length int64) iter.Seq2[filePart, error]
}

// virtualSize is the size of the disk that a new image for so many bytes has.
func (f *format) virtualSize(size int64, o disk.Options) (int64, error) {
	if f.fileSize == nil {
		return alignedRawSize(size, o)
	}
	fs, err := f.fileSize(size, o)
	return fs.virtual, err
}

// fileSize says how the length of a file depends on what is allocated.
type fileSize struct {
	virtual           int64 // size of the disk
	blocks, blockSize int64 // 0 if nothing depends on it
	length            func(allocated int64) (int64, error)
}

// The formats, in the order in which they are probed; raw takes what is left.
var allFormats = slices.Concat([]*format{&vpcFormat}, foreignFormats, []*format{&rawFormat})

var formats = func() disk.Formats {
	var fs disk.Formats
	for _, f := range allFormats {
		fs = append(fs, &f.Format)
	}
	return fs
}()

// formatOf returns what the command knows about a format.
func formatOf(f *disk.Format) *format {
	for _, x := range allFormats {
		if &x.Format == f {
			return x
		}
	}
	panic("format " + f.Name + " is not in the list")
}

// formatByName finds a format that the user named.
func formatByName(name string) (*format, error) {
	f, err := formats.ByName(name)
	if err != nil {
		return nil, err
	}
	return formatOf(f), nil
}

// outputFormat is the format of a new file: the one named, else what the file's
// suffix says, which qemu-img does not look at, else raw.
func (c *cli) outputFormat(name, file string) (*format, error) {
	if name == "" && !c.likeQEMU {
		if f := formats.BySuffix(file); f != nil {
			return formatOf(f), formatOf(f).refusal()
		}
	}
	if name == "" {
		return &rawFormat, nil
	}
	f, err := formatByName(name)
	if err != nil {
		return nil, qemuErrorf("Unknown file format '%s'", name)
	}
	return f, f.refusal()
}

var rawFormat = format{
	Format: disk.Format{
		Name: "raw",
		Open: func(f *os.File, size int64, o *disk.OpenOptions) (disk.Disk, error) {
			if err := onlyOptions(o.Options); err != nil {
				return nil, err
			}
			return raw.Open(f, size), nil
		},
		Create: createRaw,
	},
	streamEnd:     endRaw,
	createOptions: []optionSpec{sizeOption, alignOption},
}

func createRaw(f disk.File, size int64, o disk.Options) (disk.Disk, error) {
	if size < 0 && disk.IsDevice(f) {
		length, err := disk.FileSize(f)
		if err != nil {
			return nil, err
		}
		return raw.Open(f, length), nil
	}
	n, err := alignedRawSize(max(size, 0), o)
	if err != nil {
		return nil, err
	}
	d, err := raw.Create(f, n)
	return alignedRaw{d, o}, err
}

// alignedRawSize is the size of a raw disk for so many bytes.
func alignedRawSize(size int64, o disk.Options) (int64, error) {
	align := int64(disk.SectorSize)
	if v, given := o[alignOption.name]; given {
		align, _ = sizearg.Parse(v)
	}
	if align <= 0 || align%disk.SectorSize != 0 || size > math.MaxInt64-align {
		return 0, qemuErrorf("Parameter 'align' expects a multiple of 512")
	}
	return (size + align - 1) / align * align, nil
}

// endRaw writes the zeros that make a raw disk whole sectors, or as aligned as
// it is to be.
func endRaw(w io.Writer, size int64, o disk.Options) error {
	n, err := alignedRawSize(size, o)
	if err != nil {
		return err
	}
	_, err = io.CopyN(w, zeroReader{}, n-size)
	return err
}

// alignedRaw is a raw disk whose size stays aligned when it is found out late.
type alignedRaw struct {
	*raw.Disk
	options disk.Options
}

func (d alignedRaw) Resize(ctx context.Context, size int64, progress disk.Progress) error {
	n, err := alignedRawSize(size, d.options)
	if err != nil {
		return err
	}
	return d.Disk.Resize(ctx, n, progress)
}

// refusal is why no image of the format can be made, or nil.
func (f *format) refusal() error {
	if !f.foreign {
		return nil
	}
	_, err := f.Create(nil, 0, nil)
	return err
}

// onlyOptions refuses options that the format does not have.
func onlyOptions(o disk.Options, known ...string) error {
	for key := range o {
		found := false
		for _, k := range known {
			found = found || k == key
		}
		if !found {
			return qemuErrorf("Invalid parameter '%s'", key)
		}
	}
	return nil
}
