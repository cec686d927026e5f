package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// refcounts reads the refcounts that an image stores. It is for one goroutine.
type refcounts struct {
	r           io.ReaderAt
	length      int64
	order       uint
	clusterBits uint
	table       []uint64

	block   []byte // the block that was read last, of table entry blockAt
	blockAt int64
}

func readRefcountTable(r io.ReaderAt, length int64, h *Header) (*refcounts, error) {
	c := &refcounts{r: r, length: length, order: uint(h.RefcountOrder), clusterBits: uint(h.ClusterBits), blockAt: -1}
	b := make([]byte, min(int64(h.RefcountTableClusters)<<h.ClusterBits, max(0, length-int64(h.RefcountTableOffset))))
	if n, err := r.ReadAt(b, int64(h.RefcountTableOffset)); n < len(b) {
		return nil, readError("refcount table", int64(h.RefcountTableOffset), err)
	}
	for ; len(b) >= 8; b = b[8:] {
		c.table = append(c.table, binary.BigEndian.Uint64(b))
	}
	return c, nil
}

// perBlock is the binary logarithm of the number of refcounts in a block.
func (c *refcounts) perBlock() uint { return c.clusterBits + 3 - c.order }

// blockOffset is the offset in the file of the block for a cluster; 0 if there is none.
// valid is false if the entry of the table is damaged.
func (c *refcounts) blockOffset(cluster int64) (off int64, valid bool) {
	i := cluster >> c.perBlock()
	if i >= int64(len(c.table)) {
		return 0, true
	}
	e := c.table[i]
	off = int64(e &^ refReserved)
	return off, e&refReserved == 0 && off >= 0 && off&(1<<c.clusterBits-1) == 0 && off < c.length
}

// of is the refcount of a cluster. ok is false if the block for it is not valid.
func (c *refcounts) of(cluster int64) (n uint64, ok bool, err error) {
	off, valid := c.blockOffset(cluster)
	if off == 0 || !valid {
		return 0, valid, nil
	}
	if i := cluster >> c.perBlock(); i != c.blockAt {
		if c.block == nil {
			c.block = make([]byte, 1<<c.clusterBits)
		}
		c.blockAt = -1
		if err := readPadded(c.r, c.length, c.block, off); err != nil {
			return 0, false, fmt.Errorf("refcount block at offset %d: %w", off, err)
		}
		c.blockAt = i
	}
	return refcountAt(c.block, cluster&(1<<c.perBlock()-1), c.order), true, nil
}

// refcountAt is refcount i of a block.
func refcountAt(block []byte, i int64, order uint) uint64 {
	switch order {
	case 3:
		return uint64(block[i])
	case 4:
		return uint64(binary.BigEndian.Uint16(block[i*2:]))
	case 5:
		return uint64(binary.BigEndian.Uint32(block[i*4:]))
	case 6:
		return binary.BigEndian.Uint64(block[i*8:])
	}
	width := uint(1) << order // in bits; the first refcount is in the lowest bits
	perByte := int64(8) >> order
	return uint64(block[i/perByte]>>(uint(i%perByte)*width)) & (1<<width - 1)
}

// setRefcount sets refcount i of a block.
func setRefcount(block []byte, i int64, order uint, n uint64) {
	switch order {
	case 3:
		block[i] = byte(n)
	case 4:
		binary.BigEndian.PutUint16(block[i*2:], uint16(n))
	case 5:
		binary.BigEndian.PutUint32(block[i*4:], uint32(n))
	case 6:
		binary.BigEndian.PutUint64(block[i*8:], n)
	default:
		width := uint(1) << order
		perByte := int64(8) >> order
		shift := uint(i%perByte) * width
		block[i/perByte] = block[i/perByte]&^((1<<width-1)<<shift) | byte(n)<<shift
	}
}

// readPadded fills b from an offset of a file of length bytes, after whose end there are
// zeros.
func readPadded(r io.ReaderAt, length int64, b []byte, off int64) error {
	n := max(0, min(int64(len(b)), length-off))
	clear(b[n:])
	if k, err := r.ReadAt(b[:n], off); int64(k) < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}
