package main

import (
	"context"
	"io"
	"iter"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

// format is a format with what only the command needs to know about it.
type format struct {
	*disk.Format
	foreign       bool         // recognised, but not supported
	createOptions []optionSpec // what -o help says of the options of a new image

	// describe returns what info tells about a disk beyond its size; nil if
	// there is nothing.
	describe func(d disk.Disk, fileLength int64) description
	// fileSize says how long the file of a new image will be; nil if as long as
	// the disk.
	fileSize func(size int64, o disk.Options) (fileSize, error)
	// sectorSize is the logical sector size of a new image's disk, in bytes; nil if the format
	// records none.
	sectorSize func(o disk.Options) (int64, error)
	// stream writes a new image of src to a pipe, as the options of a copy say; nil if it
	// is the disk's bytes.
	stream func(ctx context.Context, w io.Writer, src disk.Disk, o disk.Options, co *convert.Options) error
	// streamEnd writes what follows the bytes of a disk that went to a pipe
	// before its size was known; nil if nothing does.
	streamEnd func(w io.Writer, size int64, o disk.Options) error
	// examine returns the rules of a product that an image breaks; nil if no product
	// accepts images of the format.
	examine func(r *examineRequest) ([]product.BrokenRule, error)
	// examineResized returns those that an image will break when it has another size, as
	// by Resize, or by ResizeExact if exact is set; nil as above.
	examineResized func(d disk.Disk, p *product.Product, length, size int64, exact bool) ([]product.BrokenRule, error)
	// sizeInDoubt says that readers disagree about the size of a disk, or ""; nil if they
	// never do.
	sizeInDoubt func(d disk.Disk) string
	// createChild starts a new image with a parent; nil if images of the format have
	// none.
	createChild func(r *childRequest) (disk.Disk, error)
	// set changes what an image says of itself; nil if there is nothing to change.
	set func(d disk.Disk, o *setOptions) error
	// fileParts yields what the parts of a file of so many bytes are for, in order
	// and without gaps; nil if the disk's bytes are the file's.
	fileParts func(d disk.Disk, length int64) iter.Seq2[filePart, error]
}

// virtualSize is the size of the disk that a new image for so many bytes has.
func (f *format) virtualSize(size int64, o disk.Options) (int64, error) {
	if f.fileSize == nil {
		return raw.AlignedSize(size, o)
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
var allFormats = slices.Concat([]*format{&vpcFormat, &vhdxFormat}, foreignFormats, []*format{&rawFormat})

var formats = func() disk.Formats {
	var fs disk.Formats
	for _, f := range allFormats {
		fs = append(fs, f.Format)
	}
	return fs
}()

// formatOf returns what the command knows about a format.
func formatOf(f *disk.Format) *format {
	for _, x := range allFormats {
		if x.Format == f {
			return x
		}
	}
	panic("format " + f.Name + " is not in the list")
}

// formatOfDisk is the format of an open disk, which may be the parent of another one.
func formatOfDisk(d disk.Disk) *format {
	if d, ok := d.(disk.Describer); ok {
		if f, err := formatByName(d.FormatName()); err == nil {
			return f
		}
	}
	return &rawFormat
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
	Format:        &raw.Format,
	streamEnd:     endRaw,
	createOptions: []optionSpec{sizeOption, alignOption},
}

// endRaw writes the zeros that make a raw disk whole sectors, or as aligned as
// it is to be.
func endRaw(w io.Writer, size int64, o disk.Options) error {
	n, err := raw.AlignedSize(size, o)
	if err != nil {
		return err
	}
	_, err = io.CopyN(w, zeroReader{}, n-size)
	return err
}

// refusal is why no image of the format can be made, or nil.
func (f *format) refusal() error {
	if !f.foreign {
		return nil
	}
	_, err := f.Create(nil, 0, nil)
	return err
}
