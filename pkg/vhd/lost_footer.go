package vhd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/diskend"
	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// footerSearch is the length of the end of a file, and of the end of its data, that is searched
// for a footer.
const footerSearch = 1 << 20

// lostFixed is a fixed disk in a file that does not end with its footer.
type lostFixed struct {
	size int64 // size of the file
	// footer follows its disk directly. It is nil if the file has none.
	footer *footerCopy
	torn   bool // the file ends inside the footer, and only zeros are missing
	// end is the end of the disk according to its partitions or file system. It is zero if they
	// do not determine it, or if there is a footer.
	end diskend.End
	// at is the offset for a new footer, or -1 if that is uncertain.
	at int64
}

// findLostFixed searches for a fixed disk in a file of size bytes that does not end with a
// footer. It returns nil unless the evidence is strong. It accepts either of these:
//
//   - a valid footer of a fixed disk whose current size is the offset of the footer. The
//     partitions or the file system on the disk must not extend past it.
//   - a file name of VHDs, and partitions or a file system that end near the end of the
//     file, or after it.
//
// A VHD that is stored inside the disk has another current size. A device has its footer in
// the last sector, and is never examined.
func findLostFixed(r io.ReaderAt, size int64) (*lostFixed, error) {
	if disk.IsDevice(r) || size < 2*footerSize {
		return nil, nil
	}
	if c, err := tornFixedFooter(r, size); c != nil || err != nil {
		return &lostFixed{size: size, footer: c, torn: true, at: -1}, err
	}
	end, ends := diskend.Find(r)
	c, err := misplacedFooter(r, size, end)
	if err != nil {
		return nil, err
	}
	if c != nil && (!ends || end.Off <= c.off) {
		return &lostFixed{size: size, footer: c, at: -1}, nil
	}
	// A footer that the partitions extend past is stale: the disk was enlarged since.
	if !ends || !namedVHD(r) || size-end.Off >= 2*footerSearch {
		return nil, nil
	}
	l := &lostFixed{size: size, end: end}
	l.at, err = l.placeForFooter(r)
	return l, err
}

// namedVHD reports whether a file has the name of a VHD.
func namedVHD(r io.ReaderAt) bool {
	f, ok := filesystem.NewHoleMap(r).File().(interface{ Name() string })
	return ok && slices.Contains([]string{".vhd", ".vpc"}, strings.ToLower(filepath.Ext(f.Name())))
}

// isFixedAt reports whether the footer ends a fixed disk that begins with the file.
func (c *footerCopy) isFixedAt() bool {
	return c.valid() && c.Type == Fixed && c.off > 0 && c.CurrentSize == uint64(c.off)
}

// tornFixedFooter returns the footer if only zeros at its end are missing, or nil.
func tornFixedFooter(r io.ReaderAt, size int64) (*footerCopy, error) {
	rest := size % SectorSize
	if rest == 0 || rest == shortFooterSize {
		return nil, nil
	}
	c, err := readFooterAt(r, size-rest, int(rest))
	if err != nil || !c.isFixedAt() {
		return nil, err
	}
	return &c, nil
}

// misplacedFooter searches for the footer of a fixed disk that begins with the file: at the
// end of the partitions or the file system, at the next whole MiB, and before the end of the
// file's data.
func misplacedFooter(r io.ReaderAt, size int64, end diskend.End) (*footerCopy, error) {
	for _, at := range []int64{roundUp(end.Off, SectorSize), roundUp(end.Off, 1<<20)} {
		if at == 0 || at > size-footerSize {
			continue
		}
		c, err := readFooterAt(r, at, footerSize)
		if err != nil {
			return nil, err
		}
		if c.isFixedAt() {
			return &c, nil
		}
	}
	stop, err := dataEnd(r, size)
	if err != nil {
		return nil, err
	}
	return fixedFooterBefore(r, stop)
}

// maxZerosSearched is the most zeros at the end of a file, in bytes, that are read to find the
// end of its data.
const maxZerosSearched = 16 << 20

