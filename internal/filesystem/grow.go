package filesystem

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// SetLength sets the length of a file in bytes. Added bytes read as zeros. Some file systems can
// only truncate, such as FAT through FUSE. There it writes the zeros.
func SetLength(f disk.File, n int64) error {
	err := f.Truncate(n)
	if !refusesToGrow(err) {
		return err
	}
	size, serr := disk.FileSize(f)
	if serr != nil || size >= n {
		return err
	}
	return writeZeros(f, size, n-size)
}

// refusesToGrow reports whether Truncate failed because the file system cannot extend files.
func refusesToGrow(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL)
}

// NewFile returns the storage of an image in the new empty file f. It is f itself, unless the file
// system cannot extend files without writes.
func NewFile(f *os.File) disk.File {
	if !isFUSE(f) {
		return f
	}
	if err := f.Truncate(1); refusesToGrow(err) {
		return &denseFile{f: f}
	} else if err == nil {
		_ = f.Truncate(0) // the image sets its own length
	}
	return f
}

// denseFile is a file without gaps. A write past its end first writes zeros up to its offset. It
// may be used concurrently.
type denseFile struct {
	f disk.File

	mu     sync.RWMutex // held for writing while the file grows
	length int64
}

// ReadAt implements [io.ReaderAt].
func (d *denseFile) ReadAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	left := d.length - off
	d.mu.RUnlock()
	// Some of these file systems read past the end of the file.
	if left <= 0 {
		return 0, io.EOF
	}
	if left < int64(len(p)) {
		n, err := d.f.ReadAt(p[:left], off)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	return d.f.ReadAt(p, off)
}

// WriteAt implements [io.WriterAt].
func (d *denseFile) WriteAt(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	d.mu.RLock()
	if end <= d.length {
		defer d.mu.RUnlock()
		return d.f.WriteAt(p, off)
	}
	d.mu.RUnlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fill(off); err != nil {
		return 0, err
	}
	n, err := d.f.WriteAt(p, off)
	d.length = max(d.length, off+int64(n))
	return n, err
}

// Truncate sets the length in bytes.
func (d *denseFile) Truncate(n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n >= d.length {
		return d.fill(n)
	}
	if err := d.f.Truncate(n); err != nil {
		return err
	}
	d.length = n
	return nil
}

// fill extends the file to n bytes if it is shorter.
func (d *denseFile) fill(n int64) error {
	if n <= d.length {
		return nil
	}
	if err := writeZeros(d.f, d.length, n-d.length); err != nil {
		return err
	}
	d.length = n
	return nil
}

// Sync flushes the file.
func (d *denseFile) Sync() error { return d.f.Sync() }

// Size is the length in bytes.
func (d *denseFile) Size() (int64, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.length, nil
}
