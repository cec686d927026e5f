package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrUnknownFormat is wrapped by errors about a format name that is not in the
// list.
var ErrUnknownFormat = errors.New("unknown file format")

// Options are a format's own settings by name, as typed by a user: the "-o"
// and "--image-opts" of the command line.
type Options map[string]string

// Format is one image format, as the commands see it.
type Format struct {
	Name     string   // qemu's name: "raw", "vpc"
	Aliases  []string // other names that mean the same
	Suffixes []string // file name endings that suggest it, with the dot

	// Probe returns nil when the file surely has this format, and otherwise
	// why not. An error that is not ErrNotThisFormat means the file claims to
	// have the format but is damaged, and ends the probing. A format without
	// marks of its own has no Probe; it takes what no other format claims.
	Probe func(r io.ReaderAt, size int64) error

	// Open sees the file as a disk. The disk closes the file; after an error
	// the caller does.
	Open func(f *os.File, size int64, o *OpenOptions) (Disk, error)

	// Create starts a new image of size bytes (the format may round up) in an
	// empty file. The image is complete when the disk is closed. A size below 0
	// is not known yet: the disk is a Resizer, and is given its size later.
	Create func(f File, size int64, o Options) (Disk, error)

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

// OpenOptions say how to open a disk. The zero value probes the format and
// opens for reading.
type OpenOptions struct {
	Format  string       // a name from the list; "" finds it out
	Write   bool         // open for reading and writing
	Options Options      // the format's own
	Parents ParentSearch // where the parents of an image are
	// Force opens for writing what had better not be written, such as the image
	// of a suspended virtual machine.
	Force bool
	// Lock, if set, is called with the open file before anything is read.
	Lock func(f *os.File, write bool) error
}

// ParentSearch say where the parents of an image that keeps only what differs from
// another one may be. The path to the parent stands in the image, which is not to
// be trusted: with the zero value only regular files in the image's folder, or
// below it, are opened.
type ParentSearch struct {
	// None opens the image alone. Reading what its parent has is an error.
	None bool
	// File is the image's parent, whatever path the image has for it.
	File string
	// Dirs are folders in which parents are looked for, too.
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

// Open opens the named file or block device as a disk. The format returned is
// the one used. Errors name the file, once.
func Open(name string, formats Formats, o *OpenOptions) (Disk, *Format, error) {
	if o == nil {
		o = &OpenOptions{}
	}
	var format *Format
	if o.Format != "" {
		var err error
		if format, err = formats.ByName(o.Format); err != nil {
			return nil, nil, err
		}
	}
	f, size, err := OpenFile(name, o.Write)
	if err != nil {
		return nil, format, err
	}
	return openAs(f, size, format, formats, o)
}

// OpenAs opens a file of size bytes, which is open already, as [Open] does. The
// disk closes the file, and so does an error.
func OpenAs(f *os.File, size int64, formats Formats, o *OpenOptions) (Disk, *Format, error) {
	var format *Format
	if o.Format != "" {
		var err error
		if format, err = formats.ByName(o.Format); err != nil {
			f.Close()
			return nil, nil, err
		}
	}
	return openAs(f, size, format, formats, o)
}

func openAs(f *os.File, size int64, format *Format, formats Formats, o *OpenOptions) (Disk, *Format, error) {
	var err error
	if o.Lock != nil {
		if err := o.Lock(f, o.Write); err != nil {
			f.Close()
			return nil, format, err
		}
	}
	if format == nil {
		if format, err = formats.Probe(f, size); err != nil {
			f.Close()
			return nil, format, err
		}
	}
	d, err := format.Open(f, size, o)
	if err != nil {
		f.Close()
		return nil, format, err
	}
	return d, format, nil
}

// OpenFile opens a regular file or a block device and measures it. Anything
// else (a directory, a pipe) is refused: a disk is read at random.
func OpenFile(name string, write bool) (*os.File, int64, error) {
	// Look before opening: opening a FIFO would wait for its other end.
	st, err := os.Stat(name)
	if err != nil {
		return nil, 0, err
	}
	refuse := func(err error) error { return &fs.PathError{Op: "open", Path: name, Err: err} }
	switch {
	case st.IsDir():
		return nil, 0, refuse(errors.New("is a directory, want a regular file or a block device"))
	case st.Mode()&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeCharDevice) != 0:
		return nil, 0, refuse(fmt.Errorf("cannot be read at random (mode %v), want a regular file or a block device", st.Mode()))
	}
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	f, err := os.OpenFile(name, flag, 0)
	if err != nil {
		return nil, 0, err
	}
	size, err := f.Seek(0, io.SeekEnd) // block devices have no size in Stat
	if err == nil && size == 0 && !st.Mode().IsRegular() {
		err = refuse(errors.New("a device whose size is 0, or cannot be found out"))
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
}