// fixedFooterBefore returns the last footer before end that is isFixedAt, or nil. It searches
// the last MiB of what precedes zeros at the end.
func fixedFooterBefore(r io.ReaderAt, end int64) (*footerCopy, error) {
	buf := make([]byte, min(64<<10, roundUp(end, SectorSize)))
	end = end / SectorSize * SectorSize
	for least, inData := max(0, end-maxZerosSearched), false; end > least; {
		start := max(least, end-int64(len(buf)))
		b := buf[:end-start]
		if err := readFull(r, b, start); err != nil {
			return nil, err
		}
		if !inData && !allZero(b) {
			inData, least = true, max(0, end-footerSearch)
		}
		for n := len(b) - SectorSize; n >= 0; n -= SectorSize {
			if [8]byte(b[n:]) != footerCookie {
				continue
			}
			c := footerCopy{Footer: DecodeFooter((*[footerSize]byte)(b[n:])), off: start + int64(n), found: true}
			if c.isFixedAt() {
				return &c, nil
			}
		}
		end = start
	}
	return nil, nil
}

// dataEnd returns the end of the last run of data in a file, rounded up to a whole sector.
// Without holes it returns the end of the file.
func dataEnd(r io.ReaderAt, size int64) (int64, error) {
	// dataFrom returns the end of the first run of data at or after off; 0 if there is none.
	dataFrom := func(off int64) (int64, error) {
		m := filesystem.NewHoleMap(r)
		end, data, err := m.At(off, size)
		if err == nil && !data && end < size {
			end, data, err = m.At(end, size)
		}
		if !data {
			end = 0
		}
		return end, err
	}
	low, high := int64(0), max(0, size-footerSearch)
	last, err := dataFrom(high)
	if err != nil || last > 0 {
		return size, err
	}
	for low < high { // data follows low, or there is none, and none follows high
		middle := low + (high-low)/2
		end, err := dataFrom(middle)
		switch {
		case err != nil:
			return 0, err
		case end > 0:
			last, low = end, max(end, middle+1)
		default:
			high = middle
		}
	}
	return min(roundUp(last, SectorSize), size), nil
}

// placeForFooter returns the offset for a new footer, or -1 if that is uncertain. The offset is
// certain if the file holds everything that the disk's structures describe, and only zeros or
// less than a sector follow the disk.
func (l *lostFixed) placeForFooter(r io.ReaderAt) (int64, error) {
	rest := l.size - l.end.Off
	if rest < 0 || l.end.Off%SectorSize != 0 {
		return -1, nil
	}
	switch {
	case l.end.Exact && diskend.HasBackupGPT(r, l.end.Off):
	case !l.end.Exact && l.size%SectorSize == 0 && (rest == 0 || l.size%(1<<20) == 0):
		return l.size, nil // the space after the partitions is unused
	default:
		return -1, nil
	}
	zeros, err := zerosFrom(context.Background(), r, l.end.Off, l.size)
	if err != nil || !zeros && rest >= SectorSize {
		return -1, err
	}
	if !zeros { // it is a part of the lost footer
		b := make([]byte, min(rest, int64(len(footerCookie))))
		if err := readFull(r, b, l.end.Off); err != nil || !bytes.HasPrefix(footerCookie[:], b) {
			return -1, err
		}
	}
	return l.end.Off, nil
}

// zerosFrom reports whether [off, end) of a file holds only zeros.
func zerosFrom(ctx context.Context, r io.ReaderAt, off, end int64) (bool, error) {
	zeros := true
	whole := off + (end-off)/SectorSize*SectorSize
	err := scanData(ctx, r, filesystem.NewHoleMap(r), off, whole, func(b []byte, _ int64) bool {
		zeros = allZero(b)
		return zeros
	})
	if err != nil || !zeros || whole == end {
		return zeros, err
	}
	b := make([]byte, end-whole)
	err = readFull(r, b, whole)
	return allZero(b), err
}

