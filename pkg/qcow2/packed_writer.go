package qcow2

import (
	"errors"
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// PackedWriter is a new image whose data is stored compressed. Each cluster is written once,
// and whole. Pack compresses in as many goroutines as call it; the order of the calls of
// [disk.Packed].Place determines the file. The file is an image after Close.
type PackedWriter struct {
	newImage
	at int64 // offset in the file of the next compressed byte; 0 if a cluster is to be allocated
	n  uint64
}

// CreatePacked starts a new image in the empty file f, or on a device, whose data is
// compressed. Closing the image does not close f.
func CreatePacked(f disk.File, o *CreateOptions) (*PackedWriter, error) {
	own := *o
	own.Compress = true
	w := &PackedWriter{}
	if err := w.init(f, &own); err != nil {
		return nil, err
	}
	return w, nil
}

// PackUnit implements [disk.Packer]: the cluster size.
func (w *PackedWriter) PackUnit() int64 { return w.BlockSize() }

// Pack implements [disk.Packer].
func (w *PackedWriter) Pack(p []byte, off int64) (disk.Packed, error) {
	if err := w.checkRange(off, int64(len(p))); err != nil {
		return nil, err
	}
	if end := off + int64(len(p)); off != w.clusterOf(off) || end%w.BlockSize() != 0 && end <= w.size-disk.SectorSize {
		return nil, fmt.Errorf("write of %d bytes at offset %d: compressed clusters of %d bytes are written whole", len(p), off, w.BlockSize())
	}
	run := &packedRun{w: w, off: off}
	for len(p) > 0 {
		n := min(int64(len(p)), w.BlockSize())
		if err := run.add(p[:n]); err != nil {
			return nil, err
		}
		p = p[n:]
	}
	return run, nil
}

// WriteAt implements [io.WriterAt] for whole clusters that were not written before.
func (w *PackedWriter) WriteAt(p []byte, off int64) (int, error) {
	run, err := w.Pack(p, off)
	if err == nil {
		err = run.Place()
	}
	if err == nil {
		err = run.Write()
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// packedRun is neighbouring clusters of the disk, compressed.
type packedRun struct {
	w        *PackedWriter
	off      int64 // on the disk
	b        []byte
	clusters []packedCluster
}

type packedCluster struct {
	start, end int  // in the bytes of the run
	plain      bool // it does not become smaller
	host       int64
}

// add compresses a cluster, the last of which may be short.
func (r *packedRun) add(p []byte) error {
	size := r.w.BlockSize()
	if int64(len(p)) < size {
		p = append(p[:len(p):len(p)], make([]byte, size-int64(len(p)))...)
	}
	start := len(r.b)
	b, err := r.w.alloc.header.Compression.pack(r.b, p)
	if err != nil {
		return err
	}
	c := packedCluster{start: start, end: len(b)}
	if int64(len(b)-start) >= size {
		b = append(b[:start], p...)
		c.end, c.plain = len(b), true
	}
	r.b, r.clusters = b, append(r.clusters, c)
	return nil
}

var errWrittenTwice = errors.New("a compressed cluster is written only once")

// Place implements [disk.Packed].
func (r *packedRun) Place() error {
	w := r.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	w.written.Store(true)
	for i := range r.clusters {
		off := r.off + int64(i)*w.BlockSize()
		e, err := w.alloc.get(off)
		if err != nil {
			return w.fail(err)
		}
		if e.bits != 0 {
			return fmt.Errorf("write at offset %d: %w", off, errWrittenTwice)
		}
		if err := w.place(&r.clusters[i], off); err != nil {
			return w.fail(err)
		}
	}
	return nil
}

// place allocates the space of one cluster.
func (w *PackedWriter) place(c *packedCluster, off int64) error {
	if c.plain {
		e, err := w.alloc.allocateCluster(off)
		c.host = e.offset()
		return err
	}
	table, i, err := w.alloc.entryOf(off, true)
	if err != nil {
		return err
	}
	n := int64(c.end - c.start)
	if err := w.makeSpace(n); err != nil {
		return err
	}
	h := &w.alloc.header
	c.host = w.at
	last := w.at + n - 1
	w.n++
	w.alloc.count(w.at>>h.ClusterBits, w.n)
	if last>>h.ClusterBits != w.at>>h.ClusterBits {
		w.n = 1 // of the next cluster, which makeSpace has allocated
	}
	if w.at = last + 1; w.at&(h.ClusterSize()-1) == 0 {
		w.at = 0
	}
	sectors := uint64(last>>9 - c.host>>9)
	x := 62 - (h.ClusterBits - 8)
	w.alloc.set(table, i, entry{bits: entryCompressed | sectors<<x | uint64(c.host)})
	return nil
}

// makeSpace sets w.at to the offset of n free bytes. They are in a cluster that can have one more
// reference, and in the next cluster if the last refcount block counts both.
func (w *PackedWriter) makeSpace(n int64) error {
	h := &w.alloc.header
	maxCount := uint64(1)<<min(63, h.RefcountBits()) - 1
	k := w.at >> h.ClusterBits
	free := (k+1)<<h.ClusterBits - w.at
	if w.at != 0 && w.alloc.counted(k) && w.n < maxCount {
		if n <= free {
			return nil
		}
		if w.alloc.next == k+1 && w.alloc.counted(k+1) {
			_, err := w.alloc.allocate()
			return err
		}
	}
	k, err := w.alloc.allocate()
	w.at, w.n = k<<h.ClusterBits, 0
	return err
}

// Write implements [disk.Packed].
func (r *packedRun) Write() error {
	for i := 0; i < len(r.clusters); {
		first := r.clusters[i]
		end := first
		for i++; i < len(r.clusters) && r.clusters[i].host == end.host+int64(end.end-end.start); i++ {
			end = r.clusters[i]
		}
		if _, err := r.w.f.WriteAt(r.b[first.start:end.end], first.host); err != nil {
			return err
		}
	}
	return nil
}

// WriteZeroes implements [disk.Zeroer]: what was not written reads as zeros.
func (w *PackedWriter) WriteZeroes(off, n int64) error {
	if err := w.checkRange(off, n); err != nil {
		return err
	}
	if w.parent != nil {
		return fmt.Errorf("%w: zeros over a parent in a compressed image", ErrUnsupported)
	}
	for at := w.clusterOf(off); at < off+n; at += w.BlockSize() {
		w.mu.Lock()
		e, err := w.alloc.get(at)
		w.mu.Unlock()
		if err != nil {
			return err
		}
		if e.bits != 0 {
			return fmt.Errorf("zeros at offset %d: %w", at, errWrittenTwice)
		}
	}
	return nil
}

var _ interface {
	disk.Disk
	disk.Syncer
	disk.Zeroer
	disk.Resizer
	disk.Blocker
	disk.Describer
	disk.KnownZero
	disk.Packer
} = (*PackedWriter)(nil)
