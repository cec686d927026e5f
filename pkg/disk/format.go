package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// ErrUnknownFormat is wrapped by errors about a format name that is not in the
// list.
var ErrUnknownFormat = errors.New("unknown file format")

// Options are a format's own settings by name, as typed by a user: the "-o"
// and "--image-opts" of the command line.
type Options map[string]string

// Format is one image format. The package of each format exports one.
type Format struct {
	Name     string   // qemu's name: "raw", "vpc"
	Aliases  []string // other names that mean the same
	Suffixes []string // file name endings that suggest it, with the dot

	// Probe returns nil when the file surely has this format, and otherwise
	// why not. An error that is not ErrNotThisFormat means the file claims to
	// have the format but is damaged, and ends the probing. A format without
	// marks of its own has no Probe; it takes what no other format claims.
	Probe func(r io.ReaderAt, size int64) error

	// Open opens the image in the first size bytes of r, which must be a [File] if o
	// says Write. o may be nil, and its Format is ignored. Closing the disk closes
	// o.Closer, and nothing else of the caller's; after an error nothing is closed.
	// o.Lock locks parents only: the caller locked r before measuring it. The disk is
	// nil if there is an error.
	Open func(r io.ReaderAt, size int64, o *OpenOptions) (Disk, error)

	// Create starts a new image of size bytes (the format may round up) in an
	// empty file or a device. The image is complete when the disk is closed, which
	// does not close f. A negative size is not known yet: the disk is a Resizer, and
	// is given its size later. The disk is nil if there is an error.
	Create func(f File, size int64, o Options) (Disk, error)

	// CheckOptions returns the first error that Create would return because of these
	// options, whatever the size.
	CheckOptions func(o Options) error

	// Check returns a Checker of the first size bytes of r, or an error if an
	// option is wrong; nothing is read yet. Nil: the format has nothing to check.
	Check func(r io.ReaderAt, size int64, o *CheckOptions) (Checker, error)
	// Repair repairs an image in a file of size bytes as far as that loses no byte
	// of the disk, and returns what it has done, also with an error. A cancelled
	// ctx ends it between two steps. Nil: the format cannot be repaired.
	Repair func(ctx context.Context, f File, size int64, o *RepairOptions) ([]Repaired, error)
}

// ErrNotThisFormat is what Probe returns for a file of another format.
var ErrNotThisFormat = errors.New("not this format")

// OpenOptions say how to open a disk. The zero value detects the format and
// opens for reading.
type OpenOptions struct {
	Format  string       // a name from the list; "" detects it
	Write   bool         // open for reading and writing
	Options Options      // the format's own
	Parents ParentSearch // where the parents of an image are
	// Formats are the formats that the parents may have, for a format whose images can
	// have parents of other formats. [Open] and [OpenAs] set it to their list.
	Formats Formats
	// Force allows writing to an image that should not be written, such as that of a
	// suspended virtual machine.
	Force bool
	// Salvage opens a damaged image as far as it can be read, and its parents, too. What
	// cannot be read is zeros: see [Salvaged]. It is an error together with Write.
	Salvage bool
	// Lock, if set, locks a file before it is measured and read, and parents before
	// they are read; see vhd.Lock. Without it nothing is locked.
	Lock LockFunc
	// Closer, if set, is closed with the disk: the file that the caller opened for
	// the disk alone. [Open] sets it.
	Closer io.Closer
}

// ParentSearch say where the parents of an image that keeps only what differs from
// another one may be. The path to the parent is text from the image, which is not to
// be trusted: with the zero value only regular files in the image's folder, or
// below it, are opened.
type ParentSearch struct {
	// None opens the image alone. Reading what its parent has is an error.
	None bool
	// Partial opens the image with as many of its parents as can be opened.
	// [Child.ParentErr] of the last image says why its parent is not among them.
	Partial bool
	// Files are the image's parents by level, whatever paths the images record: the first
	// is the image's parent, the second is the parent of that one. The parent of a level
	// that is "", or has no file, is searched for.
	Files []string
	// Dirs are directories in which parents are looked for, too: by the paths and the name
	// that the image records, in the directory and below it, and then by the parent's unique
	// id among at most 4096 files in the directory itself.
	Dirs []string
	// Trust follows every path to a regular file. (Without it, and with it, paths
	// to other machines are not followed, nor are devices opened.)
	Trust bool
}

// Formats is the list of formats a program knows, the fallback last.
type Formats []*Format

// ByName finds a format by its name or an alias of it.
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

// BySuffix finds the format that a file's name suggests, or nil.
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

// Probe finds the format of a file by its contents. A file that claims a
// format but is damaged is an error.
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

// Open opens the named file or block device as a disk. Closing the disk closes the file.
// Open also returns the format that it used, and with an error the format if it is known
// by then. A nil o means the zero value. An error that is not an *[io/fs.PathError] does
// not name the file.
func Open(name string, formats Formats, o *OpenOptions) (Disk, *Format, error) {
	var own OpenOptions
	if o != nil {
		own = *o
	}
	// Ask for the format first: an unknown name is no reason to open the file.
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

// OpenAs opens the image in the first size bytes of r as a disk, as [Open] does. r
// must be a [File] if o says Write. Closing the disk closes o.Closer, and does not close
// r otherwise; after an error nothing is closed. OpenAs does not lock r: a file that other
// processes may use is locked before it is measured (see [OpenFile]).
func OpenAs(r io.ReaderAt, size int64, formats Formats, o *OpenOptions) (Disk, *Format, error) {
	var own OpenOptions
	if o != nil {
		own = *o
	}
	own.Formats = formats
	o = &own
	format, err := formats.named(o.Format)
	if format == nil && err == nil {
		format, err = formats.Probe(r, size)
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

// named is ByName for a name that may be "": then it returns nil.
func (fs Formats) named(name string) (*Format, error) {
	if name == "" {
		return nil, nil
	}
	return fs.ByName(name)
}
