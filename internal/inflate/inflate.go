// Package inflate decodes deflate data whose decoded length is known, from memory into
// memory. It is faster than a decoder of streams: no window is kept, and a match is copied
// from what was decoded before.
package inflate

import (
	"encoding/binary"
	"errors"
	"io"
)

// ErrCorrupt: the data is not deflate data.
var ErrCorrupt = errors.New("invalid deflate data")

// Decoder holds the tables of one decoding. It is for one goroutine, and can be used again.
// The zero value is ready to use.
type Decoder struct {
	lit  [litSize]uint32
	dist [distSize]uint32
	code [1 << codeBits]uint32
	lens [maxLit + maxDist]uint8

	src  []byte
	pos  int    // of the next byte of src
	hold uint64 // the next bits of the data, the first one lowest
	bits uint   // how many of them are counted: those above are the same as in src
}

// Decode fills dst with the start of the data that src decodes to. It stops as soon as dst is
// full. Data that ends before is an error that wraps [io.ErrUnexpectedEOF]. Distances reach
// back to the start of dst.
func (d *Decoder) Decode(dst, src []byte) error {
	d.src, d.pos, d.hold, d.bits = src, 0, 0, 0
	defer func() { d.src = nil }()
	o := 0
	for o < len(dst) {
		head, err := d.take(3)
		if err != nil {
			return err
		}
		switch head >> 1 {
		case 0:
			o, err = d.stored(dst, o)
		case 1:
			if err = d.fixedTables(); err == nil {
				o, err = d.block(dst, o)
			}
		case 2:
			if err = d.dynamicTables(); err == nil {
				o, err = d.block(dst, o)
			}
		default:
			err = ErrCorrupt
		}
		if err != nil {
			return err
		}
		if head&1 != 0 && o < len(dst) {
			return io.ErrUnexpectedEOF
		}
	}
	return nil
}

// fill counts as many bits as possible, at least 56 unless the data ends.
func (d *Decoder) fill() {
	if d.pos+8 <= len(d.src) {
		d.hold |= binary.LittleEndian.Uint64(d.src[d.pos:]) << (d.bits & 63)
		d.pos += int(63-d.bits) >> 3
		d.bits |= 56
		return
	}
	for d.bits <= 56 && d.pos < len(d.src) {
		d.hold |= uint64(d.src[d.pos]) << (d.bits & 63)
		d.pos++
		d.bits += 8
	}
}

// take takes up to 32 bits.
func (d *Decoder) take(n uint) (uint32, error) {
	if d.bits < n {
		d.fill()
		if d.bits < n {
			return 0, io.ErrUnexpectedEOF
		}
	}
	v := uint32(d.hold & (1<<n - 1))
	d.hold >>= n
	d.bits -= n
	return v, nil
}

// stored copies a block that is not compressed.
func (d *Decoder) stored(dst []byte, o int) (int, error) {
	// Bytes that were counted are read again.
	d.pos -= int(d.bits / 8)
	d.hold, d.bits = 0, 0
	if len(d.src)-d.pos < 4 {
		return o, io.ErrUnexpectedEOF
	}
	n := int(binary.LittleEndian.Uint16(d.src[d.pos:]))
	if uint16(n) != ^binary.LittleEndian.Uint16(d.src[d.pos+2:]) {
		return o, ErrCorrupt
	}
	d.pos += 4
	k := copy(dst[o:], d.src[d.pos:min(len(d.src), d.pos+n)])
	d.pos += k
	o += k
	if k < n && o < len(dst) {
		return o, io.ErrUnexpectedEOF
	}
	return o, nil
}

const (
	maxMatch = 258
	margin   = 2 + maxMatch + 8 // bytes of dst that one step may write: two literals and a match
)

// block decodes the symbols of a block, up to its end or that of dst.
func (d *Decoder) block(dst []byte, o int) (int, error) {
	o, done, err := d.fast(dst, o)
	if done || err != nil {
		return o, err
	}
	return d.careful(dst, o)
}

