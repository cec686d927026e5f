package vhd

import (
	"errors"
	"fmt"
	"io"
)

// maxBadSectors is the most unreadable sectors that a patchyReader replaces.
const maxBadSectors = 1 << 16

// patchyReader reads a file, and returns zeros for unreadable sectors. It is not safe for
// concurrent use.
type patchyReader struct {
	r   io.ReaderAt
	bad map[int64]bool // numbers of the unreadable sectors
}

// ReadAt implements [io.ReaderAt]. It returns the usual error at the end of the file.
func (p *patchyReader) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.r.ReadAt(b, off)
	if n == len(b) || err == nil || isEnd(err) {
		return n, err
	}
	for n = 0; n < len(b); {
		at := off + int64(n)
		piece := b[n:min(int64(len(b)), int64(n)+SectorSize-at%SectorSize)]
		k, err := p.r.ReadAt(piece, at)
		if k < len(piece) && isEnd(err) {
			return n + k, err
		}
		if k < len(piece) {
			clear(piece)
			if p.bad == nil {
				p.bad = map[int64]bool{}
			}
			if p.bad[at/SectorSize] = true; len(p.bad) > maxBadSectors {
				return n, fmt.Errorf("more than %d unreadable sectors: %w", maxBadSectors, err)
			}
		}
		n += len(piece)
	}
	return n, nil
}

// Holds returns the file: the replaced sectors are no holes.
func (p *patchyReader) Holds() io.ReaderAt { return p.r }

func isEnd(err error) bool {
	return err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
