package inflate

import "math/bits"

// A table is indexed by the next bits of the data. Codes that are longer than the first part
// has bits continue in subtables after it. The sizes are powers of two above what any code
// needs: 2342 entries for literals and lengths, 402 for distances.
const (
	litBits  = 11
	litSize  = 4096
	distBits = 8
	distSize = 512
	codeBits = 7
	maxLit   = 288
	maxDist  = 32
)

// An entry: bits 0-7 are the number of bits of the code and its extra bits, 8-11 of the code
// alone, 16-31 the value. Of a subtable, the value is its start, and bits 8-11 the number
// of bits of its index.
const (
	special  = 1 << 12 // no literal, length or distance
	subtable = 1 << 13
	invalid  = 1 << 14 // no code
	literal  = 1 << 15
)

const none = special | invalid

// litEntries, distEntries and codeEntries are the entries of the symbols without their
// codes.
var (
	litEntries  = newLitEntries()
	distEntries = newDistEntries()
	codeEntries = newCodeEntries()
)

func newLitEntries() (t [maxLit]uint32) {
	for i := range uint32(256) {
		t[i] = literal | i<<16
	}
	t[256] = special // the end of the block
	base := uint32(3)
	for i := range uint32(28) {
		extra := uint32(0)
		if i >= 8 {
			extra = i/4 - 1
		}
		t[257+i] = base<<16 | extra
		base += 1 << extra
	}
	t[285] = maxMatch << 16
	t[286], t[287] = none, none
	return t
}

func newDistEntries() (t [maxDist]uint32) {
	base := uint32(1)
	for i := range uint32(30) {
		extra := uint32(0)
		if i >= 4 {
			extra = i/2 - 1
		}
		t[i] = base<<16 | extra
		base += 1 << extra
	}
	t[30], t[31] = none, none
	return t
}

func newCodeEntries() (t [19]uint32) {
	for i := range t {
		t[i] = uint32(i) << 16
	}
	return t
}

// build makes the table of a code from the lengths of its symbols' codes. entries are those
// of the symbols. A code that is not complete is only valid if it has no symbol, or one of
// one bit; incomplete says whether that is.
func build(table []uint32, first uint, lens []uint8, entries []uint32, incomplete bool) error {
	var count [16]int
	for _, n := range lens {
		count[n]++
	}
	count[0] = 0
	longest := 15
	for longest > 0 && count[longest] == 0 {
		longest--
	}
	left := 1
	var next [17]uint32 // the next code of each length
	for n := 1; n <= 15; n++ {
		left = left<<1 - count[n]
		if left < 0 {
			return ErrCorrupt
		}
		next[n+1] = (next[n] + uint32(count[n])) << 1
	}
	if left > 0 {
		if !incomplete || longest > 1 {
			return ErrCorrupt
		}
		for i := range 1 << first {
			table[i] = none
		}
	}
	// With a complete code, every prefix that is no code has a subtable as deep as its longest
	// code; the codes of a prefix are neighbours, shortest first.
	end := uint32(1) << first
	var starts, depths [1 << litBits]uint16
	if longest > int(first) {
		codes := next
		for _, n := range lens {
			if n == 0 {
				continue
			}
			code := codes[n]
			codes[n]++
			if uint(n) > first {
				prefix := reversed(code, uint(n)) & (1<<first - 1)
				depths[prefix] = max(depths[prefix], uint16(uint(n)-first))
			}
		}
	}
	for symbol, n := range lens {
		if n == 0 {
			continue
		}
		code := reversed(next[n], uint(n))
		next[n]++
		if uint(n) <= first {
			e := entries[symbol] + uint32(n) | uint32(n)<<8
			for i := code; i < 1<<first; i += 1 << n {
				table[i] = e
			}
			continue
		}
		prefix := code & (1<<first - 1)
		depth := uint(depths[prefix])
		if starts[prefix] == 0 {
			starts[prefix] = uint16(end)
			table[prefix] = special | subtable | end<<16 | uint32(depth)<<8 | uint32(first)
			end += 1 << depth
			if end > uint32(len(table)) {
				return ErrCorrupt
			}
		}
		rest := uint32(n) - uint32(first)
		e := entries[symbol] + rest | rest<<8
		for i := code >> first; i < 1<<depth; i += 1 << rest {
			table[uint32(starts[prefix])+i] = e
		}
	}
	return nil
}

// reversed is a code of n bits with its first bit lowest.
func reversed(code uint32, n uint) uint32 { return bits.Reverse32(code) >> (32 - n) }

// fixedTables makes the tables of the fixed codes.
func (d *Decoder) fixedTables() error {
	lens := d.lens[:maxLit]
	for i := range lens {
		switch {
		case i < 144, i >= 280:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		default:
			lens[i] = 7
		}
	}
	if err := build(d.lit[:], litBits, lens, litEntries[:], false); err != nil {
		return err
	}
	lens = d.lens[:maxDist]
	for i := range lens {
		lens[i] = 5
	}
	return build(d.dist[:], distBits, lens, distEntries[:], false)
}

// dynamicTables reads the codes of a block, and makes their tables.
func (d *Decoder) dynamicTables() error {
	head, err := d.take(14)
	if err != nil {
		return err
	}
	nlit, ndist, ncode := int(head&31)+257, int(head>>5&31)+1, int(head>>10)+4
	if nlit > 286 || ndist > 30 {
		return ErrCorrupt
	}
	var codeLens [19]uint8
	for i := range ncode {
		n, err := d.take(3)
		if err != nil {
			return err
		}
		codeLens[[19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}[i]] = uint8(n)
	}
	if err := build(d.code[:], codeBits, codeLens[:], codeEntries[:], false); err != nil {
		return err
	}
	lens := d.lens[:nlit+ndist]
	for i := 0; i < len(lens); {
		_, symbol, err := d.symbol(d.code[:], codeBits)
		if err != nil {
			return err
		}
		if symbol < 16 {
			lens[i] = uint8(symbol)
			i++
			continue
		}
		var value uint8
		bits, least := uint(2), 3
		switch symbol {
		case 16:
			if i == 0 {
				return ErrCorrupt
			}
			value = lens[i-1]
		case 17:
			bits = 3
		case 18:
			bits, least = 7, 11
		}
		n, err := d.take(bits)
		if err != nil {
			return err
		}
		repeat := least + int(n)
		if repeat > len(lens)-i {
			return ErrCorrupt
		}
		for range repeat {
			lens[i] = value
			i++
		}
	}
	if lens[256] == 0 {
		return ErrCorrupt
	}
	if err := build(d.lit[:], litBits, lens[:nlit], litEntries[:], true); err != nil {
		return err
	}
	return build(d.dist[:], distBits, lens[nlit:], distEntries[:], true)
}
