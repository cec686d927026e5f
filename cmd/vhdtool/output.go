package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vhdtool/vhdtool/internal/target"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// createOutput starts a new disk of size bytes.
func (c *cli) createOutput(name string, f *format, size int64, o disk.Options) (*target.File, error) {
	// An image that cannot be created must not empty a file that is written in place.
	if size >= 0 && exists(name) {
		if err := checkValues(f, o); err != nil {
			return nil, err
		}
		if _, err := f.virtualSize(size, o); err != nil {
			return nil, creationError(f, err)
		}
	}
	return c.createOutputBy(name, f, o, func(file disk.File) (disk.Disk, error) { return f.Create(file, size, o) })
}

// createOutputBy starts a new disk with the function create.
func (c *cli) createOutputBy(name string, f *format, o disk.Options, create func(disk.File) (disk.Disk, error)) (*target.File, error) {
	if err := checkValues(f, o); err != nil {
		return nil, err
	}
	out, err := target.Create(name, &target.CreateOptions{KeepLinks: c.likeQEMU}, create)
	var inUse *target.InUseError
	var locked *target.LockError
	var refused *target.OpenError
	switch {
	case errors.As(err, &inUse):
		return nil, &hintError{
			fmt.Errorf("%s: %w", name, inUse),
			fmt.Sprintf("detach it with 'losetup -d %s', write to %[1]s itself, or to another name", inUse.Device),
		}
	case errors.As(err, &locked):
		return nil, c.lockError(name, locked.Err)
	case errors.As(err, &refused):
		return nil, c.createError(name, refused.Err)
	case err != nil:
		return nil, creationError(f, withoutPath(err))
	}
	if n := out.Links(); n > 1 {
		c.message("warning: %s: the file has %d names (hard links); only this one gets the new image", name, n)
		fmt.Fprintln(c.stderr, "hint: 'convert -n' and 'dd conv=notrunc' write into the file itself")
	}
	if err := out.InPlace(); err != nil && !c.likeQEMU {
		c.message("warning: %s: the file is written in place, and is incomplete until the end: %v", name, err)
	}
	return out, nil
}

// lockError returns the error for a target in use.
func (c *cli) lockError(name string, err error) error {
	if c.likeQEMU {
		return qemuErrorf("Failed to get \"write\" lock\nIs another process using the image [%s]?", name)
	}
	return &hintError{err, "wait for the other process to exit, or write to another name"}
}

// createError returns the error for a file that cannot be created.
func (c *cli) createError(name string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return qemuErrorf("Could not create '%s': %s", name, cText(err))
}

// pathlessError is an error without its path.
type pathlessError struct {
	error
	text string
}

func (e *pathlessError) Error() string { return e.text }

func (e *pathlessError) Unwrap() error { return e.error }

// withoutPath removes the path from an error. The message names the file already, and the path may
// be a temporary one.
func withoutPath(err error) error {
	if err == nil {
		return nil
	}
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		return &pathlessError{err, strings.Replace(err.Error(), pe.Error(), pe.Err.Error(), 1)}
	case errors.As(err, &le):
		return &pathlessError{err, strings.Replace(err.Error(), le.Error(), le.Err.Error(), 1)}
	}
	return err
}

// pathFirst moves the path of an error to the front.
func pathFirst(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("%s: %w", pe.Path, withoutPath(err))
	}
	return err
}

// creationError returns the format's error about creating an image.
func creationError(f *format, err error) error {
	if errors.Is(err, vhd.ErrTooLarge) {
		return &hintError{qemuErrorf("The image size is too large for file format '%s'", f.Name), tooLargeHint()}
	}
	return err
}

// refuseBases returns an error if a target is among the parents of the source.
func refuseBases(bases []string, target string) error {
	for _, base := range bases {
		if disk.SameFile(base, target) {
			return &hintError{fmt.Errorf("%s: the target is a parent of the source", target), "'commit' merges an image into its parent"}
		}
	}
	return nil
}

// refuseSource returns an error if a target is also the source.
func (c *cli) refuseSource(source, target string, f *format) error {
	if !disk.SameFile(source, target) {
		return nil
	}
	if c.likeQEMU {
		return qemuErrorf("%s: error while converting %s: Failed to get \"write\" lock\nIs another process using the image [%s]?", target, f.Name, target)
	}
	return &hintError{fmt.Errorf("%s: the source is also the target", target), "write to another name, and rename it afterwards"}
}
