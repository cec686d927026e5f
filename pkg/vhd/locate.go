package vhd

import (
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// footerCopy is a place in a file that should hold a footer, and what is
// there.
type footerCopy struct {
	Footer
	off     int64
	short   bool // only 511 bytes long
	found   bool // the file reaches that far
	leading bool // the copy at the start of the file
}

// footers are the two places of a file where footers stand.
type footers struct {
	trailing footerCopy // at the end, the authoritative one
	leading  footerCopy // at 0, of dynamic and differencing images
	// header says that neither is valid, and a dynamic disk header is at byte 512.
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

// readFull reads all of p, and calls the file's end unexpected.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	return readError(p, off, err)
}

// readError is the error of a read that got less than p.
func readError(p []byte, off int64, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read of %d bytes at offset %d: %w", len(p), off, err)
}

// locateFooters reads the footers of a file of size bytes. The trailing one is
// looked for in the last 512 bytes, in the last 511 where the length says so,
// and in the last whole sector where the end of the file is torn. Only errors
// of reading are returned, and the one that refuses a piece of a split image.
func locateFooters(r io.ReaderAt, size int64) (footers, error) {
	var fs footers
	type place struct {
		off int64
		n   int
	}
	places := []place{{size - footerSize, footerSize}}
	if rest := size % SectorSize; rest == shortFooterSize {
		places = append([]place{{size - shortFooterSize, shortFooterSize}}, places...)
	} else if rest != 0 {
		places = append(places, place{size - rest - footerSize, footerSize})
	}
	for _, p := range places {
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

// choose returns the footer to believe: the trailing one, else the leading
// copy of an image that has one. The two are never mixed.
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

// twoIDs reports whether the copies of the footer are of different images. A copy with the
// id that the image was about to get is of the same one.
func (fs *footers) twoIDs() bool {
	t, l := &fs.trailing, &fs.leading
	return t.valid() && t.Type != Fixed && l.valid() && t.UniqueID != l.UniqueID && !isSuccessorID(l.UniqueID, t.UniqueID)
}

// missingFooter is the finding of a file without a trailing footer, of which only
// the copy is left.
func missingFooter(off int64) finding {
	return finding{Finding: Finding{
		ID: "trailing-footer", Severity: Error, Offset: off, Field: "footer at the end of the file",
		Got: "none that is valid", Want: "a footer",
	}}
}

// copyOfFixed is the finding of a file in which the only footer is one of a fixed
// disk, at the start.
func copyOfFixed(off int64) finding {
	f := missingFooter(off)
	f.Got, f.Want = "none, and the copy at offset 0 is of a fixed disk", "a footer, of which fixed disks have no copy"
	return f
}

// ignoringChecksum is choose for a caller who wants a footer with a wrong
// checksum believed, when there is no better one.
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

// IsFixedFooter reports whether the 512 bytes b, which follow so many others, are
// the footer of a fixed disk made of those.
func IsFixedFooter(b []byte, before int64) bool {
	if len(b) != footerSize {
		return false
	}
	f := DecodeFooter((*[footerSize]byte)(b))
	return f.valid() && f.Type == Fixed && f.CurrentSize == uint64(before)
}

// Probe returns nil if the file of size bytes is surely a VHD: a footer with
// cookie, checksum, version and type in order stands at its end, or a copy of
// one at its start. A damaged copy at the start, where qemu looks, is an error
// of its own, and so is a dynamic disk header without any footer; so a damaged
// dynamic image does not pass for a raw disk. Every other answer wraps
// [disk.ErrNotThisFormat]; it also wraps a [FormatError] if the file is likely a fixed disk
// whose footer is not at the end.
func Probe(r io.ReaderAt, size int64) error {
	fs, err := locateFooters(r, size)
	if err != nil {
		return err
	}
	_, err = fs.choose()
	if errors.Is(err, ErrNotVHD) {
		err = errLostFixed(r, size)
	}
	if err != nil && !fs.leading.marked() && !fs.header {
		return fmt.Errorf("%w: %w", disk.ErrNotThisFormat, err)
	}
	return err
}