// convertLost is the command that makes a disk of the whole file.
const convertLost = "'vhdtool convert -f raw -O vpc -o subformat=fixed,force_size FILE NEW.vhd'"

// finding returns the finding that the footer is missing or misplaced.
func (l *lostFixed) finding() finding {
	f := Finding{
		ID: "footer-missing", Severity: Error, Field: "footer of a fixed disk", Offset: l.end.Off, Got: "none",
		Want: fmt.Sprintf("one at offset %d, where %s ends", l.end.Off, l.end.By),
	}
	switch {
	case l.torn:
		f.ID, f.Offset = "footer-torn", l.footer.off
		f.Got, f.Want = fmt.Sprintf("%d bytes: the rest is lost", l.size-l.footer.off), fmt.Sprintf("%d bytes", footerSize)
		f.Note = "'vhdtool check -r all FILE' completes the footer"
	case l.footer != nil:
		f.ID, f.Offset, f.Bytes = "footer-misplaced", l.footer.off, l.size-l.footer.off-footerSize
		f.Got, f.Want = bytesText(f.Bytes)+" after it", "none: the file ends with the footer"
		f.Note = "'vhdtool check FILE' reports what follows the footer, and the next command"
	case l.end.Off > l.size:
		f.ID, f.Bytes = "disk-cut", l.end.Off-l.size
		f.Offset, f.Field = l.size, "end of the file"
		f.Got, f.Want = fmt.Sprintf("offset %d, and no footer", l.size), fmt.Sprintf("%d, where %s ends, and a footer after it", l.end.Off, l.end.By)
		f.Note = fmt.Sprintf("copy the file again from its source. Without it, 'truncate -s %d FILE' and then %s make an image with zeros for the lost bytes", l.end.Off, convertLost)
	case l.at >= 0:
		f.Want = fmt.Sprintf("one at offset %d: %s ends at %d", l.at, l.end.By, l.end.Off)
		f.Offset = l.at
		f.Note = "'vhdtool check -f vpc -r all FILE' writes a new footer"
	default:
		f.Note = convertLost + " makes an image of all of the file"
	}
	return finding{Finding: f}
}

// errLostFixed returns the error for a file that is no VHD. It mentions a fixed disk whose
// footer is not at the end, if the file holds one.
func errLostFixed(r io.ReaderAt, size int64) error {
	if l, err := findLostFixed(r, size); err == nil && l != nil {
		return l.finding().err()
	}
	return ErrNotVHD // the disk may be raw: unreadable sectors are no evidence
}

// identity returns the unique id that the disk has, or that its new footer will have, and the
// offset of that footer. The id of a new footer depends only on the disk's first sectors and
// its size. So an undo file can be made before the footer is.
func (l *lostFixed) identity(r io.ReaderAt) (Identity, error) {
	if l.footer != nil {
		return Identity{l.footer.UniqueID, [][2]int64{{l.footer.off, min(l.footer.off+footerSize, l.size)}}}, nil
	}
	id, err := l.newID(r)
	return Identity{UniqueID: id}, err
}

func (l *lostFixed) newID(r io.ReaderAt) (uuid.UUID, error) {
	if l.at < 0 {
		return uuid.Nil, ErrNotVHD
	}
	b := make([]byte, min(64<<10, l.at))
	if err := readFull(r, b, 0); err != nil {
		return uuid.Nil, err
	}
	return uuid.NewSHA1(uuid.Nil, fmt.Appendf(b, "%d", l.at)), nil
}

// newFooter returns a footer for a disk without one.
func (l *lostFixed) newFooter(r io.ReaderAt) (Footer, error) {
	id, err := l.newID(r)
	if err != nil {
		return Footer{}, err
	}
	o := CreateOptions{Type: Fixed, Size: l.at, Exact: true, UniqueID: id}
	f, _, err := o.metadata()
	return f, err
}