// fast decodes symbols as long as both buffers have space for any symbol. done reports whether the
// block has ended.
func (d *Decoder) fast(dst []byte, o int) (end int, done bool, err error) {
	src, pos, hold, bits := d.src, d.pos, d.hold, d.bits
	lit, dist := &d.lit, &d.dist
	for len(dst)-o >= margin && len(src)-pos >= 16 {
		hold |= binary.LittleEndian.Uint64(src[pos:]) << (bits & 63)
		pos += int(63-bits) >> 3
		bits |= 56
		// 56 bits are enough for two literals of the first table and a length.
		e := lit[hold&(1<<litBits-1)]
		if e&literal != 0 {
			hold >>= e & 63
			bits -= uint(e & 255)
			dst[o] = byte(e >> 16)
			o++
			e = lit[hold&(1<<litBits-1)]
			if e&literal != 0 {
				hold >>= e & 63
				bits -= uint(e & 255)
				dst[o] = byte(e >> 16)
				o++
				e = lit[hold&(1<<litBits-1)]
				if e&literal != 0 {
					hold >>= e & 63
					bits -= uint(e & 255)
					dst[o] = byte(e >> 16)
					o++
					continue
				}
			}
		}
		if e&special != 0 {
			if e&subtable == 0 {
				if e&invalid != 0 {
					return o, false, ErrCorrupt
				}
				d.pos, d.hold, d.bits = pos, hold>>(e&63), bits-uint(e&255)
				return o, true, nil
			}
			hold >>= litBits
			bits -= litBits
			e = lit[(uint64(e>>16)+hold&(1<<(e>>8&15)-1))&(litSize-1)]
			if e&literal != 0 {
				hold >>= e & 63
				bits -= uint(e & 255)
				dst[o] = byte(e >> 16)
				o++
				continue
			}
			if e&special != 0 {
				if e&invalid != 0 {
					return o, false, ErrCorrupt
				}
				d.pos, d.hold, d.bits = pos, hold>>(e&63), bits-uint(e&255)
				return o, true, nil
			}
		}
		n := int(e>>16) + int(hold&(1<<(e&63)-1)>>(e>>8&15))
		hold >>= e & 63
		bits -= uint(e & 255)
		hold |= binary.LittleEndian.Uint64(src[pos:]) << (bits & 63)
		pos += int(63-bits) >> 3
		bits |= 56
		e = dist[hold&(1<<distBits-1)]
		if e&special != 0 {
			if e&invalid != 0 {
				return o, false, ErrCorrupt
			}
			hold >>= distBits
			bits -= distBits
			e = dist[(uint64(e>>16)+hold&(1<<(e>>8&15)-1))&(distSize-1)]
			if e&invalid != 0 {
				return o, false, ErrCorrupt
			}
		}
		back := int(e>>16) + int(hold&(1<<(e&63)-1)>>(e>>8&15))
		hold >>= e & 63
		bits -= uint(e & 255)
		if back > o {
			return o, false, ErrCorrupt
		}
		from := o - back
		switch {
		case back >= 8:
			// Eight bytes at a time; what is written past the match is overwritten.
			to := dst[o : o+n+8]
			s := dst[from : from+n+8]
			for i := 0; i < n; i += 8 {
				binary.LittleEndian.PutUint64(to[i:], binary.LittleEndian.Uint64(s[i:]))
			}
		case back == 1:
			x := uint64(dst[from]) * 0x0101010101010101
			to := dst[o : o+n+8]
			for i := 0; i < n; i += 8 {
				binary.LittleEndian.PutUint64(to[i:], x)
			}
		default:
			for i := range n {
				dst[o+i] = dst[from+i]
			}
		}
		o += n
	}
	d.pos, d.hold, d.bits = pos, hold, bits
	return o, false, nil
}

// symbol decodes one symbol of a table whose first part has 1<<first entries: it returns its
// entry, and the value with the extra bits.
func (d *Decoder) symbol(table []uint32, first uint) (e uint32, value int, err error) {
	d.fill()
	e = table[d.hold&(1<<first-1)]
	if e&subtable != 0 {
		if d.bits < first {
			return 0, 0, io.ErrUnexpectedEOF
		}
		d.hold >>= first
		d.bits -= first
		e = table[uint64(e>>16)+d.hold&(1<<(e>>8&15)-1)]
	}
	if e&invalid != 0 {
		if d.bits < 15 && d.pos == len(d.src) {
			return 0, 0, io.ErrUnexpectedEOF
		}
		return 0, 0, ErrCorrupt
	}
	if d.bits < uint(e&255) {
		return 0, 0, io.ErrUnexpectedEOF
	}
	value = int(e>>16) + int(d.hold&(1<<(e&63)-1)>>(e>>8&15))
	if e&literal != 0 {
		value = int(e >> 16)
	}
	d.hold >>= e & 63
	d.bits -= uint(e & 255)
	return e, value, nil
}

// careful decodes symbols near the end of a buffer.
func (d *Decoder) careful(dst []byte, o int) (int, error) {
	for o < len(dst) {
		e, n, err := d.symbol(d.lit[:], litBits)
		if err != nil {
			return o, err
		}
		if e&literal != 0 {
			dst[o] = byte(n)
			o++
			continue
		}
		if e&special != 0 {
			return o, nil
		}
		_, back, err := d.symbol(d.dist[:], distBits)
		if err != nil {
			return o, err
		}
		if back > o {
			return o, ErrCorrupt
		}
		for i := range min(n, len(dst)-o) {
			dst[o+i] = dst[o+i-back]
		}
		o += min(n, len(dst)-o)
	}
	return o, nil
}
