package vhd

import (
	"cmp"
	"context"

	"github.com/vhdtool/vhdtool/internal/sparse"
)

// leaks returns space that nothing refers to to the file system.
func (r *repairer) leaks(img *Image) error {
	typ, before, err := r.check()
	if err != nil || before.Leaked == 0 || typ == Fixed {
		return err
	}
	if !img.bat.sane(&img.lay) {
		return nil // what is in use is not certain
	}
	if !r.o.Force {
		at, err := img.strangeFooter(r.ctx)
		if err != nil || at >= 0 {
			return err
		}
	}
	size := r.fileSize()
	if err := img.reclaim(); err != nil {
		return err
	}
	_, after, err := r.check()
	if n := before.Leaked - after.Leaked; err == nil && n > 0 {
		end := r.fileSize()
		r.did("leak", end, size-end, "space for %d blocks that nothing referred to was given back", n)
	}
	return err
}

// spaces yields the spaces [start, end) of the file that nothing refers to, as large
// as a block or larger.
func (img *Image) spaces(yield func(start, end int64) bool) {
	for _, g := range img.gaps() {
		if g[1]-g[0] >= img.lay.stored() && !yield(g[0], g[1]) {
			return
		}
	}
}

// strangeFooter looks for a footer in the space that nothing refers to, other
// than a stale one of this image: it may be that of another image. It returns
// where it is, or -1.
func (img *Image) strangeFooter(ctx context.Context) (int64, error) {
	found := int64(-1)
	holes := sparse.NewMap(img.r)
	for start, end := range img.spaces {
		err := scanData(ctx, img.r, holes, start, end, func(b []byte, off int64) bool {
			for ; len(b) >= footerSize; b, off = b[SectorSize:], off+SectorSize {
				f := DecodeFooter((*[footerSize]byte)(b))
				if f.valid() && f.UniqueID != img.footer.UniqueID {
					found = off
					return false
				}
			}
			return true
		})
		if err != nil || found >= 0 {
			return found, err
		}
	}
	return -1, nil
}

// orphans reports whether there is data in spaces that nothing refers to: what entries
// that are wrong now may have pointed to. A copy, whole or begun, of the first block
// that overlaps another is none: separate leaves it when it is cut short, for it
// copies one block after the other, and always in the same order.
func (img *Image) orphans(ctx context.Context) (bool, error) {
	stored := img.lay.stored()
	over := img.overlapping()
	holes := sparse.NewMap(img.r)
	for start, end := range img.spaces {
		for off := start; off < end; {
			at, err := img.dataFrom(ctx, holes, off, end)
			if err != nil {
				return false, err
			}
			if at < 0 {
				break
			}
			// Copies have the alignment of new blocks, one behind the other.
			place := roundUp(off+img.lay.bitmapSize, dataAlign) - img.lay.bitmapSize
			if each := img.lay.blockSize + roundUp(img.lay.bitmapSize, dataAlign); at >= place {
				place += (at - place) / each * each
			}
			if len(over) == 0 || at < place || place+stored > end {
				return true, nil
			}
			begun, err := img.holdsCopy(ctx, holes, place, over[0])
			if err != nil || !begun {
				return err == nil, err
			}
			off = place + stored
		}
	}
	return false, nil
}

// dataFrom returns the offset of the first sector in [off, end) of the file that is
// neither zero nor a footer of this image that others have followed, or -1.
func (img *Image) dataFrom(ctx context.Context, holes *sparse.Map, off, end int64) (int64, error) {
	found := int64(-1)
	footer := img.footer.Encode()
	err := scanData(ctx, img.r, holes, off, end, func(b []byte, off int64) bool {
		for ; len(b) >= SectorSize; b, off = b[SectorSize:], off+SectorSize {
			if s := [SectorSize]byte(b); s != [SectorSize]byte{} && s != footer {
				found = off
				return false
			}
		}
		return true
	})
	return found, err
}

// holdsCopy reports whether each sector of the block at byte place of the file is zero,
// or the same as that of the block given.
func (img *Image) holdsCopy(ctx context.Context, holes *sparse.Map, place, block int64) (bool, error) {
	from := int64(img.bat.load(block)) * SectorSize
	same := true
	var original []byte
	var failed error
	err := scanData(ctx, img.r, holes, place, place+img.lay.stored(), func(b []byte, off int64) bool {
		original = append(original[:0], b...)
		if failed = readFull(img.r, original, from+off-place); failed != nil {
			return false
		}
		for i := 0; i < len(b) && same; i += SectorSize {
			s := [SectorSize]byte(b[i:])
			same = s == [SectorSize]byte{} || s == [SectorSize]byte(original[i:])
		}
		return same
	})
	return same, cmp.Or(err, failed)
}
