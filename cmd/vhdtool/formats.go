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

// format is a disk format, with what only the command needs.
type format struct {
	*disk.Format
	foreign       bool         // detected, but not supported
	createOptions []optionSpec // shown by -o help

	// describe returns the properties of a disk for info, besides its size. Nil: there are none.
	describe func(d disk.Disk, fileLength int64) description
	// fileSize returns the length of the file of a new image. Nil: the length of the disk.
	fileSize func(size int64, o disk.Options) (fileSize, error)
	// sectorSize returns the logical sector size of a new disk, in bytes. Nil: the format records
	// none.
	sectorSize func(o disk.Options) (int64, error)
	// stream writes a new image of src to a pipe, with the options of a copy. Nil: the image is the
	// bytes of the disk.
	stream func(ctx context.Context, w io.Writer, src disk.Disk, o disk.Options, co *convert.Options) error
	// streamEnd ends an image in a pipe whose size was not known before. Nil: nothing follows the
	// bytes of the disk.
	streamEnd func(w io.Writer, size int64, o disk.Options) error
	// examine returns the rules of a product that an image breaks. Nil: no product accepts the
	// format.
	examine func(r *examineRequest) ([]product.BrokenRule, error)
	// examineResized returns the rules that an image will break after Resize, or ResizeExact if
	// exact is set. Nil as for examine.
	examineResized func(d disk.Disk, p *product.Product, length, size int64, exact bool) ([]product.BrokenRule, error)
	// sizeInDoubt returns a text if readers disagree about the size of a disk, else "". Nil: they
	// never do.
	sizeInDoubt func(d disk.Disk) string
	// createChild starts a new image with a parent. Nil: the format has no parents.
	createChild func(r *childRequest) (disk.Disk, error)
	// set changes fields of an image. Nil: the format has none to change.
	set func(d disk.Disk, o *setOptions) error
	// fileParts yields the parts of a file of length bytes with their uses, in order and without
	// gaps. Nil: the file is the bytes of the disk.
	fileParts func(d disk.Disk, length int64) iter.Seq2[filePart, error]
}

// virtualSize returns the disk size of a new image for a source of size bytes.
func (f *format) virtualSize(size int64, o disk.Options) (int64, error) {
	if f.fileSize == nil {
		return raw.AlignedSize(size, o)
	}
	fs, err := f.fileSize(size, o)
	return fs.virtual, err
}

// fileSize describes how the length of a file depends on the allocated blocks.
type fileSize struct {
	virtual           int64 // size of the disk
	blocks, blockSize int64 // 0 if the length is fixed
	length            func(allocated int64) (int64, error)
}

// The formats in the order of detection. raw accepts every file, so it is last.
var allFormats = slices.Concat([]*format{&vpcFormat, &qcow2Format, &vhdxFormat}, foreignFormats, []*format{&rawFormat})

var formats = func() disk.Formats {
	var fs disk.Formats
	for _, f := range allFormats {
		fs = append(fs, f.Format)
	}
	return fs
}()

// formatOf returns the command's format for a library's.
func formatOf(f *disk.Format) *format {
	for _, x := range allFormats {
		if x.Format == f {
			return x
		}
	}
	panic("format " + f.Name + " is not in the list")
}

// formatOfDisk returns the format of an open disk, which may be a parent.
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

// outputFormat returns the format of a new file: the named one, else by the file's suffix, else
// raw. qemu-img ignores the suffix.
func (c *cli) outputFormat(name, file string) (*format, error) {
	if err := c.refuseCompressedName(file); err != nil {
		return nil, err
	}
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
		return nil, &hintError{qemuErrorf("Unknown file format '%s'", name), formatHint(name)}
	}
	return f, f.refusal()
}

var rawFormat = format{
	Format:        &raw.Format,
	streamEnd:     endRaw,
	createOptions: []optionSpec{sizeOption, alignOption},
}

// endRaw writes the zeros that pad a raw disk to whole sectors, or to its alignment.
func endRaw(w io.Writer, size int64, o disk.Options) error {
	n, err := raw.AlignedSize(size, o)
	if err != nil {
		return err
	}
	_, err = io.CopyN(w, zeroReader{}, n-size)
	return err
}

// refusal returns why no image of the format can be created, or nil.
func (f *format) refusal() error {
	if !f.foreign {
		return nil
	}
	_, err := f.Create(nil, 0, nil)
	return err
}
