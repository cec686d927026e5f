package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vhdtool/vhdtool/internal/atomicfile"
	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// output is a disk that a command makes. A regular file appears under its name
// when commit is called; a device is written in place.
type output struct {
	name string
	disk convert.Target
	file *atomicfile.File // nil for a device
	dev  *os.File         // nil for a file
	old  *os.File         // the file that will be replaced, locked; nil if there is none

	preallocation preallocation // of the file when it is complete
}

// createOutput starts a new disk of size bytes.
func (c *cli) createOutput(name string, f *format, size int64, o disk.Options) (*output, error) {
	if size >= 0 && exists(name) { // what cannot be made must not empty a file that is written in place
		if err := checkValues(f, o); err != nil {
			return nil, err
		}
		if _, err := f.virtualSize(size, o); err != nil {
			return nil, creationError(f, err)
		}
	}
	return c.createOutputBy(name, f, o, func(file disk.File) (disk.Disk, error) { return f.Create(file, size, o) })
}

// createOutputBy starts a new disk that create makes.
func (c *cli) createOutputBy(name string, f *format, o disk.Options, create func(disk.File) (disk.Disk, error)) (*output, error) {
	if err := checkValues(f, o); err != nil {
		return nil, err
	}
	out := &output{name: name}
	var file disk.File
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
		dev, _, err := disk.OpenFile(name, true, imagelock.Lock)
		if errors.Is(err, imagelock.ErrLocked) {
			return nil, c.lockError(name, err)
		}
		if err != nil {
			return nil, c.createError(name, err)
		}
		out.dev, file = dev, dev
	} else {
		// Who has the old file open would go on with one that nobody else sees.
		if old, err := os.OpenFile(name, os.O_RDWR, 0); err == nil {
			if err := imagelock.Lock(old, true); err != nil {
				old.Close()
				return nil, c.lockError(name, err)
			}
			out.old = old
		}
		if out.file, err = c.createFile(name, st); err != nil {
			out.unlock()
			var hint *hintError
			if errors.As(err, &hint) {
				return nil, err
			}
			return nil, c.createError(name, err)
		}
		file = out.file.File
	}
	d, err := create(file)
	if err != nil {
		out.discard()
		return nil, creationError(f, withoutPath(err))
	}
	out.disk = d.(convert.Target)
	return out, nil
}

// createFile starts a file that will replace the named one; st is what is there now, or
// nil.
//
// qemu-img writes into the file that is there. Where that makes a difference, because the
// file has other names or a loop device uses it, so does this program under its name.
func (c *cli) createFile(name string, st fs.FileInfo) (*atomicfile.File, error) {
	if st != nil {
		links, loop := atomicfile.Links(st), atomicfile.LoopDevice(st)
		switch {
		case c.likeQEMU && (links > 1 || loop != ""):
			return atomicfile.InPlace(name, errors.New("qemu-img writes in place"))
		case loop != "":
			return nil, &hintError{
				fmt.Errorf("%s: the file is in use by %s, which would go on with the old one", name, loop),
				fmt.Sprintf("detach it with 'losetup -d %s', write to %s itself, or to another name", loop, loop),
			}
		case links > 1:
			c.message("warning: %s: the file has %d names (hard links); only this one gets the new image", name, links)
			fmt.Fprintln(c.stderr, "hint: 'convert -n' and 'dd conv=notrunc' write into the file itself")
		}
	}
	f, err := atomicfile.Create(name)
	if err == nil && f.InPlace() != nil && !c.likeQEMU {
		c.message("warning: %s: the file is written in place, and is incomplete until the end: %v", name, f.InPlace())
	}
	return f, err
}

// lockError says that a target is in use.
func (c *cli) lockError(name string, err error) error {
	if c.likeQEMU {
		return qemuErrorf("Failed to get \"write\" lock\nIs another process using the image [%s]?", name)
	}
	return &hintError{err, "wait for it to end, or write to another name"}
}

// createError says why a file cannot be made.
func (c *cli) createError(name string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return qemuErrorf("Could not create '%s': %s", name, cText(err))
}

// pathlessError is an error without the path it speaks of.
type pathlessError struct {
	error
	text string
}

func (e *pathlessError) Error() string { return e.text }

func (e *pathlessError) Unwrap() error { return e.error }

// withoutPath takes the path out of an error's text, because the message names
// the file already, and the path may be a passing one.
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

// pathFirst puts the path that an error speaks of in front.
func pathFirst(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("%s: %w", pe.Path, withoutPath(err))
	}
	return err
}

// creationError is the format's reason not to make such an image.
func creationError(f *format, err error) error {
	if errors.Is(err, vhd.ErrTooLarge) {
		return &hintError{qemuErrorf("The image size is too large for file format '%s'", f.Name), tooLargeHint()}
	}
	return err
}

// commit completes the disk; with flush, it is durable then.
func (o *output) commit(flush bool) error {
	defer o.unlock()
	if flush {
		if err := makeDurable(o.disk); err != nil {
			o.discard()
			return err
		}
	}
	if err := o.disk.Close(); err != nil {
		o.discard()
		return err
	}
	if o.file == nil {
		return o.dev.Close()
	}
	if err := o.fill(o.preallocation); err != nil {
		o.discard()
		return err
	}
	return o.file.Commit(flush)
}

// makeDurable makes what was written to a disk durable.
func makeDurable(d disk.Disk) error {
	if s, ok := d.(disk.Syncer); ok {
		return s.Sync()
	}
	return nil
}

// discard gives the disk up; no new file is left.
func (o *output) discard() {
	defer o.unlock()
	if o.file != nil {
		o.file.Discard()
	}
	if o.dev != nil {
		o.dev.Close()
	}
}

// unlock lets go of the file that was to be replaced.
func (o *output) unlock() {
	if o.old != nil {
		o.old.Close()
	}
}

// refuseBases makes it an error to write to what the source, a differencing image,
// is made of.
func refuseBases(bases []string, target string) error {
	for _, base := range bases {
		if disk.SameFile(base, target) {
			return &hintError{fmt.Errorf("%s: the target is a parent of the source", target), "'commit' merges an image into its parent"}
		}
	}
	return nil
}

// refuseSource makes it an error to write to a file that is read.
func (c *cli) refuseSource(source, target string, f *format) error {
	if !disk.SameFile(source, target) {
		return nil
	}
	if c.likeQEMU {
		return qemuErrorf("%s: error while converting %s: Failed to get \"write\" lock\nIs another process using the image [%s]?", target, f.Name, target)
	}
	return &hintError{fmt.Errorf("%s: the source is also the target", target), "write to another name, and rename it afterwards"}
}
