package vhd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/vhdtool/vhdtool/internal/diskend"
	"github.com/vhdtool/vhdtool/internal/filesystem"
)

// ErrTwoImages: the file holds two images, one after the other. A repair cannot know which one
// is wanted.
var ErrTwoImages = errors.New("the file holds two images, one after the other")

// twoImages is the finding that a second image starts at the offset start.
func (fs *footers) twoImages(start int64) finding {
	return finding{Finding: Finding{
		ID: "two-images", Severity: Error, Offset: start, Field: "end of the first image",
		Got:  fmt.Sprintf("its footer at offset %d, and another image, which ends with the footer at offset %d", start-footerSize, fs.trailing.off),
		Want: "the end of the file",
		Note: fmt.Sprintf("'head -c %d FILE > first.vhd' writes the first image, and 'tail -c +%d FILE > second.vhd' the second", start, start+1),
	}}
}

// secondImage returns the offset of the last image in the file, if another image ends there;
// else 0. It reads little, and so finds no image after a fixed disk whose end is unknown.
// searchSecondImage does.
func (fs *footers) secondImage(r io.ReaderAt) (int64, error) {
	t := &fs.trailing
	switch {
	case !t.valid():
		return 0, nil
	case t.Type == Fixed:
		if t.CurrentSize == 0 || t.CurrentSize >= uint64(t.off) {
			return 0, nil
		}
		start := t.off - int64(t.CurrentSize)
		ends, err := fs.endsImage(r, start)
		if !ends {
			start = 0
		}
		return start, err
	case fs.leading.valid() && fs.leading.Type != Fixed:
		if fs.leading.same(&t.Footer) {
			return 0, nil // imageCopy searches for a second one
		}
		end, err := fs.leading.imageEnd(r, t.off)
		if err != nil || end < 0 {
			return 0, err
		}
		return fs.startAfter(r, end)
	case fs.leading.marked():
		return 0, nil
	}
	end, ok := diskend.Find(r)
	if !ok {
		return 0, nil
	}
	for _, end := range []int64{roundUp(end.Off, SectorSize), roundUp(end.Off, 1<<20)} {
		if start, err := fs.startAfter(r, end); start > 0 || err != nil {
			return start, err
		}
	}
	return 0, nil
}

// endsImage reports whether an image that starts with the file ends at the offset end.
func (fs *footers) endsImage(r io.ReaderAt, end int64) (bool, error) {
	for end >= 2*footerSize {
		c, err := readFooterAt(r, end-footerSize, footerSize)
		if err != nil || !c.valid() {
			return false, err
		}
		if c.Type != Fixed {
			return fs.leading.valid() && fs.leading.same(&c.Footer), nil
		}
		if c.isFixedAt() {
			return true, nil
		}
		if c.CurrentSize == 0 || c.CurrentSize > uint64(c.off) {
			return false, nil
		}
		end = c.off - int64(c.CurrentSize) // another fixed disk may precede it
	}
	return false, nil
}

// startAfter returns the offset of a second image, or 0. Its copy of the footer must follow the
// footer of the first image, which is in use up to end.
func (fs *footers) startAfter(r io.ReaderAt, end int64) (int64, error) {
	const gap = 2 * dataAlign // padding before the footer
	for at := roundUp(end, SectorSize); at <= min(end+gap, fs.trailing.off-2*footerSize); at += SectorSize {
		starts, err := fs.startsAt(r, at+footerSize)
		if starts {
			return at + footerSize, err
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// startsAt reports whether a dynamic image starts at start. The range must start with a copy of
// the trailing footer that points to a header. It must directly follow a footer that ends the
// image before.
func (fs *footers) startsAt(r io.ReaderAt, start int64) (bool, error) {
	c, err := readFooterAt(r, start, footerSize)
	if err != nil || !c.valid() || !c.same(&fs.trailing.Footer) {
		return false, err
	}
	var cookie [8]byte
	if at := uint64(start) + c.DataOffset; c.DataOffset < footerSize || c.DataOffset > uint64(fs.trailing.off) || at > uint64(fs.trailing.off-headerSize) {
		return false, nil
	} else if err := readFull(r, cookie[:], int64(at)); err != nil || cookie != headerCookie {
		return false, err
	}
	return fs.endsImage(r, start)
}

// imageEnd returns the end of the metadata and blocks of a dynamic image, or -1 if its header
// is not valid.
func (c *footerCopy) imageEnd(r io.ReaderAt, limit int64) (int64, error) {
	h, found, err := readHeader(r, c, limit)
	if err != nil || refusal(found, false) != nil || len(h.validateTable(c.DataOffset, limit)) > 0 {
		return -1, err
	}
	lay := layoutOf(&c.Footer, &h, math.MaxInt64)
	t, err := readBAT(r, lay.batOff, blocksHeld(&c.Footer, &h, 0))
	if err != nil {
		return -1, err
	}
	end := max(lay.batEnd(), t.end(lay.stored()))
	for _, x := range h.locatorRegions(limit) {
		end = max(end, x.end)
	}
	return end, nil
}

// searchSecondImage is secondImage for a check. It reads the whole file if the trailing footer
// does not point to a dynamic disk header.
func (fs *footers) searchSecondImage(ctx context.Context, r io.ReaderAt) (int64, error) {
	start, err := fs.secondImage(r)
	t := &fs.trailing
	if start > 0 || err != nil || !t.valid() || t.Type == Fixed || fs.leading.marked() {
		return start, err
	}
	_, found, err := readHeader(r, t, t.off)
	if err != nil || refusal(found, true) == nil {
		return 0, err
	}
	var at []int64
	err = scanData(ctx, r, filesystem.NewHoleMap(r), SectorSize, t.off/SectorSize*SectorSize, func(b []byte, off int64) bool {
		for ; len(b) >= SectorSize; b, off = b[SectorSize:], off+SectorSize {
			if [8]byte(b) != footerCookie {
				continue
			}
			c := DecodeFooter((*[footerSize]byte)(b))
			if c.valid() && c.same(&t.Footer) {
				at = append(at, off)
			}
		}
		return len(at) < maxParts
	})
	for _, off := range at {
		if starts, serr := fs.startsAt(r, off); starts || serr != nil {
			return off, serr
		}
	}
	return 0, err
}

// imageCopy searches for a second image with the same footers, such as a copy of the first. f
// is the trailing footer. It returns the finding, or none.
func (l *layout) imageCopy(r io.ReaderAt, f *footerCopy, t bat) ([]finding, error) {
	end := max(l.metadataEnd(), t.end(l.stored()))
	if l.limit-end < headerSize {
		return nil, nil
	}
	fs := footers{trailing: *f, leading: *f}
	start, err := fs.startAfter(r, end)
	if err != nil || start == 0 {
		return nil, err
	}
	return []finding{fs.twoImages(start)}, nil
}

// maxParts is the most copies of a footer that are examined as the start of an image.
const maxParts = 64
