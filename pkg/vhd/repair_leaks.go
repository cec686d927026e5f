package vhd

import (
	"context"

	"github.com/vhdtool/vhdtool/internal/filesystem"
)

// leaks returns space that nothing refers to to the file system. While the size of the
// disk is in doubt nothing is returned: entries behind the disk's end may refer to it.
// Space that holds data is returned only if the caller saves it or gives it up.
func (r *repairer) leaks(img *Image) error {
	typ, before, err := r.check()
	if err != nil || before.Leaked == 0 || typ == Fixed {
		return err
	}
	if doubt, err := r.sizeInDoubt(img); err != nil || doubt {
		return err
	}
	if !r.o.DiscardOrphans {
		at, err := img.strangeFooter(r.ctx)
		if err != nil || at >= 0 {
			return err
		}
	}
	if !r.o.DiscardOrphans && !r.o.Saved {
		orphans, err := img.orphans(r.ctx, r.overlapped)
		if err != nil {
			return err
		}
		if orphans {
			return ErrOrphans
		}
	}
	if !img.bat.sane(&img.lay) {
		return nil // what is in use is not certain
	}
	size := r.fileSize()
	if err := img.reclaim(r.ctx, r.o.Progress); err != nil {
		return err
	}
	_, after, err := r.check()
	if n := before.Leaked - after.Leaked; err == nil && n > 0 {
		end := r.fileSize()
		r.did("leak", end, size-end, "space for %d blocks that nothing referred to was given back", n)
	}
	return err
}

// sizeInDoubt reports whether the disk may be larger than its footer says: BAT entries
// behind its end are in use, or the copies of the footer have different sizes.
func (r *repairer) sizeInDoubt(img *Image) (bool, error) {
	fs, err := locateFooters(r.f, r.fileSize())
	if err != nil {
		return false, err
	}
	if fs.leading.valid() && fs.trailing.valid() && fs.leading.CurrentSize != fs.trailing.CurrentSize {
		return true, nil
	}
	x, err := scanExcess(r.ctx, r.f, img.lay.batOff, img.bat.len(), int64(img.header.MaxTableEntries), nil)
	return x.used > 0, err
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
	holes := filesystem.NewHoleMap(img.r)
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
