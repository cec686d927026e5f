package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// tableCacheBytes bounds the memory of the L2 tables that an image keeps.
const tableCacheBytes = 8 << 20

// tableCache keeps the L2 tables that were used last. It is safe for concurrent use.
type tableCache struct {
	mu     sync.Mutex
	max    int
	tables map[int64]*table
	clock  int64
}

// table is an L2 table as it is in the file. It is not changed.
type table struct {
	b    []byte
	used int64
}

func newTableCache(clusterSize int64) *tableCache {
	return &tableCache{max: int(max(4, min(tableCacheBytes/clusterSize, 1024))), tables: map[int64]*table{}}
}

// get returns the table at an offset of r.
func (c *tableCache) get(r io.ReaderAt, off, clusterSize int64) ([]byte, error) {
	c.mu.Lock()
	c.clock++
	if t := c.tables[off]; t != nil {
		t.used = c.clock
		c.mu.Unlock()
		return t.b, nil
	}
	c.mu.Unlock()
	// Goroutines that miss the same table at a time each read it.
	b := make([]byte, clusterSize)
	if n, err := r.ReadAt(b, off); n < len(b) {
		return nil, readError("L2 table", off, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tables) >= c.max {
		oldest := int64(-1)
		for k, t := range c.tables {
			if oldest < 0 || t.used < c.tables[oldest].used {
				oldest = k
			}
		}
		delete(c.tables, oldest)
	}
	c.tables[off] = &table{b, c.clock}
	return b, nil
}

// entryAt is entry i of an L2 table.
func entryAt(table []byte, i int64, extended bool) entry {
	if extended {
		return entry{binary.BigEndian.Uint64(table[i*16:]), binary.BigEndian.Uint64(table[i*16+8:])}
	}
	return entry{bits: binary.BigEndian.Uint64(table[i*8:])}
}

// readL1 reads an L1 table of n entries.
func readL1(r io.ReaderAt, length, off, n int64) ([]uint64, error) {
	if n == 0 {
		return nil, nil
	}
	if off > length || n*8 > length-off {
		return nil, corrupt(off, "L1 table", fmt.Sprintf("%d entries", n), fmt.Sprintf("a table within the file of %d bytes", length))
	}
	b := make([]byte, n*8)
	if k, err := r.ReadAt(b, off); k < len(b) {
		return nil, readError("L1 table", off, err)
	}
	l1 := make([]uint64, n)
	for i := range l1 {
		l1[i] = binary.BigEndian.Uint64(b[i*8:])
	}
	return l1, nil
}
