package qcow2

import (
	"context"
	"os"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Writer is a new image whose data is stored as it is. WriteAt and ReadAt are safe for
// concurrent use; the file is reproducible if clusters are reserved in one order. The file
// is an image after Close.
type Writer struct{ newImage }

// Create starts a new image in the empty file f, or on a device. It does not use
// o.Compress: see [CreatePacked]. Closing the image does not close f.
func Create(f disk.File, o *CreateOptions) (*Writer, error) {
	w := &Writer{}
	if err := w.init(f, o); err != nil {
		return nil, err
	}
	if err := w.preallocate(); err != nil {
		return nil, err
	}
	return w, nil
}

// preallocate allocates all clusters, if the options say so and the size is known.
func (w *Writer) preallocate() error {
	if w.o.Preallocation == PreallocateOff || w.o.Growing {
		return nil
	}
	return w.Reserve(0, w.size)
}

// Reserve implements [disk.Reserver].
func (w *Writer) Reserve(off, n int64) error {
	if err := w.checkRange(off, n); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	for at := w.clusterOf(off); at < off+n; at += w.BlockSize() {
		if _, err := w.allocated(at); err != nil {
			return err
		}
	}
	return nil
}

// allocated is the entry of a cluster, which it allocates if that is not done. A new cluster
// has what the parent has. The lock is held.
func (w *Writer) allocated(cluster int64) (entry, error) {
	e, err := w.alloc.get(cluster)
	if err != nil {
		return e, err
	}
	k := w.alloc.header.kindOf(e)
	if k == stored {
		return e, nil
	}
	var inherited []byte
	if k == absent && w.parent != nil {
		inherited = make([]byte, min(w.BlockSize(), w.size-cluster))
		if err := readWithin(w.parent, inherited, cluster); err != nil {
			return e, err
		}
	}
	if e, err = w.alloc.allocateCluster(cluster); err != nil {
		return e, w.fail(err)
	}
	if inherited != nil {
		if _, err := w.f.WriteAt(inherited, e.offset()); err != nil {
			return e, w.fail(err)
		}
	}
	return e, nil
}

// run returns where in the file the first n0 of n bytes at off are stored. It allocates what
// is not.
func (w *Writer) run(off, n int64) (host, n0 int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.usable(); err != nil {
		return 0, 0, err
	}
	for at := w.clusterOf(off); at < off+n; at += w.BlockSize() {
		e, err := w.allocated(at)
		if err != nil {
			return 0, 0, err
		}
		if n0 == 0 {
			host = e.offset() + off - at
		} else if e.offset() != host+n0 {
			break
		}
		n0 = min(off+n, at+w.BlockSize()) - off
	}
	return host, n0, nil
}

// WriteAt implements [io.WriterAt].
func (w *Writer) WriteAt(p []byte, off int64) (int, error) {
	if err := w.checkRange(off, int64(len(p))); err != nil {
		return 0, err
	}
	w.written.Store(true)
	for done := 0; done < len(p); {
		host, n, err := w.run(off+int64(done), int64(len(p)-done))
		if err != nil {
			return done, err
		}
		k, err := w.f.WriteAt(p[done:done+int(n)], host)
		done += k
		if err != nil {
			return done, err
		}
	}
	return len(p), nil
}

// Place implements [disk.Placer].
func (w *Writer) Place(off, n int64) (f *os.File, fileOff, n0 int64) {
	f, ok := w.f.(*os.File)
	if !ok || n == 0 || w.checkRange(off, n) != nil {
		return nil, 0, 0
	}
	host, n0, err := w.run(off, n)
	if err != nil {
		return nil, 0, 0 // WriteAt returns it
	}
	w.written.Store(true)
	return f, host, n0
}

// WriteZeroes implements [disk.Zeroer]. Whole clusters that are not allocated are recorded as
// zeros, where the parent has anything.
func (w *Writer) WriteZeroes(off, n int64) error {
	if err := w.checkRange(off, n); err != nil {
		return err
	}
	for end := off + n; off < end; {
		at := w.clusterOf(off)
		stop := min(end, at+w.BlockSize())
		whole := off == at && (stop == at+w.BlockSize() || stop == w.size)
		if err := w.zeroCluster(off, stop-off, whole); err != nil {
			return err
		}
		off = stop
	}
	return nil
}

// zeroCluster zeroes n bytes of one cluster, or the whole cluster.
func (w *Writer) zeroCluster(off, n int64, whole bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.usable(); err != nil {
		return err
	}
	at := w.clusterOf(off)
	e, err := w.alloc.get(at)
	if err != nil {
		return err
	}
	k := w.alloc.header.kindOf(e)
	h := &w.alloc.header
	switch {
	case k == zero, k == absent && (w.parent == nil || at >= w.parent.Size()):
		return nil
	case k == absent && whole && h.Version >= 3:
		table, i, err := w.alloc.entryOf(at, true)
		if err != nil {
			return w.fail(err)
		}
		w.written.Store(true)
		e := entry{bits: entryZero}
		if h.ExtendedL2() {
			e = entry{sub: (1<<subclusters - 1) << 32}
		}
		w.alloc.set(table, i, e)
		return nil
	}
	if e, err = w.allocated(at); err != nil {
		return err
	}
	w.written.Store(true)
	return filesystem.Zero(w.f, e.offset()+off-at, n)
}

// Close completes the image, as [Writer.Sync] does not. A preallocated image gets its space.
func (w *Writer) Close() error {
	if w.o.Growing {
		w.o.Growing = false
		if err := w.preallocate(); err != nil {
			return err
		}
	}
	if err := w.newImage.Close(); err != nil {
		return err
	}
	f, ok := w.f.(*os.File)
	if !ok || w.alloc.device || w.o.Preallocation < PreallocateSpace {
		return nil
	}
	length, err := disk.FileSize(f)
	if err != nil {
		return err
	}
	return filesystem.Fill(context.Background(), f, 0, length, w.o.Preallocation == PreallocateFull, nil)
}

var _ interface {
	disk.Disk
	disk.Syncer
	disk.Zeroer
	disk.Resizer
	disk.Blocker
	disk.Describer
	disk.Reserver
	disk.Placer
	disk.KnownZero
} = (*Writer)(nil)
