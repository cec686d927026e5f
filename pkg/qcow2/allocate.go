package qcow2

import (
	"encoding/binary"
	"fmt"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// newTablesBytes bounds the memory of the L2 tables of a new image.
const newTablesBytes = 8 << 20

// allocator allocates the clusters of the file of a new image, one after the other, and
// counts the references to them. A refcount block is the first cluster of those
// that it counts, except the first one, which comes after the header. Complete tables and refcount
// blocks are written to the file at once.
type allocator struct {
	f      disk.File
	device bool
	header Header

	next  int64    // the first free cluster of the file
	table []uint64 // the refcount table: offsets of blocks
	block []byte   // the last refcount block

	l1     []uint64
	tables map[int64][]byte // L2 tables that are not written, by L1 entry
	max    int              // of tables
}

func (a *allocator) init(f disk.File, h Header) error {
	*a = allocator{f: f, device: disk.IsDevice(f), header: h, tables: map[int64][]byte{}, max: int(max(4, newTablesBytes>>h.ClusterBits))}
	if _, err := a.allocate(); err != nil { // the header
		return err
	}
	return nil
}

// perBlock is the number of clusters that a refcount block counts.
func (a *allocator) perBlock() int64 { return 8 << a.header.ClusterBits >> a.header.RefcountOrder }

// allocate returns the next cluster of the file, with one reference.
func (a *allocator) allocate() (int64, error) {
	k := a.next
	a.next++
	if k%a.perBlock() != 0 {
		a.count(k, 1)
		return k, nil
	}
	// The first block counts the header at cluster 0; any other counts itself first.
	if err := a.writeBlock(); err != nil {
		return 0, err
	}
	at := k
	if k == 0 {
		at = a.next
		a.next++
	}
	a.block = make([]byte, a.header.ClusterSize())
	a.table = append(a.table, uint64(at<<a.header.ClusterBits))
	a.count(at, 1)
	if k == 0 {
		a.count(0, 1)
		return 0, nil
	}
	return a.allocate()
}

// count sets the references of a cluster that the last block counts.
func (a *allocator) count(k int64, n uint64) {
	setRefcount(a.block, k%a.perBlock(), uint(a.header.RefcountOrder), n)
}

// counted reports whether the last block counts a cluster.
func (a *allocator) counted(k int64) bool { return k/a.perBlock() == int64(len(a.table))-1 }

func (a *allocator) writeBlock() error {
	if len(a.table) == 0 {
		return nil
	}
	_, err := a.f.WriteAt(a.block, int64(a.table[len(a.table)-1]))
	return err
}

// l2 is the L2 table of an L1 entry; nil if there is none and create is not set.
func (a *allocator) l2(i int64, create bool) ([]byte, error) {
	if t := a.tables[i]; t != nil {
		return t, nil
	}
	if i >= int64(len(a.l1)) || a.l1[i] == 0 {
		if !create {
			return nil, nil
		}
		k, err := a.allocate()
		if err != nil {
			return nil, err
		}
		for int64(len(a.l1)) <= i {
			a.l1 = append(a.l1, 0)
		}
		a.l1[i] = uint64(k<<a.header.ClusterBits) | entryCopied
		return a.keep(i, make([]byte, a.header.ClusterSize()))
	}
	t := make([]byte, a.header.ClusterSize())
	off := int64(a.l1[i] & entryOffset)
	if n, err := a.f.ReadAt(t, off); n < len(t) {
		return nil, readError("L2 table", off, err)
	}
	return a.keep(i, t)
}

// keep keeps a table in memory. Images are written from their start to their end: the first
// table is written for it, and is read again if it is needed after all.
func (a *allocator) keep(i int64, t []byte) ([]byte, error) {
	if len(a.tables) >= a.max {
		first := int64(-1)
		for k := range a.tables {
			if first < 0 || k < first {
				first = k
			}
		}
		if err := a.writeTable(first); err != nil {
			return nil, err
		}
	}
	a.tables[i] = t
	return t, nil
}

func (a *allocator) writeTable(i int64) error {
	if _, err := a.f.WriteAt(a.tables[i], int64(a.l1[i]&entryOffset)); err != nil {
		return err
	}
	delete(a.tables, i)
	return nil
}

// entryOf returns the L2 table and the index of the entry for an offset of the disk. The
// table is nil if there is none and create is not set.
func (a *allocator) entryOf(off int64, create bool) (table []byte, i int64, err error) {
	k := off >> a.header.ClusterBits
	table, err = a.l2(k>>a.header.l2Bits(), create)
	return table, k & (1<<a.header.l2Bits() - 1), err
}

// get is the L2 entry for an offset of the disk.
func (a *allocator) get(off int64) (entry, error) {
	table, i, err := a.entryOf(off, false)
	if table == nil || err != nil {
		return entry{}, err
	}
	return entryAt(table, i, a.header.ExtendedL2()), nil
}

// set sets entry i of a table.
func (a *allocator) set(table []byte, i int64, e entry) {
	if !a.header.ExtendedL2() {
		binary.BigEndian.PutUint64(table[i*8:], e.bits)
		return
	}
	binary.BigEndian.PutUint64(table[i*16:], e.bits)
	binary.BigEndian.PutUint64(table[i*16+8:], e.sub)
}

// allocateCluster allocates a cluster of the file for the cluster at an offset of the disk.
func (a *allocator) allocateCluster(off int64) (entry, error) {
	table, i, err := a.entryOf(off, true)
	if err != nil {
		return entry{}, err
	}
	k, err := a.allocate()
	if err != nil {
		return entry{}, err
	}
	e := entry{bits: uint64(k<<a.header.ClusterBits) | entryCopied, sub: 1<<subclusters - 1}
	if uint64(k) > entryOffset>>a.header.ClusterBits {
		return entry{}, fmt.Errorf("%w: the file would have %d clusters", ErrTooLarge, k)
	}
	if a.device { // a new file is zeros
		if err := filesystem.Zero(a.f, e.offset(), a.header.ClusterSize()); err != nil {
			return entry{}, err
		}
	}
	a.set(table, i, e)
	return e, nil
}

// finish writes all metadata, the header last, and returns the length of the file.
func (a *allocator) finish(size int64) (int64, error) {
	h := &a.header
	for len(a.tables) > 0 {
		for i := range a.tables {
			if err := a.writeTable(i); err != nil {
				return 0, err
			}
		}
	}
	need := h.l1Needed(size)
	for int64(len(a.l1)) < need {
		a.l1 = append(a.l1, 0)
	}
	write := func(table []uint64, off int64) error {
		b := make([]byte, 0, len(table)*8)
		for _, e := range table {
			b = binary.BigEndian.AppendUint64(b, e)
		}
		b = append(b, make([]byte, -len(b)&int(h.ClusterSize()-1))...)
		_, err := a.f.WriteAt(b, off)
		return err
	}
	l1 := ceilDiv(int64(len(a.l1))*8, h.ClusterSize()) // 0 for a disk of size 0
	refTable, err := a.allocateEnd(l1)
	if err != nil {
		return 0, err
	}
	h.L1Size, h.L1Offset = uint32(len(a.l1)), refTable-uint64(l1<<h.ClusterBits)
	h.RefcountTableOffset, h.RefcountTableClusters = refTable, uint32(ceilDiv(int64(len(a.table))*8, h.ClusterSize()))
	if l1 == 0 {
		h.L1Offset = 0
	} else if err := write(a.l1, int64(h.L1Offset)); err != nil {
		return 0, err
	}
	if err := write(a.table, int64(refTable)); err != nil {
		return 0, err
	}
	h.Size = uint64(size)
	_, err = a.f.WriteAt(h.firstCluster(), 0)
	return a.next << h.ClusterBits, err
}

// allocateEnd allocates the last clusters of the file: n for the L1 table, then those of the
// refcount table, whose offset it returns, and then the blocks that count all of these. It
// writes the blocks.
func (a *allocator) allocateEnd(n int64) (refTable uint64, err error) {
	h := &a.header
	first := a.next
	blocks, tables := int64(0), int64(1)
	for {
		end := first + n + tables + blocks
		b := max(0, ceilDiv(end, a.perBlock())-int64(len(a.table)))
		t := ceilDiv((int64(len(a.table))+b)*8, h.ClusterSize())
		if b == blocks && t == tables {
			break
		}
		blocks, tables = max(b, blocks), max(t, tables)
	}
	if tables<<h.ClusterBits > maxRefTableBytes {
		return 0, fmt.Errorf("%w: a refcount table of %d clusters", ErrTooLarge, tables)
	}
	a.next += n + tables + blocks
	k := first
	for i := range blocks + 1 {
		for ; k < a.next && a.counted(k); k++ {
			a.count(k, 1)
		}
		if err := a.writeBlock(); err != nil {
			return 0, err
		}
		if i < blocks {
			clear(a.block)
			a.table = append(a.table, uint64((first+n+tables+i)<<h.ClusterBits))
		}
	}
	return uint64((first + n) << h.ClusterBits), nil
}

// ceilDiv is n/d rounded up.
func ceilDiv(n, d int64) int64 { return (n + d - 1) / d }
