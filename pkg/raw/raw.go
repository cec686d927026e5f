// Package raw presents a plain file or a block device as a disk: the bytes of the file are the
// bytes of the disk.
package raw

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"sync/atomic"
	"syscall"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Disk is a raw disk. Its size is the length of the file rounded up to a whole sector, as in
// qemu. The missing bytes of the last sector read as zeros. ReadAt and WriteAt are safe for
// concurrent use.
type Disk struct {
	r      io.ReaderAt
	f      disk.File // the same file, or nil if it is read-only
	closer io.Closer // closed with the disk, or nil
	size   int64
	length int64 // of the file
	align  int64 // Resize rounds the size up to a multiple of this; 0: no rounding

	reserved bool // the whole file has storage, and zeroing keeps it

	zero atomic.Bool // the file is new and consists of holes
}

// Open opens the first size bytes of r as a raw disk for reading. Closing the disk does not
// close r.
func Open(r io.ReaderAt, size int64) *Disk {
	return &Disk{r: r, size: roundUp(size), length: size}
}

// OpenWrite opens a file of size bytes as a raw disk for reading and writing. Closing
// the disk does not close f.
func OpenWrite(f disk.File, size int64) *Disk {
	d := Open(f, size)
	d.f = f
	d.reserved = filesystem.Reserved(f)
	return d
}

// Create makes the empty file f a raw disk of size bytes, rounded up to a whole sector. The
// file is one hole. If there is an error, the disk is nil. Closing the disk does not close f.
//
// A device keeps its size; if it is too small, the error wraps [syscall.ENOSPC]. VHD footers on
// the device are cleared, because readers would open the device as that VHD.
func Create(f disk.File, size int64) (*Disk, error) {
	if size < 0 {
		return nil, fmt.Errorf("disk size %d is negative", size)
	}
	d := OpenWrite(f, size)
	if disk.IsDevice(f) {
		length, err := disk.FileSize(f)
		if err != nil {
			return nil, err
		}
		if length < d.size {
			return nil, fmt.Errorf("%w: the device has %d bytes, want at least %d", syscall.ENOSPC, length, d.size)
		}
		if err := clearMarks(f, length); err != nil {
			return nil, err
		}
		return d, nil
	}
	d.zero.Store(true)
	if err := filesystem.SetLength(f, d.size); err != nil {
		return nil, err
	}
	return d, nil
}

func roundUp(n int64) int64 { return (n + disk.SectorSize - 1) / disk.SectorSize * disk.SectorSize }

// Size is the size in bytes, a multiple of 512.
func (d *Disk) Size() int64 { return d.size }

// Length is the length of the file in bytes, when it was opened or last resized. The bytes of
// the disk from there up to Size are zeros.
func (d *Disk) Length() int64 { return d.length }

// ReadsZero implements [disk.KnownZero]. It is true for a new regular file before the first
// write.
func (d *Disk) ReadsZero() bool { return d.zero.Load() }

// ReadAt implements [io.ReaderAt].
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	if off >= d.size {
		return 0, io.EOF
	}
	var atEnd error
	if int64(len(p)) > d.size-off {
		p, atEnd = p[:d.size-off], io.EOF
	}
	n, err := d.r.ReadAt(p, off)
	if errors.Is(err, io.EOF) && n < len(p) {
		if off+int64(n) <= d.size-disk.SectorSize {
			return n, io.ErrUnexpectedEOF // the file was truncated
		}
		clear(p[n:]) // the last sector of the file is incomplete
		n, err = len(p), nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = atEnd
	}
	return n, err
}

// WriteAt implements [io.WriterAt]. A write past the end of the disk is an error. A disk opened
// for reading returns [disk.ErrReadOnly].
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	if d.f == nil {
		return 0, disk.ErrReadOnly
	}
	if off < 0 || off > d.size || int64(len(p)) > d.size-off {
		return 0, fmt.Errorf("write of %d bytes at offset %d: the disk ends at %d", len(p), off, d.size)
	}
	if d.zero.Load() {
		d.zero.Store(false)
	}
	return d.f.WriteAt(p, off)
}

// Place implements [disk.Placer].
func (d *Disk) Place(off, n int64) (f *os.File, fileOff, n0 int64) {
	f, ok := d.f.(*os.File)
	if !ok || off < 0 || n < 0 || off > d.size || n > d.size-off {
		return nil, 0, 0
	}
	d.zero.Store(false)
	return f, off, n
}

// WriteZeroes makes [off, off+n) read as zeros, as a hole where possible. If the whole file had
// storage when it was opened, it keeps it.
func (d *Disk) WriteZeroes(off, n int64) error {
	if off < 0 || n < 0 || off > d.size || n > d.size-off {
		return fmt.Errorf("zeros of %d bytes at offset %d: the disk ends at %d", n, off, d.size)
	}
	if d.f == nil {
		return disk.ErrReadOnly
	}
	if d.reserved {
		return filesystem.ZeroReserved(d.f, off, n)
	}
	return filesystem.Zero(d.f, off, n)
}

// Extents yields the data of the file, and its holes as Unallocated. All extents have a File.
func (d *Disk) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	n, err := disk.ClipRange(off, n, d.size)
	if err != nil {
		return func(yield func(disk.Extent, error) bool) { yield(disk.Extent{}, err) }
	}
	return filesystem.NewHoleMap(d.r).Extents(0, off, n, disk.Unallocated)
}

// Resize sets the length of the file in bytes, rounded up as when the disk was created. The
// size of the disk is that length, rounded up to a whole sector. Added bytes read as zeros. A
// device keeps its size; if it is too small, the error wraps [syscall.ENOSPC].
func (d *Disk) Resize(_ context.Context, size int64, _ disk.Progress) error {
	if size < 0 {
		return fmt.Errorf("disk size %d is negative", size)
	}
	if d.f == nil {
		return disk.ErrReadOnly
	}
	if d.align != 0 {
		n, err := alignUp(size, d.align)
		if err != nil {
			return err
		}
		size = n
	}
	if disk.IsDevice(d.f) {
		if size > d.size {
			return fmt.Errorf("%w: the device has %d bytes, want at least %d", syscall.ENOSPC, d.size, size)
		}
		return nil
	}
	if err := filesystem.SetLength(d.f, size); err != nil {
		return err
	}
	d.size, d.length = roundUp(size), size
	return nil
}

// Sync flushes the file. It does nothing for a disk opened for reading.
func (d *Disk) Sync() error {
	if d.f == nil {
		return nil
	}
	return d.f.Sync()
}

// Close closes the file only if it was opened for the disk: by [disk.Open], or by a caller that
// set Closer in [disk.OpenOptions].
func (d *Disk) Close() error {
	if d.closer == nil {
		return nil
	}
	return d.closer.Close()
}
