package vhd

import (
	"context"
	"io"
	"math"
)

// headerScan is the size of the range, from the start of the file, that is searched for a lost
// header.
const headerScan = 1 << 20

// scanForHeader returns the offset of the only possible header, or -1 if there is none, or more
// than one. A possible header has a correct checksum and leads to a BAT with only possible
// entries, at least one of them used. A header inside a block belongs to the guest.
func scanForHeader(ctx context.Context, r io.ReaderAt, size int64, footer *Footer) (int64, error) {
	found := int64(-1)
	var b [headerSize]byte
	for at := int64(footerSize); at <= min(headerScan, size-headerSize); at += SectorSize {
		if err := ctx.Err(); err != nil {
			return -1, err
		}
		if err := readFull(r, b[:], at); err != nil {
			return -1, err
		}
		h := DecodeHeader(&b)
		if h.Cookie != headerCookie || refusal(h.validate(at, footer.Type), false) != nil || len(h.validateTable(uint64(at), size)) > 0 {
			continue
		}
		moved := *footer
		moved.DataOffset = uint64(at)
		lay := layoutOf(&moved, &h, math.MaxInt64)
		t, err := readBAT(r, lay.batOff, blocksHeld(&moved, &h, 0))
		if err != nil {
			return -1, err
		}
		if t.end(lay.stored()) == 0 || !t.sane(&lay) {
			continue
		}
		if found >= 0 {
			return -1, nil
		}
		found = at
	}
	return found, nil
}
