package vhdx

import (
	"encoding/binary"
	"io"
	"sync"
)

// State is the state of a BAT entry.
type State uint8

// States of payload blocks. A sector bitmap block has NotPresent or FullyPresent.
const (
	NotPresent       State = 0 // of the parent, or zeros
	Undefined        State = 1 // zeros
	Zero             State = 2 // zeros
	Unmapped         State = 3 // zeros
	unmapped095      State = 5 // Unmapped in early drafts of the format
	FullyPresent     State = 6 // in the file
	PartiallyPresent State = 7 // in the file or of the parent, by the sector bitmap
)

// batEntry is an entry of the BAT: a state in the low three bits, and the offset of the block in
// the file in MiB from bit 20 on.
type batEntry uint64

func (e batEntry) state() State { return State(e & 7) }

// offset is the offset of the block in the file, bytes. It may exceed an int64.
func (e batEntry) offset() uint64 { return uint64(e) &^ (mib - 1) }

// reserved are the bits between state and offset.
func (e batEntry) reserved() uint64 { return uint64(e) & (mib - 1) &^ 7 }

// stored reports whether the block is in the file.
func (e batEntry) stored() bool { return e.state() == FullyPresent || e.state() == PartiallyPresent }

// batLayout is the order of the entries. An entry for a sector bitmap block follows the payload
// entries of each chunk.
type batLayout struct {
	blocks int64 // payload blocks
	ratio  int64 // payload blocks of a chunk
	n      int64 // entries
}

// sectorsPerBitmap is the number of sectors that one sector bitmap block describes.
const sectorsPerBitmap = 1 << 23

func (m *Metadata) batLayout() batLayout {
	l := batLayout{blocks: m.blocks(), ratio: sectorsPerBitmap * m.LogicalSector / m.BlockSize}
	switch {
	case l.blocks == 0:
	case m.HasParent:
		l.n = (l.blocks + l.ratio - 1) / l.ratio * (l.ratio + 1)
	default:
		l.n = l.blocks + (l.blocks-1)/l.ratio
	}
	return l
}

// payload is the index of the entry of a payload block.
func (l *batLayout) payload(block int64) int64 { return block + block/l.ratio }

// bitmap is the index of the entry of the sector bitmap block of a chunk.
func (l *batLayout) bitmap(chunk int64) int64 { return chunk*(l.ratio+1) + l.ratio }

// isBitmap reports whether entry i is that of a sector bitmap block.
func (l *batLayout) isBitmap(i int64) bool { return i%(l.ratio+1) == l.ratio }

// block is the payload block of entry i, which is none of a sector bitmap.
func (l *batLayout) block(i int64) int64 { return i - i/(l.ratio+1) }

const (
	batPage  = 8 << 10 // entries of one read
	batPages = 64      // pages kept in memory
)

// bat reads the entries of a BAT in pages, so that its memory does not depend on its length. It
// is safe for concurrent use.
type bat struct {
	batLayout
	r   io.ReaderAt
	off int64 // in the file

	mu    sync.Mutex
	pages map[int64][]byte
}

// entry returns entry i.
func (t *bat) entry(i int64) (batEntry, error) {
	page, err := t.page(i / batPage)
	if err != nil {
		return 0, err
	}
	return batEntry(binary.LittleEndian.Uint64(page[i%batPage*8:])), nil
}

func (t *bat) page(p int64) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b, ok := t.pages[p]; ok {
		return b, nil
	}
	b := make([]byte, 8*min(batPage, t.n-p*batPage))
	if err := readFull(t.r, b, t.off+p*batPage*8); err != nil {
		return nil, err
	}
	if t.pages == nil || len(t.pages) == batPages {
		t.pages = map[int64][]byte{}
	}
	t.pages[p] = b
	return b, nil
}

// nextPresent is the first payload block from block to limit whose entry is not zero, or limit.
func (t *bat) nextPresent(block, limit int64) (int64, error) {
	for block < limit {
		i := t.payload(block)
		page, err := t.page(i / batPage)
		if err != nil {
			return 0, err
		}
		for base := i - i%batPage; i-base < int64(len(page)/8); i++ {
			if t.isBitmap(i) {
				continue
			}
			if block = t.block(i); block >= limit {
				return limit, nil
			}
			if batEntry(binary.LittleEndian.Uint64(page[(i-base)*8:])).state() != NotPresent {
				return block, nil
			}
			block++
		}
	}
	return limit, nil
}