// checkLostFixed reports a fixed disk whose footer is not at the end of the file, or returns
// ErrNotVHD.
func (c *Checker) checkLostFixed() error {
	l, err := findLostFixed(c.r, c.size)
	if err != nil {
		return err
	}
	if l == nil {
		return ErrNotVHD
	}
	c.typ = Fixed
	f := l.finding()
	if l.footer != nil {
		c.id = l.footer.UniqueID
		c.n.Size, c.n.End = l.footer.off, l.footer.off+footerSize
		if err := c.add(l.footer.validate()...); err != nil {
			return err
		}
	}
	if l.at >= 0 {
		c.n.Size, c.n.End = l.at, l.at
		f.Remedy = "write a new footer"
	}
	if f.ID == "footer-misplaced" {
		zeros, err := zerosFrom(c.ctx, c.r, l.footer.off+footerSize, l.size)
		if err != nil {
			return err
		}
		end := l.footer.off + footerSize
		if zeros {
			f.Remedy = "cut off the zeros after it"
			f.Got = bytesText(f.Bytes) + " of zeros after it"
			f.Note = "'vhdtool check -r all FILE' cuts the zeros off. If the disk was to become larger, 'vhdtool resize FILE SIZE' enlarges it then"
		} else {
			f.Got = bytesText(f.Bytes) + " after it, which hold data"
			f.Note = fmt.Sprintf("'truncate -s %d FILE' keeps the disk without that data; %s makes an image of all of the file", end, convertLost)
		}
	}
	return c.add(f)
}

// lostFixed describes the damage of a fixed disk whose footer is not at the end of the file.
func (d *diagnosis) lostFixed() []string {
	switch {
	case d.has("footer-misplaced"):
		return []string{fmt.Sprintf("The file was enlarged or padded after it was complete: the footer is followed by %s.", bytesText(d.first["footer-misplaced"].Bytes))}
	case d.has("footer-torn"):
		return []string{"The end of the footer was cut off; the disk before it is complete."}
	case d.has("footer-missing"):
		return []string{"The footer is missing; the disk before it reaches its end."}
	case d.has("disk-cut"):
		return []string{fmt.Sprintf("The file was cut: %s of the disk are missing, and the footer.", bytesText(d.first["disk-cut"].Bytes))}
	}
	return nil
}

// lostFixed repairs a fixed disk whose footer is not at the end of the file, if the end of the
// disk is certain. After every step the disk can still be found.
func (r *repairer) lostFixed() error {
	l, err := findLostFixed(r.f, r.size)
	if err != nil || l == nil {
		return errors.Join(err, ErrBeyondRepair)
	}
	switch {
	case l.footer != nil && l.footer.SavedState != 0 && !r.o.Force:
		return ErrSavedState
	case l.torn:
		b := l.footer.Encode()
		if err := r.write(b[:], l.footer.off); err != nil {
			return err
		}
		r.did("footer-torn", l.footer.off, footerSize, "the footer got its last %d bytes, which are zeros", l.footer.off+footerSize-l.size)
		return nil
	case l.footer != nil:
		return r.cutAfterFooter(l.footer.off + footerSize)
	case l.at < 0:
		return nil
	}
	footer, err := l.newFooter(r.f)
	if err != nil {
		return err
	}
	b := footer.Encode()
	if err := r.write(b[:], l.at); err != nil {
		return err
	}
	r.did("footer-missing", l.at, footerSize, "a footer was written for the disk of %d bytes, with unique id %v", l.at, footer.UniqueID)
	return r.cutAfterFooter(l.at + footerSize)
}

// cutAfterFooter removes zeros after the footer, which ends at end.
func (r *repairer) cutAfterFooter(end int64) error {
	size := r.fileSize()
	zeros, err := zerosFrom(r.ctx, r.f, end, size)
	if err != nil || !zeros || size == end {
		return err
	}
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if err := r.f.Truncate(end); err != nil {
		return err
	}
	if err := r.f.Sync(); err != nil {
		return err
	}
	r.size = end
	r.did("footer-misplaced", end, size-end, "the file was cut after its footer: %d bytes of zeros followed", size-end)
	return nil
}
