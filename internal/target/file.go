package target

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"

	"github.com/vhdtool/vhdtool/internal/atomicfile"
	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// File is a new disk. A regular file appears under its name when Commit is called. A device is
// written in place.
type File struct {
	Disk convert.Target
	Seek int64 // offset in the disk of the start of the source

	name string
	file *atomicfile.File // nil for a device
	dev  *os.File         // nil for a file
	old  *os.File         // the file to replace, locked; nil if there is none

	links uint64       // hard links of the file to replace
	fill  func() error // allocates the file on completion; nil: no preallocation
}

// CreateOptions say how to start a new file.
type CreateOptions struct {
	// KeepLinks writes into an existing file that has other hard links, or is used by a loop
	// device, as qemu-img does. Otherwise a file with other links is replaced only under this name,
	// and a used one is an *InUseError.
	KeepLinks bool
}

// OpenError reports a file that could not be opened or created.
type OpenError struct{ Err error }

func (e *OpenError) Error() string { return e.Err.Error() }

func (e *OpenError) Unwrap() error { return e.Err }

// LockError reports that another process uses the target.
type LockError struct{ Err error }

func (e *LockError) Error() string { return e.Err.Error() }

func (e *LockError) Unwrap() error { return e.Err }

// InUseError reports that a loop device uses the file to replace.
type InUseError struct{ Device string }

func (e *InUseError) Error() string {
	return fmt.Sprintf("the file is in use by %s, which would go on with the old one", e.Device)
}

// Create starts a new disk in the named file, by calling create. Errors of the file are an
// *OpenError, a *LockError or an *InUseError. Others are errors of create.
func Create(name string, o *CreateOptions, create func(disk.File) (disk.Disk, error)) (*File, error) {
	t := &File{name: name}
	var file disk.File
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
		dev, _, err := disk.OpenFile(name, true, imagelock.Lock)
		if errors.Is(err, imagelock.ErrLocked) {
			return nil, &LockError{err}
		}
		if err != nil {
			return nil, &OpenError{err}
		}
		t.dev, file = dev, dev
	} else {
		// Otherwise a process with the old file open would continue with a file without a name.
		if old, err := os.OpenFile(name, os.O_RDWR, 0); err == nil {
			if err := imagelock.Lock(old, true); err != nil {
				old.Close()
				return nil, &LockError{err}
			}
			t.old = old
		}
		if err := t.start(st, o); err != nil {
			t.unlock()
			return nil, err
		}
		file = filesystem.NewFile(t.file.File)
	}
	d, err := create(file)
	if err != nil {
		t.Discard()
		return nil, err
	}
	t.Disk = d.(convert.Target)
	return t, nil
}

// start starts the file. st describes the existing file, or is nil.
func (t *File) start(st fs.FileInfo, o *CreateOptions) (err error) {
	if st != nil {
		links, loop := atomicfile.Links(st), atomicfile.LoopDevice(st)
		switch {
		case o.KeepLinks && (links > 1 || loop != ""):
			if t.file, err = atomicfile.InPlace(t.name, errors.New("qemu-img writes in place")); err != nil {
				return &OpenError{err}
			}
			return nil
		case loop != "":
			return &InUseError{loop}
		}
		t.links = links
	}
	if t.file, err = atomicfile.Create(t.name); err != nil {
		return &OpenError{err}
	}
	return nil
}

// Links is the number of hard links of the file to replace; 0 if there is none.
func (t *File) Links() uint64 { return t.links }

// InPlace is the reason why a file is written in place, and is incomplete until Commit. It is nil
// if the file is not written in place, or the target is a device.
func (t *File) InPlace() error {
	if t.file == nil {
		return nil
	}
	return t.file.InPlace()
}

// OSFile returns the new regular file; nil for a device.
func (t *File) OSFile() *os.File {
	if t.file == nil {
		return nil
	}
	return t.file.File
}

// Copy implements [Target].
func (t *File) Copy(ctx context.Context, src *source.Source, o *convert.Options) error {
	if src.Disk != nil {
		at, err := disk.NewSection(t.Disk, t.Seek, src.Size())
		if err != nil {
			return err
		}
		var dst convert.Target = at
		if t.Seek == 0 { // the disk itself, which can do more than its section
			dst = t.Disk
		}
		return convert.Copy(ctx, dst, src.Disk, o)
	}
	dst := t.Disk.(convert.GrowingTarget)
	if t.Seek > 0 {
		dst = growing{dst, t.Seek}
	}
	_, err := convert.ReadFrom(ctx, dst, src.Stream, src.Trailer, o)
	return err
}

// growing is a growing target that starts at byte seek of its disk.
type growing struct {
	convert.GrowingTarget
	seek int64
}

func (t growing) ReadAt(p []byte, off int64) (int, error) {
	return t.GrowingTarget.ReadAt(p, t.seek+off)
}

func (t growing) WriteAt(p []byte, off int64) (int, error) {
	return t.GrowingTarget.WriteAt(p, t.seek+off)
}

func (t growing) Size() int64 { return max(0, t.GrowingTarget.Size()-t.seek) }

// Resize implements [disk.Resizer].
func (t growing) Resize(ctx context.Context, size int64, progress disk.Progress) error {
	if size > math.MaxInt64-t.seek {
		return fmt.Errorf("%d bytes after offset %d are more than a disk can have", size, t.seek)
	}
	return t.GrowingTarget.Resize(ctx, t.seek+size, progress)
}

// ReadsZero implements [disk.KnownZero].
func (t growing) ReadsZero() bool {
	z, ok := t.GrowingTarget.(disk.KnownZero)
	return ok && z.ReadsZero()
}

// Size implements [Target].
func (t *File) Size() int64 { return t.Disk.Size() }

// Commit implements [Target].
func (t *File) Commit(flush bool) error {
	defer t.unlock()
	if flush {
		if err := sync(t.Disk); err != nil {
			t.Discard()
			return err
		}
	}
	if err := t.Disk.Close(); err != nil {
		t.Discard()
		return err
	}
	if t.file == nil {
		return t.dev.Close()
	}
	if t.fill != nil {
		if err := t.fill(); err != nil {
			t.Discard()
			return err
		}
	}
	return t.file.Commit(flush)
}

// Discard implements [Target]. It removes the new file.
func (t *File) Discard() {
	defer t.unlock()
	if t.file != nil {
		t.file.Discard()
	}
	if t.dev != nil {
		t.dev.Close()
	}
}

// unlock closes the file to replace.
func (t *File) unlock() {
	if t.old != nil {
		t.old.Close()
	}
}
