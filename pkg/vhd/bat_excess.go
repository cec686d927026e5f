package vhd

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/internal/filesystem"
)

// excessPage is the unit, in bytes, in which BAT entries past the end of the disk are read and
// written.
const excessPage = 4096

// excess describes the BAT entries past the end of the disk.
type excess struct {
	first int64 // the first used entry
	used  int64 // used entries
	zeros int64 // used entries that are 0, in holes and in pages of zeros
}

// scanExcess examines the entries [blocks, entries) of the table at batOff. It calls page, if
// not nil, for each part of the table with used entries. zeros says that all entries of the
// part are 0; for a hole of n bytes b is nil.
func scanExcess(ctx context.Context, r io.ReaderAt, batOff, blocks, entries int64, page func(off, n int64, b []byte, zeros bool) error) (excess, error) {
	var x excess
	holes := filesystem.NewHoleMap(r)
	ones := bytes.Repeat([]byte{0xff}, excessPage)
	zero := make([]byte, excessPage)
	note := func(off, n int64, b []byte, zeros bool) error {
		used, first := n/4, int64(0)
		if !zeros {
			used = 0
			for i := int64(0); i < n; i += 4 {
				if binary.BigEndian.Uint32(b[i:]) != unused {
					if used == 0 {
						first = i / 4
					}
					used++
				}
			}
		}
		if x.used == 0 {
			x.first = (off-batOff)/4 + first
		}
		x.used += used
		if zeros {
			x.zeros += used
		}
		if page == nil {
			return nil
		}
		return page(off, n, b, zeros)
	}
	end := batOff + entries*4
	buf := make([]byte, min(64<<10, max(0, entries-blocks)*4))
	for off := batOff + blocks*4; off < end; {
		if err := ctx.Err(); err != nil {
			return x, err
		}
		stop, data, err := holes.At(off, end)
		if err != nil {
			return x, fmt.Errorf("BAT: %w", err)
		}
		if n := (stop - off) / 4 * 4; !data && n > 0 {
			// The file may have been truncated since: then this is no hole.
			if err := readFull(r, buf[:4], off+n-4); err != nil {
				return x, fmt.Errorf("BAT: %w", err)
			}
			if err := note(off, n, nil, true); err != nil {
				return x, err
			}
			off += n
			continue
		}
		b := buf[:min(int64(len(buf)), end-off)]
		if err := readFull(r, b, off); err != nil {
			return x, fmt.Errorf("BAT: %w", err)
		}
		for len(b) > 0 {
			n := min(int64(len(b)), excessPage-off%excessPage)
			if !bytes.Equal(b[:n], ones[:n]) {
				if err := note(off, n, b[:n], bytes.Equal(b[:n], zero[:n])); err != nil {
					return x, err
				}
			}
			b, off = b[n:], off+n
		}
	}
	return x, nil
}
