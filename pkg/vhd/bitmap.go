package vhd

import (
	"fmt"
	"math/bits"
	"slices"
	"sync"
)

// sectorBitmap is the bitmap before a block's data, of a block that is not fully written. Bit
// s, most significant bit first, is sector s. A set bit means that the sector is in this file.
// A sector with a clear bit reads as zeros in a dynamic disk, whatever the file holds there.
type sectorBitmap struct {
	mu      sync.RWMutex
	bits    []byte
	changed bool // differs from the file
}

// bitmapRun returns the end of the run of equal bits that starts at sector s, at most limit,
// and the bit.
func bitmapRun(b []byte, s, limit int64) (end int64, set bool) {
	set = hasBit(b, s)
	flip := byte(0)
	if set {
		flip = 0xff
	}
	// XORed with flip, the run is of zeros and ends at the first one.
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

// bitmaps caches the sector bitmaps of an image. Most blocks are fully written, and need one
// bit each.
type bitmaps struct {
	mu      sync.RWMutex
	full    []*fullBits             // nil: none of these blocks is full
	partial map[int64]*sectorBitmap // other bitmaps that were read
	// Nobody writes, so any bitmap can be dropped and read again.
	forget bool
	spare  sync.Pool // buffers of type *[]byte, to read bitmaps that turn out to be full
}

// fullBits has a set bit for each block whose sectors are all in the file.
type fullBits [64]uint64

const fullBlocks = int64(len(fullBits{})) * 64

func (b *fullBits) has(block int64) bool {
	return b != nil && b[block%fullBlocks/64]&(1<<(block%64)) != 0
}

// keepPartial is the most bitmaps that an image opened for reading keeps in memory.
const keepPartial = 4096

func (m *bitmaps) init(blocks int64, readOnly bool) {
	m.grow(blocks)
	m.partial = map[int64]*sectorBitmap{}
	m.forget = readOnly
}

// grow adds capacity for more blocks.
func (m *bitmaps) grow(blocks int64) {
	if more := (blocks+fullBlocks-1)/fullBlocks - int64(len(m.full)); more > 0 {
		m.full = append(m.full, make([]*fullBits, more)...)
	}
}

// forgetFrom drops the bitmaps of the blocks from block on.
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

// setFull records that all sectors of a block are in the file.
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

// known returns the bitmap of a block if it was read before; nil and true mean that the block
// is full.
func (m *bitmaps) known(block int64) (*sectorBitmap, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.full[block/fullBlocks].has(block) {
		return nil, true
	}
	b, ok := m.partial[block]
	return b, ok
}

// takeChanged returns the contents of a changed bitmap, to be written to the file. It returns
// nil if there is nothing to write: the block has become full.
func (m *bitmaps) takeChanged(block int64) []byte {
	b, ok := m.known(block)
	if !ok || b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed = false
	return slices.Clone(b.bits)
}

// add records a bitmap that was read from the file, unless another goroutine was first. It
// returns the bitmap to use, nil for a full block.
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

// bitmap returns the sector bitmap of an allocated block with entry e, or nil if all its
// sectors are in the file.
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
