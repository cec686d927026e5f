package vhd

import (
	"fmt"
	"math/bits"
	"slices"
	"sync"
)

// sectorBitmap is the bitmap in front of a block's data, of a block of which
// not all sectors were written: bit s, most significant bit of each byte
// first, is sector s. A set bit means that the sector is in this file; under a
// clear bit a dynamic disk reads as zeros, whatever the file holds there.
type sectorBitmap struct {
	mu    sync.RWMutex
	bits  []byte
	dirty bool // differs from the file
}

// run returns where the run of equal bits that starts at sector s ends, at
// most limit, and the bit.
func bitmapRun(b []byte, s, limit int64) (end int64, set bool) {
	set = hasBit(b, s)
	flip := byte(0)
	if set {
		flip = 0xff
	}
	// Looked at through flip, the run is of zeros and ends at the first one.
	for i := s / 8; i*8 < limit; i++ {
		v := b[i] ^ flip
		if i == s/8 {
			v &= 0xff >> (s % 8)
		}
		if v != 0 {
			return min(i*8+int64(bits.LeadingZeros8(v)), limit), set
		}
	}
	return limit, set
}

// hasBit reports whether bit s is set, most significant bit of each byte first.
func hasBit(b []byte, s int64) bool { return b[s/8]&(0x80>>(s%8)) != 0 }

// allBits reports whether the first n bits are set.
func allBits(b []byte, n int64) bool {
	end, set := bitmapRun(b, 0, n)
	return set && end == n
}

// setBits sets the bits of the sectors [s, end).
func setBits(b []byte, s, end int64) {
	for ; s < end && s%8 != 0; s++ {
		b[s/8] |= 0x80 >> (s % 8)
	}
	for ; s+8 <= end; s += 8 {
		b[s/8] = 0xff
	}
	for ; s < end; s++ {
		b[s/8] |= 0x80 >> (s % 8)
	}
}

// bitmaps is what is known of the sector bitmaps of an image. Most blocks of
// most images are written whole, and for those one bit is kept.
type bitmaps struct {
	mu      sync.RWMutex
	full    []*fullBits             // by 4096 blocks; nil: none of them is full
	partial map[int64]*sectorBitmap // the others that were looked at
	forget  bool                    // nobody writes, so that any can be read again
	spare   sync.Pool               // of *[]byte, to read bitmaps that are then full
}

// fullBits has a bit for each block: all its sectors are in the file.
type fullBits [64]uint64

const fullBlocks = int64(len(fullBits{})) * 64

func (b *fullBits) has(block int64) bool {
	return b != nil && b[block%fullBlocks/64]&(1<<(block%64)) != 0
}

// keepPartial bounds how many bitmaps an image that is only read keeps in
// memory.
const keepPartial = 4096

func (m *bitmaps) init(blocks int64, readOnly bool) {
	m.grow(blocks)
	m.partial = map[int64]*sectorBitmap{}
	m.forget = readOnly
}

// grow makes room for more blocks.
func (m *bitmaps) grow(blocks int64) {
	if more := (blocks+fullBlocks-1)/fullBlocks - int64(len(m.full)); more > 0 {
		m.full = append(m.full, make([]*fullBits, more)...)
	}
}

// forgetFrom drops what is known of the blocks from this one on.
func (m *bitmaps) forgetFrom(block int64) {
	for i := block; i < int64(len(m.full))*fullBlocks; i++ {
		b := m.full[i/fullBlocks]
		if b == nil || i%fullBlocks == 0 {
			m.full[i/fullBlocks] = nil
			i += fullBlocks - i%fullBlocks - 1
			continue
		}
		b[i%fullBlocks/64] &^= 1 << (i % 64)
	}
	for i := range m.partial {
		if i >= block {
			delete(m.partial, i)
		}
	}
}

// setFull notes that all sectors of a block are in the file.
func (m *bitmaps) setFull(block int64) {
	m.mu.Lock()
	b := m.full[block/fullBlocks]
	if b == nil {
		b = new(fullBits)
		m.full[block/fullBlocks] = b
	}
	b[block%fullBlocks/64] |= 1 << (block % 64)
	delete(m.partial, block)
	m.mu.Unlock()
}

// known returns the bitmap if it was looked at before; nil and true mean full.
func (m *bitmaps) known(block int64) (*sectorBitmap, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.full[block/fullBlocks].has(block) {
		return nil, true
	}
	b, ok := m.partial[block]
	return b, ok
}

// takeDirty returns what a bitmap that has changed says, to be written to the file, or
// nil if nothing is to be: all sectors of the block are there.
func (m *bitmaps) takeDirty(block int64) []byte {
	b, ok := m.known(block)
	if !ok || b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dirty = false
	return slices.Clone(b.bits)
}

// add notes a bitmap that was read from the file, unless another goroutine
// was first; it returns the one to use, nil for full.
func (m *bitmaps) add(block int64, b *sectorBitmap) *sectorBitmap {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full[block/fullBlocks].has(block) {
		return nil
	}
	if old, ok := m.partial[block]; ok {
		return old
	}
	if m.forget && len(m.partial) >= keepPartial {
		clear(m.partial)
	}
	m.partial[block] = b
	return b
}

// bitmap returns the sector bitmap of an allocated block, whose entry is e,
// or nil if all its sectors are in the file.
func (img *Image) bitmap(block int64, e uint32) (*sectorBitmap, error) {
	if b, ok := img.bitmaps.known(block); ok {
		return b, nil
	}
	raw, _ := img.bitmaps.spare.Get().(*[]byte)
	if raw == nil {
		raw = new([]byte)
		*raw = make([]byte, img.lay.bitmapSize)
	}
	if err := readFull(img.r, *raw, int64(e)*SectorSize); err != nil {
		return nil, fmt.Errorf("sector bitmap of block %d: %w", block, err)
	}
	if allBits(*raw, img.lay.blockSize/SectorSize) {
		img.bitmaps.setFull(block)
		img.bitmaps.spare.Put(raw)
		return nil, nil
	}
	return img.bitmaps.add(block, &sectorBitmap{bits: *raw}), nil
}
