package vhd

import (
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// footerCopy is one of the two copies of the footer, as it is in the file.
type footerCopy struct {
	Footer
	off     int64
	short   bool // only 511 bytes long
	found   bool // the file is long enough
	leading bool // the copy at the start of the file
}

// footers are the two copies of the footer in a file.
type footers struct {
	trailing footerCopy // at the end of the file; it takes precedence
	leading  footerCopy // at offset 0, of dynamic and differencing images
	// header says that neither copy is valid, but a dynamic disk header is at offset 512.
	header bool
}

// readFooterAt reads the footer at off, of which n bytes are in the file.
func readFooterAt(r io.ReaderAt, off int64, n int) (footerCopy, error) {
	var b [footerSize]byte
	if err := readFull(r, b[:n], off); err != nil {
		return footerCopy{}, err
	}
	return footerCopy{Footer: DecodeFooter(&b), off: off, short: n < footerSize, found: true}, nil
}

// readFull reads all of p. The end of the file is io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	return readError(p, off, err)
}

// readError returns the error of a read that filled less than p.
func readError(p []byte, off int64, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read of %d bytes at offset %d: %w", len(p), off, err)
}

// locateFooters reads the footers of a file of size bytes. The trailing one is in the last 512
// bytes. If the file ends inside a sector, it is in the last 511 bytes or the last whole sector.
// Errors are read errors, and the error for a piece of a split image.
func locateFooters(r io.ReaderAt, size int64) (footers, error) {
	var fs footers
	type span struct {
		off int64
		n   int
	}
	spans := []span{{size - footerSize, footerSize}}
	if rest := size % SectorSize; rest == shortFooterSize {
		spans = append([]span{{size - shortFooterSize, shortFooterSize}}, spans...)
	} else if rest != 0 {
		spans = append(spans, span{size - rest - footerSize, footerSize})
	}
	for _, p := range spans {
		if p.off < 0 {
			continue
		}
		c, err := readFooterAt(r, p.off, p.n)
		if err != nil {
			return fs, err
		}
		better := c.marked() && !fs.trailing.marked() || c.valid()
		if !fs.trailing.found || better {
			fs.trailing = c
		}
		if c.valid() {
			break
		}
	}
	if err := refuseSplit(r, fs.trailing.valid()); err != nil {
		return fs, err
	}
	if size >= footerSize {
		c, err := readFooterAt(r, 0, footerSize)
		if err != nil {
			return fs, err
		}
		c.leading = true
		fs.leading = c
	}
	if size >= footerSize+headerSize && !fs.trailing.valid() && !fs.leading.valid() {
		var b [len(headerCookie)]byte
		if err := readFull(r, b[:], footerSize); err != nil {
			return fs, err
		}
		fs.header = b == headerCookie
	}
	return fs, nil
}

// choose returns the footer to use: the trailing one, else the leading copy. It never mixes the
// two.
func (fs *footers) choose() (*footerCopy, error) {
	t, l := &fs.trailing, &fs.leading
	switch {
	case t.found && t.valid():
		return t, nil
	case l.found && l.valid() && l.Type != Fixed:
		return l, nil
	case t.found && t.marked():
		return nil, refusal(t.validate(), false)
	case l.found && l.marked() && l.valid():
		return nil, copyOfFixed(t.off).err()
	case l.found && l.marked():
		return nil, refusal(l.validate(), false)
	case fs.header:
		f := footersLost(t.off)
		return nil, &FormatError{Offset: f.Offset, Field: f.Field, Got: f.Got, Want: f.Want, Kind: ErrFootersLost}
	}
	return nil, ErrNotVHD
}

// twoIDs reports whether the copies of the footer belong to different images. A copy with a
// successor id belongs to the same image: a change of the id was interrupted.
func (fs *footers) twoIDs() bool {
	t, l := &fs.trailing, &fs.leading
	return t.valid() && t.Type != Fixed && l.valid() && t.UniqueID != l.UniqueID && !isSuccessorID(l.UniqueID, t.UniqueID)
}

// missingFooter is the finding for a file without a trailing footer that has only the copy.
func missingFooter(off int64) finding {
	return finding{Finding: Finding{
		ID: "trailing-footer", Severity: Error, Offset: off, Field: "trailing footer",
		Got: "no valid footer", Want: "a footer",
	}}
}

// copyOfFixed is the finding for a file whose only footer is at the start, and belongs to a
// fixed disk.
func copyOfFixed(off int64) finding {
	f := missingFooter(off)
	f.Got, f.Want = "none, and the copy at offset 0 is of a fixed disk", "a trailing footer: fixed disks have no copy"
	return f
}

// ignoringChecksum is choose, but accepts a footer with a wrong checksum if no copy is valid.
func (fs *footers) ignoringChecksum() (*footerCopy, error) {
	c, err := fs.choose()
	if err == nil {
		return c, nil
	}
	for _, c := range []*footerCopy{&fs.trailing, &fs.leading} {
		if !c.found || !c.marked() || c == &fs.leading && c.Type == Fixed {
			continue
		}
		if refusal(c.validate(), true) == nil {
			return c, nil
		}
	}
	return nil, err
}

// IsFooter reports whether b starts with a valid footer.
func IsFooter(b []byte) bool {
	if len(b) < footerSize {
		return false
	}
	f := DecodeFooter((*[footerSize]byte)(b))
	return f.valid()
}

// IsFixedFooter reports whether b, the 512 bytes after the first before bytes, is the footer of
// a fixed disk of before bytes.
func IsFixedFooter(b []byte, before int64) bool {
	if len(b) != footerSize {
		return false
	}
	f := DecodeFooter((*[footerSize]byte)(b))
	return f.valid() && f.Type == Fixed && f.CurrentSize == uint64(before)
}

// Probe returns nil if the file of size bytes is a VHD: it has a footer with correct cookie,
// checksum, version and type at its end, or a copy of one at its start.
//
// A damaged copy at the start, where qemu looks, has an error of its own, and so has a dynamic
// disk header without any footer. These errors keep a damaged dynamic image from being opened
// as a raw disk.
//
// Every other error wraps [disk.ErrNotThisFormat]. It also wraps a [FormatError] if the file is
// probably a fixed disk whose footer is not at the end.
func Probe(r io.ReaderAt, size int64) error {
	fs, err := locateFooters(r, size)
	if err != nil {
		return err
	}
	_, err = fs.choose()
	if errors.Is(err, ErrNotVHD) && !fs.header {
		err = errLostFixed(r, size)
	}
	if err != nil && !fs.leading.marked() && !fs.header {
		return fmt.Errorf("%w: %w", disk.ErrNotThisFormat, err)
	}
	return err
}
