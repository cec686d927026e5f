package qcow2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// WriteStream writes a new image of the disk src sequentially to w, for outputs that do not
// support random access. clusters lists the clusters of the disk to allocate, each once and
// in ascending order; all others must be zeros. The metadata comes first, then the clusters
// in the order of the disk.
//
// Options that need random access are refused, with an error that wraps ErrUnsupported,
// before the first byte is written: Compress, Growing, Preallocation and a backing file.
// After any other error, w has received the start of an image. progress counts the bytes
// of the clusters.
func WriteStream(ctx context.Context, w io.Writer, o *CreateOptions, src disk.Disk, clusters []int64, progress disk.Progress) error {
	if err := o.Validate(); err != nil {
		return err
	}
	if err := o.Streamable(); err != nil {
		return err
	}
	h := o.header()
	disks := ceilDiv(int64(h.Size), h.ClusterSize()) // clusters of the disk
	for i, k := range clusters {
		if k < 0 || k >= disks || i > 0 && k <= clusters[i-1] {
			return fmt.Errorf("cluster %d to allocate: not one of %d in ascending order", k, disks)
		}
	}
	lay := streamLayoutOf(&h, clusters)
	if err := writeStreamMetadata(w, &h, lay, clusters); err != nil {
		return err
	}
	buf := make([]byte, max(1<<20, h.ClusterSize()))
	done, total := int64(0), int64(len(clusters))<<h.ClusterBits
	for i := 0; i < len(clusters); {
		// Neighbours are read together.
		n := 1
		for i+n < len(clusters) && clusters[i+n] == clusters[i]+int64(n) && int64(n+1)<<h.ClusterBits <= int64(len(buf)) {
			n++
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:int64(n)<<h.ClusterBits]
		off := clusters[i] << h.ClusterBits
		k := max(0, min(int64(len(b)), src.Size()-off))
		if m, err := src.ReadAt(b[:k], off); int64(m) < k {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		clear(b[k:])
		if _, err := w.Write(b); err != nil {
			return err
		}
		i += n
		if done += int64(len(b)); progress != nil {
			progress(done, total)
		}
	}
	return nil
}

// Streamable returns an error that wraps ErrUnsupported if the options need random access:
// see [WriteStream].
func (o *CreateOptions) Streamable() error {
	if o.Compress || o.Growing || o.Preallocation != PreallocateOff || o.BackingFile != "" || o.Parent != nil {
		return fmt.Errorf("%w: a stream of a compressed or preallocated image, of one of unknown size, or with a backing file", ErrUnsupported)
	}
	return nil
}

// streamLayout is where the structures of a streamed image are, in clusters.
type streamLayout struct {
	refTable, blocks, l1, l2, data, end int64 // where each starts, and the last ends
	tables                              []int64
}

// streamLayoutOf lays out the image: header, refcount table, refcount blocks, L1 table, L2
// tables, data.
func streamLayoutOf(h *Header, clusters []int64) *streamLayout {
	lay := &streamLayout{}
	for _, k := range clusters {
		if i := k >> h.l2Bits(); len(lay.tables) == 0 || lay.tables[len(lay.tables)-1] != i {
			lay.tables = append(lay.tables, i)
		}
	}
	h.L1Size = uint32(h.l1Needed(int64(h.Size)))
	l1 := ceilDiv(int64(h.L1Size)*8, h.ClusterSize())
	rest := 1 + l1 + int64(len(lay.tables)) + int64(len(clusters))
	table, blocks := h.refcountClusters(rest)
	lay.refTable = 1
	lay.blocks = lay.refTable + table
	lay.l1 = lay.blocks + blocks
	lay.l2 = lay.l1 + l1
	lay.data = lay.l2 + int64(len(lay.tables))
	lay.end = lay.data + int64(len(clusters))
	h.RefcountTableOffset, h.RefcountTableClusters = uint64(lay.refTable<<h.ClusterBits), uint32(table)
	if l1 > 0 {
		h.L1Offset = uint64(lay.l1 << h.ClusterBits)
	}
	return lay
}

// refcountClusters is how many clusters the refcount table and the refcount blocks need that
// count themselves and n other clusters.
func (h *Header) refcountClusters(n int64) (table, blocks int64) {
	perBlock := h.ClusterSize() * 8 >> h.RefcountOrder
	for {
		b := ceilDiv(n+table+blocks, perBlock)
		t := ceilDiv(b*8, h.ClusterSize())
		if b == blocks && t == table {
			return t, b
		}
		table, blocks = t, b
	}
}

func writeStreamMetadata(w io.Writer, h *Header, lay *streamLayout, clusters []int64) error {
	if int64(h.RefcountTableClusters)<<h.ClusterBits > maxRefTableBytes {
		return fmt.Errorf("%w: a refcount table of %d clusters", ErrTooLarge, h.RefcountTableClusters)
	}
	if _, err := w.Write(h.firstCluster()); err != nil {
		return err
	}
	// table writes n entries, padded to whole clusters.
	table := func(n int64, entry func(int64) uint64) error {
		b := make([]byte, 0, n*8)
		for i := range n {
			b = binary.BigEndian.AppendUint64(b, entry(i))
		}
		_, err := w.Write(append(b, make([]byte, -len(b)&int(h.ClusterSize()-1))...))
		return err
	}
	err := table(lay.l1-lay.blocks, func(i int64) uint64 { return uint64((lay.blocks + i) << h.ClusterBits) })
	if err != nil {
		return err
	}
	block := make([]byte, h.ClusterSize())
	perBlock := h.ClusterSize() * 8 >> h.RefcountOrder
	for i := range lay.l1 - lay.blocks {
		clear(block)
		for k := i * perBlock; k < min(lay.end, (i+1)*perBlock); k++ {
			setRefcount(block, k%perBlock, uint(h.RefcountOrder), 1)
		}
		if _, err := w.Write(block); err != nil {
			return err
		}
	}
	err = table(int64(h.L1Size), func(i int64) uint64 {
		n, ok := slices.BinarySearch(lay.tables, i)
		if !ok {
			return 0
		}
		return uint64((lay.l2+int64(n))<<h.ClusterBits) | entryCopied
	})
	if err != nil {
		return err
	}
	next := 0
	a := allocator{header: *h}
	for _, i := range lay.tables {
		clear(block)
		for ; next < len(clusters) && clusters[next]>>h.l2Bits() == i; next++ {
			e := entry{bits: uint64((lay.data+int64(next))<<h.ClusterBits) | entryCopied, sub: 1<<subclusters - 1}
			a.set(block, clusters[next]&(1<<h.l2Bits()-1), e)
		}
		if _, err := w.Write(block); err != nil {
			return err
		}
	}
	return nil
}
