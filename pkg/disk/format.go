package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// ErrUnknownFormat is wrapped by errors about a format name that is not in the list.
var ErrUnknownFormat = errors.New("unknown file format")

// Options are options of a format by name, as in "-o" and "--image-opts" of the command line.
type Options map[string]string

// Format is one image format. The package of each format exports one.
type Format struct {
	Name     string   // qemu's name: "raw", "vpc"
	Aliases  []string // other names of the same format
	Suffixes []string // suffixes of file names, with the dot

	// Probe returns nil if the file has this format. It returns ErrNotThisFormat for another
	// format. Any other error means that the file has this format but is damaged, and ends the
	// detection.
	//
	// A format that cannot be detected has no Probe. It accepts every file that no other format
	// accepts.
	Probe func(r io.ReaderAt, size int64) error

	// Open opens the image in the first size bytes of r, which must be a [File] if o says
	// Write. o may be nil; its Format is ignored. The caller has locked r before reading its
	// length, so o.Lock is only for parents. Closing the disk closes o.Closer, but not r. If
	// there is an error, the disk is nil and nothing is closed.
	Open func(r io.ReaderAt, size int64, o *OpenOptions) (Disk, error)

	// Create starts a new image of size bytes in an empty file or a device. The format may
	// round the size up. Closing the disk completes the image, and does not close f. A negative
	// size means that the size is unknown: the disk is then a Resizer, and gets its size later.
	// If there is an error, the disk is nil.
	Create func(f File, size int64, o Options) (Disk, error)

	// CheckOptions returns the error that Create would return for these options, whatever the
	// size.
	CheckOptions func(o Options) error

	// Check returns a Checker of the first size bytes of r, or an error for a wrong option. It
	// does not read yet. It is nil if the format has nothing to check.
	Check func(r io.ReaderAt, size int64, o *CheckOptions) (Checker, error)
	// Repair repairs the image in a file of size bytes, as far as that loses no guest data. It
	// reports the changes it made, also with an error. A cancelled ctx stops it between two
	// steps. It is nil if the format cannot be repaired.
	Repair func(ctx context.Context, f File, size int64, o *RepairOptions) (RepairReport, error)
}

// ErrNotThisFormat is the error of Probe for a file of another format.
var ErrNotThisFormat = errors.New("not this format")

// OpenOptions say how to open a disk. The zero value detects the format and opens the disk for
// reading.
type OpenOptions struct {
	Format  string       // name of a format in the list; "" detects it
	Write   bool         // open for reading and writing
	Options Options      // options of the format
	Parents ParentSearch // where to search for parents
	// Force allows writes to an image that should not be written, such as that of a suspended
	// virtual machine.
	Force bool
	// Salvage opens a damaged image and its parents as far as they can be read. Unreadable data
	// reads as zeros: see [Salvaged]. Salvage together with Write is an error.
	Salvage bool
	// Lock, if set, locks files: the image before its length is read, and parents before they
	// are read. See vhd.Lock.
	Lock LockFunc
	// Closer, if set, is closed with the disk: a file that the caller opened only for the disk.
	// [Open] sets it.
	Closer io.Closer
}

// ParentSearch says where to search for the parents of a differencing image. The recorded path
// to the parent is untrusted text from the image. With the zero value only regular files in the
// image's directory or below it are opened.
type ParentSearch struct {
	// None opens the image without parents. Reading data of the parent is then an error.
	None bool
	// Partial opens the image with as many parents as can be opened. [Child].ParentErr of the
	// last one is the reason why its parent is missing.
	Partial bool
	// Files are the parents by level, whatever paths the images record: first the parent of the
	// image, then the parent of that parent, and so on. The parent of a level is searched for
	// if its entry is "" or missing.
	Files []string
	// Dirs are more directories to search. First the recorded paths and name are tried, in the
	// directory and below it. Then at most 4096 files in the directory itself are searched for
	// the unique id of the parent.
	Dirs []string
	// Trust follows every path to a regular file. Paths to other hosts are never followed, and
	// devices never opened.
	Trust bool
}

// Formats lists the formats of a program. A format without Probe comes last.
type Formats []*Format

// ByName returns the format with this name or alias.
func (fs Formats) ByName(name string) (*Format, error) {
	for _, f := range fs {
		if f.Name == name {
			return f, nil
		}
		for _, a := range f.Aliases {
			if a == name {
				return f, nil
			}
		}
	}
	return nil, fmt.Errorf("%w %q", ErrUnknownFormat, name)
}

// BySuffix returns the format with the suffix of this file name, or nil.
func (fs Formats) BySuffix(name string) *Format {
	ext := strings.ToLower(filepath.Ext(name))
	for _, f := range fs {
		for _, s := range f.Suffixes {
			if s == ext {
				return f
			}
		}
	}
	return nil
}

// Probe detects the format of a file from its contents. A damaged file of a known format is an
// error.
func (fs Formats) Probe(r io.ReaderAt, size int64) (*Format, error) {
	var fallback *Format
	for _, f := range fs {
		if f.Probe == nil {
			fallback = f
			continue
		}
		switch err := f.Probe(r, size); {
		case err == nil:
			return f, nil
		case !errors.Is(err, ErrNotThisFormat):
			return f, err
		}
	}
	if fallback == nil {
		return nil, ErrUnknownFormat
	}
	return fallback, nil
}

// Open opens the named file or block device as a disk. Closing the disk closes the file. A nil
// o means the zero value.
//
// Open returns the format of the disk, also with an error if the format is known by then. Only
// errors of type *[io/fs.PathError] name the file.
func Open(name string, formats Formats, o *OpenOptions) (Disk, *Format, error) {
	var own OpenOptions
	if o != nil {
		own = *o
	}
	// Check the name of the format before opening the file.
	if _, err := formats.named(own.Format); err != nil {
		return nil, nil, err
	}
	f, size, err := OpenFile(name, own.Write, own.Lock)
	if err != nil {
		format, _ := formats.named(own.Format)
		return nil, format, err
	}
	own.Closer = f
	d, format, err := OpenAs(f, size, formats, &own)
	if err != nil {
		f.Close()
	}
	return d, format, err
}

// OpenAs opens the image in the first size bytes of r as a disk, as [Open] does. r must be a
// [File] if o says Write. Closing the disk closes o.Closer, but not r. If there is an error,
// nothing is closed.
//
// OpenAs does not lock r. If other processes may use the file, lock it before reading its
// length; see [OpenFile].
func OpenAs(r io.ReaderAt, size int64, formats Formats, o *OpenOptions) (Disk, *Format, error) {
	if o == nil {
		o = &OpenOptions{}
	}
	format, err := formats.named(o.Format)
	if format == nil && err == nil {
		format, err = formats.Probe(r, size)
		if o.Salvage && format != nil {
			err = nil // a damaged image of the format is what Open is to read
		}
	}
	if err != nil {
		return nil, format, err
	}
	d, err := format.Open(r, size, o)
	if err != nil {
		return nil, format, err
	}
	return d, format, nil
}

// named is ByName, except that it returns nil for "".
func (fs Formats) named(name string) (*Format, error) {
	if name == "" {
		return nil, nil
	}
	return fs.ByName(name)
}
