package qcow2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// newImage is what [Writer] and [PackedWriter] share: a new image whose metadata is complete
// in the file when it is closed. The offsets of clusters follow from the order in which they
// are first written or reserved.
type newImage struct {
	f      disk.File
	o      CreateOptions
	parent disk.Disk
	size   int64

	mu     sync.RWMutex // of alloc
	alloc  allocator
	err    error // after a failed change of the metadata
	closed bool

	written atomic.Bool
}

var errClosed = errors.New("the image is closed")

func (img *newImage) init(f disk.File, o *CreateOptions) error {
	if err := o.Validate(); err != nil {
		return err
	}
	if o.BackingFile != "" && o.Parent == nil && o.Size == 0 {
		return errors.New("a new image with a backing file that is not open has no size")
	}
	img.f, img.o, img.parent, img.size = f, *o, o.Parent, o.length()
	if o.Parent != nil && o.Size == 0 {
		img.size = o.Parent.Size()
	}
	return img.alloc.init(f, o.header())
}

// Size implements [disk.Disk].
func (img *newImage) Size() int64 { return img.size }

// BlockSize implements [disk.Blocker]: the cluster size.
func (img *newImage) BlockSize() int64 { return img.alloc.header.ClusterSize() }

// FormatName implements [disk.Describer].
func (img *newImage) FormatName() string { return formatName }

// Subformat implements [disk.Describer].
func (img *newImage) Subformat() string { return "" }

// ReadsZero implements [disk.KnownZero]: nothing was written yet, and there is no parent.
func (img *newImage) ReadsZero() bool { return !img.written.Load() && img.o.BackingFile == "" }

// clusterOf is the offset of the cluster for an offset of the disk.
func (img *newImage) clusterOf(off int64) int64 { return off &^ (img.BlockSize() - 1) }

// usable is why the image cannot be used; nil if it can. The lock is held.
func (img *newImage) usable() error {
	if img.closed {
		return errClosed
	}
	return img.err
}

// fail keeps an error of changing the metadata: memory and file may differ then.
func (img *newImage) fail(err error) error {
	if img.err == nil {
		img.err = err
	}
	return err
}

// checkRange checks a write of n bytes.
func (img *newImage) checkRange(off, n int64) error {
	if off < 0 || n < 0 || off > img.size || n > img.size-off {
		return fmt.Errorf("write of %d bytes at offset %d: the disk ends at %d", n, off, img.size)
	}
	if img.o.BackingFile != "" && img.parent == nil {
		return ErrNoParent
	}
	return nil
}

// ReadAt implements [io.ReaderAt].
func (img *newImage) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	if off >= img.size {
		return 0, io.EOF
	}
	var atEnd error
	if int64(len(p)) > img.size-off {
		p, atEnd = p[:img.size-off], io.EOF
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		n := int(min(int64(len(p)-done), img.clusterOf(at)+img.BlockSize()-at))
		if err := img.readCluster(p[done:done+n], at); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), atEnd
}

// readCluster reads from one cluster.
func (img *newImage) readCluster(p []byte, off int64) error {
	img.mu.RLock()
	err := img.usable()
	e, locked := entry{}, err == nil
	img.mu.RUnlock()
	if locked {
		img.mu.Lock() // a table may be read
		e, err = img.alloc.get(off)
		img.mu.Unlock()
	}
	if err != nil {
		return err
	}
	in := off - img.clusterOf(off)
	switch img.alloc.header.kindOf(e) {
	case stored:
		n, err := img.f.ReadAt(p, e.offset()+in)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		clear(p[n:]) // nothing was written there yet
		return nil
	case compressed:
		host, n := e.compressedRange(img.alloc.header.ClusterBits)
		b := make([]byte, img.BlockSize())
		packed := make([]byte, n)
		k, err := img.f.ReadAt(packed, host)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := img.alloc.header.Compression.unpack(b, packed[:k]); err != nil {
			return err
		}
		copy(p, b[in:])
		return nil
	case absent:
		if img.parent != nil {
			return readWithin(img.parent, p, off)
		}
	}
	clear(p)
	return nil
}

// Extents implements [disk.Disk]. Data has no File: the file may still change.
func (img *newImage) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	n, err := disk.ClipRange(off, n, img.size)
	if err != nil {
		return func(yield func(disk.Extent, error) bool) { yield(disk.Extent{}, err) }
	}
	return func(yield func(disk.Extent, error) bool) {
		merge := disk.Merger{Yield: yield}
		for end := off + n; off < end; {
			stop := min(end, img.clusterOf(off)+img.BlockSize())
			img.mu.Lock()
			err := img.usable()
			var e entry
			if err == nil {
				e, err = img.alloc.get(off)
			}
			img.mu.Unlock()
			if err != nil {
				merge.Fail(err)
				return
			}
			x := disk.Extent{Off: off, Len: stop - off, State: disk.Data}
			switch k := img.alloc.header.kindOf(e); {
			case k == zero:
				x.State = disk.Unallocated
			case k == absent && img.parent == nil:
				x.State = disk.Absent
			}
			if !merge.Add(x) {
				return
			}
			off = stop
		}
		merge.Flush()
	}
}

// Resize implements [disk.Resizer] for an image that is not complete. Only one that was
// created with Growing has a size that changes.
func (img *newImage) Resize(_ context.Context, size int64, _ disk.Progress) error {
	o := img.o
	o.Size = size
	if err := o.Validate(); err != nil {
		return err
	}
	size = o.length()
	img.mu.Lock()
	defer img.mu.Unlock()
	if err := img.usable(); err != nil {
		return err
	}
	if size < img.size {
		if need := img.alloc.header.l1Needed(size); need < int64(len(img.alloc.l1)) {
			return fmt.Errorf("%w: a new image that becomes smaller", ErrUnsupported)
		}
	}
	img.size = size
	return nil
}

// Sync implements [disk.Syncer]. It flushes the data; the image is complete only when it is
// closed.
func (img *newImage) Sync() error { return img.f.Sync() }

// Close completes the image. After an error the file is not an image. Close closes the
// parent, and not the file.
func (img *newImage) Close() error {
	img.mu.Lock()
	defer img.mu.Unlock()
	err := img.usable()
	if !img.closed {
		img.closed = true
		if err == nil {
			err = img.complete()
		}
		if img.parent != nil {
			if cerr := img.parent.Close(); err == nil {
				err = cerr
			}
		}
	}
	return err
}

// complete writes the metadata, and sets the length of the file.
func (img *newImage) complete() error {
	length, err := img.alloc.finish(img.size)
	if err != nil || img.alloc.device {
		return err
	}
	return filesystem.SetLength(img.f, length)
}

// readWithin reads from a disk, after whose end there are zeros.
func readWithin(d disk.Disk, p []byte, off int64) error {
	n := max(0, min(int64(len(p)), d.Size()-off))
	if n > 0 {
		if k, err := d.ReadAt(p[:n], off); int64(k) < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("parent: %w", err)
		}
	}
	clear(p[n:])
	return nil
}
