package vhdx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"sync"
	"syscall"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// NewDisk is a new image that is being written. It becomes an image when Sync or Close has
// written its metadata. All methods but Resize and Close are safe for concurrent use. Blocks are
// allocated in the order of writes, or of calls to Reserve.
type NewDisk struct {
	f      disk.File
	p      *plan
	device int64 // length of the device; 0 for a file
	first  int64 // offset of the first block

	mu      sync.RWMutex
	pages   map[int64]*offsetPage // of a dynamic disk
	end     int64                 // of the last block
	written bool
	closed  bool
	batEnds bool // the file ends with a BAT, where the next block belongs
}

// offsetPage has the offsets of blocks in MiB; 0 for blocks that are not allocated.
type offsetPage [4096]uint32

// CreateIn starts a new image in an empty file or a device. A nil o means the zero value. Closing
// the disk does not close f.
func CreateIn(f disk.File, o *CreateOptions) (*NewDisk, error) {
	if o == nil {
		o = &CreateOptions{}
	}
	p, err := o.plan()
	if err != nil {
		return nil, err
	}
	d := &NewDisk{f: f, p: p, first: p.firstBlock(), pages: map[int64]*offsetPage{}}
	d.end = d.first
	if disk.IsDevice(f) {
		if d.device, err = disk.FileSize(f); err != nil {
			return nil, err
		}
		if err := d.fits(d.fileEnd()); err != nil {
			return nil, err
		}
		// A stale identifier makes an incomplete image look like a complete one.
		err = filesystem.Zero(f, 0, d.fileEnd())
	} else {
		err = filesystem.SetLength(f, d.fileEnd())
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// fits returns an error if the device is shorter than n bytes.
func (d *NewDisk) fits(n int64) error {
	if d.device > 0 && n > d.device {
		return fmt.Errorf("%w: the device has %d bytes, and the image needs at least %d", syscall.ENOSPC, d.device, n)
	}
	return nil
}

// blocksEnd is the end of all blocks in the file.
func (d *NewDisk) blocksEnd() int64 {
	if d.p.meta.LeaveAllocated {
		return d.first + d.p.meta.blocks()*d.p.meta.BlockSize
	}
	return d.end
}

// fileEnd is the length of the file.
func (d *NewDisk) fileEnd() int64 {
	if d.p.growing {
		return d.blocksEnd() + d.p.batLength()
	}
	return d.blocksEnd()
}

// Size is the virtual size in bytes.
func (d *NewDisk) Size() int64 { return d.p.meta.Size }

// BlockSize implements [disk.Blocker].
func (d *NewDisk) BlockSize() int64 { return d.p.meta.BlockSize }

// LogicalSectorSize implements [disk.SectorSizer].
func (d *NewDisk) LogicalSectorSize() int64 { return d.p.meta.LogicalSector }

// FormatName implements [disk.Describer].
func (d *NewDisk) FormatName() string { return formatName }

// Subformat implements [disk.Describer].
func (d *NewDisk) Subformat() string { return d.p.meta.subformat() }

// ReadsZero implements [disk.KnownZero].
func (d *NewDisk) ReadsZero() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return !d.written
}

// offset is the offset of a block in the file, or 0.
func (d *NewDisk) offset(block int64) int64 {
	if d.p.meta.LeaveAllocated {
		return d.first + block*d.p.meta.BlockSize
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.offsetLocked(block)
}

func (d *NewDisk) offsetLocked(block int64) int64 {
	page := d.pages[block/int64(len(offsetPage{}))]
	if page == nil {
		return 0
	}
	return int64(page[block%int64(len(page))]) * mib
}

// within returns an error unless [off, off+n) is on the disk.
func (d *NewDisk) within(off, n int64) error {
	if off < 0 || n < 0 || off > d.Size() || n > d.Size()-off {
		return fmt.Errorf("%d bytes at offset %d: the disk ends at %d", n, off, d.Size())
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return ErrClosed
	}
	return nil
}

// pieces yields the parts of [off, off+n) that are each in one block.
func (d *NewDisk) pieces(off, n int64) iter.Seq2[int64, int64] {
	return func(yield func(off, n int64) bool) {
		for n > 0 {
			k := min(n, d.p.meta.BlockSize-off%d.p.meta.BlockSize)
			if !yield(off, k) {
				return
			}
			off, n = off+k, n-k
		}
	}
}

// Reserve implements [disk.Reserver].
func (d *NewDisk) Reserve(off, n int64) error {
	if err := d.within(off, n); err != nil || n == 0 {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.written = true
	if err := d.removeBAT(); err != nil || d.p.meta.LeaveAllocated {
		return err
	}
	for block := off / d.p.meta.BlockSize; block <= (off+n-1)/d.p.meta.BlockSize; block++ {
		if d.offsetLocked(block) != 0 {
			continue
		}
		if err := d.fits(d.fileEnd() + d.p.meta.BlockSize); err != nil {
			return err
		}
		if d.device > 0 {
			if err := filesystem.Zero(d.f, d.end, d.p.meta.BlockSize); err != nil {
				return err
			}
		}
		size := int64(len(offsetPage{}))
		page := d.pages[block/size]
		if page == nil {
			page = new(offsetPage)
			d.pages[block/size] = page
		}
		page[block%size] = uint32(d.end / mib)
		d.end += d.p.meta.BlockSize
	}
	return nil
}

// removeBAT removes the BAT that Sync wrote after the last block of a growing disk. The caller
// holds mu.
func (d *NewDisk) removeBAT() error {
	if !d.batEnds {
		return nil
	}
	d.batEnds = false
	if d.device > 0 {
		return filesystem.Zero(d.f, d.blocksEnd(), d.p.batLength())
	}
	return filesystem.SetLength(d.f, d.blocksEnd())
}

// WriteAt implements [io.WriterAt]. A write past the end of the disk is an error.
func (d *NewDisk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.Reserve(off, int64(len(p))); err != nil {
		return 0, err
	}
	n := 0
	for at, k := range d.pieces(off, int64(len(p))) {
		m, err := d.f.WriteAt(p[n:n+int(k)], d.offset(at/d.p.meta.BlockSize)+at%d.p.meta.BlockSize)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Place implements [disk.Placer].
func (d *NewDisk) Place(off, n int64) (f *os.File, fileOff, n0 int64) {
	f, ok := d.f.(*os.File)
	if !ok || d.within(off, n) != nil {
		return nil, 0, 0
	}
	at := d.offset(off / d.p.meta.BlockSize)
	if at == 0 {
		return nil, 0, 0
	}
	in := off % d.p.meta.BlockSize
	return f, at + in, min(n, d.p.meta.BlockSize-in)
}

// WriteZeroes implements [disk.Zeroer]. Blocks that are not allocated stay so.
func (d *NewDisk) WriteZeroes(off, n int64) error {
	if err := d.within(off, n); err != nil || d.ReadsZero() {
		return err
	}
	for at, k := range d.pieces(off, n) {
		if start := d.offset(at / d.p.meta.BlockSize); start != 0 {
			if err := d.zeroStored(start+at%d.p.meta.BlockSize, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// zeroStored zeroes n bytes of the file, which may end before them.
func (d *NewDisk) zeroStored(off, n int64) error {
	if d.device == 0 {
		length, err := disk.FileSize(d.f)
		if err != nil {
			return err
		}
		n = min(n, length-off)
	}
	if n <= 0 {
		return nil
	}
	return filesystem.Zero(d.f, off, n)
}

// ReadAt implements [io.ReaderAt].
func (d *NewDisk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	if off >= d.Size() {
		return 0, io.EOF
	}
	var atEnd error
	if int64(len(p)) > d.Size()-off {
		p, atEnd = p[:d.Size()-off], io.EOF
	}
	if err := d.within(off, int64(len(p))); err != nil {
		return 0, err
	}
	n := 0
	for at, k := range d.pieces(off, int64(len(p))) {
		piece := p[n : n+int(k)]
		stored := 0
		if start := d.offset(at / d.p.meta.BlockSize); start != 0 {
			var err error
			stored, err = d.f.ReadAt(piece, start+at%d.p.meta.BlockSize)
			if stored < len(piece) && err != nil && !errors.Is(err, io.EOF) {
				return n + stored, err
			}
		}
		clear(piece[stored:]) // the file ends after the last write
		n += len(piece)
	}
	return n, atEnd
}

// Extents implements [disk.Disk].
func (d *NewDisk) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		n, err := disk.ClipRange(off, n, d.Size())
		var length int64
		if err == nil {
			length, err = disk.FileSize(d.f)
		}
		if err != nil {
			yield(disk.Extent{}, err)
			return
		}
		merge := disk.Merger{Yield: yield}
		for at, k := range d.pieces(off, n) {
			start := d.offset(at / d.p.meta.BlockSize)
			if start == 0 {
				if !merge.Add(disk.Extent{Off: at, Len: k, State: disk.Unallocated}) {
					return
				}
				continue
			}
			fileOff := start + at%d.p.meta.BlockSize
			stored := max(0, min(k, length-fileOff))
			if !merge.Add(disk.Extent{Off: at, Len: stored, State: disk.Data, File: d.f, FileOff: fileOff}) ||
				!merge.Add(disk.Extent{Off: at + stored, Len: k - stored, State: disk.Zero}) {
				return
			}
		}
		merge.Flush()
	}
}

// Resize implements [disk.Resizer] for a disk whose size was unknown. The size is rounded up to a
// whole sector. It must not cut off written blocks.
func (d *NewDisk) Resize(_ context.Context, size int64, _ disk.Progress) error {
	d.mu.Lock()
	err := d.removeBAT()
	d.mu.Unlock()
	if err != nil {
		return err
	}
	p := *d.p
	switch {
	case size < 0:
		return fmt.Errorf("disk size %d is negative", size)
	case size > maxSize:
		return fmt.Errorf("%w: %d bytes, and the largest disk has %d (64 TiB)", ErrTooLarge, size, int64(maxSize))
	}
	p.meta.Size = roundUp(size, p.meta.LogicalSector)
	if !p.growing && p.batLength() != d.p.batLength() {
		return fmt.Errorf("%w: resizing a new image whose size was given", ErrUnsupported)
	}
	if p.meta.Size < d.Size() {
		blocks, size := p.meta.blocks(), int64(len(offsetPage{}))
		for i, page := range d.pages {
			for k, off := range page {
				if off != 0 && i*size+int64(k) >= blocks {
					return fmt.Errorf("%w: cutting written blocks off a new image", ErrUnsupported)
				}
			}
		}
		if err := d.WriteZeroes(p.meta.Size, min(d.Size(), blocks*p.meta.BlockSize)-p.meta.Size); err != nil {
			return err
		}
	}
	d.p = &p
	return nil
}

// Sync implements [disk.Syncer]. It writes the metadata, so that the file is a complete image,
// and flushes it.
func (d *NewDisk) Sync() error {
	if err := d.complete(); err != nil {
		return err
	}
	return d.f.Sync()
}

// Close writes the metadata. The file is then a complete image, which is not flushed.
func (d *NewDisk) Close() error {
	if err := d.within(0, 0); err != nil {
		return nil // closed already
	}
	err := d.complete()
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	return err
}

// complete writes the length of the file and the metadata. The start of the file comes last.
func (d *NewDisk) complete() error {
	if err := d.within(0, 0); err != nil {
		return err
	}
	batOff := d.p.metadataOffset() + mib
	if d.p.growing {
		batOff = d.blocksEnd()
		d.mu.Lock()
		d.batEnds = true
		d.mu.Unlock()
	}
	if err := d.fits(d.fileEnd()); err != nil {
		return err
	}
	if d.device == 0 {
		if err := filesystem.SetLength(d.f, d.fileEnd()); err != nil {
			return err
		}
	} else if err := filesystem.Zero(d.f, batOff, d.p.batLength()); err != nil {
		return err
	}
	for off, b := range d.p.encodeBAT(d.offset) {
		if _, err := d.f.WriteAt(b, batOff+off); err != nil {
			return err
		}
	}
	if _, err := d.f.WriteAt(d.p.meta.encode(), d.p.metadataOffset()); err != nil {
		return err
	}
	start := d.p.start(batOff)
	for _, span := range [][2]int64{{64 << 10, regionTableOffsets[1] + 4096}, {0, 64 << 10}} {
		if _, err := d.f.WriteAt(start[span[0]:span[1]], span[0]); err != nil {
			return err
		}
	}
	return nil
}

var _ interface {
	disk.Disk
	disk.Blocker
	disk.Describer
	disk.KnownZero
	disk.Placer
	disk.Reserver
	disk.Resizer
	disk.SectorSizer
	disk.Syncer
	disk.Zeroer
	io.WriterAt
} = (*NewDisk)(nil)
