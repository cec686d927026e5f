package vhd

import (
	"bytes"
	"context"
	"fmt"
	"math"

	"github.com/vhdtool/vhdtool/internal/sparse"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Resize changes the virtual size in place; what the disk gains reads as zeros, and
// what it loses is gone. (Where the current size was larger than the geometry that
// gave the size, what stood between the two is gained as it is, unless ZeroBeyondSize
// is called before.) The size is rounded up to a whole sector, and further to the next
// geometry where the image's size is that of its geometry (creators "qemu" and "vpc ").
// The original size stays as it is. A new image, not yet complete, is sized as if it
// had been created so.
//
// Each step is durable before the next, in an order that a crash does not harm:
// afterwards the image has the old size or the new one. A differencing image is no
// smaller than its parent. (A fixed disk has no copy
// of its footer: if the file system makes the longer file durable before the
// footer at its end, the old footer must be looked for where it was.) Nothing else
// may use the image meanwhile.
func (img *Image) Resize(ctx context.Context, size int64, progress disk.Progress) error {
	if img.f == nil {
		return ErrReadOnly
	}
	if img.alloc.fresh {
		return img.resizeNew(size)
	}
	footer, err := img.resizedFooter(size)
	if err != nil {
		return err
	}
	if img.differencing() {
		if err := img.fitsParent(int64(footer.CurrentSize)); err != nil {
			return err
		}
	}
	if err := img.Sync(); err != nil {
		return err
	}
	if img.dynamic() {
		err = img.resizeDynamic(footer)
	} else {
		err = img.resizeFixed(footer)
	}
	return err
}

// ZeroBeyondSize zeroes, durably, what the file has of the disk behind its size:
// where the geometry is the size, the current size may span more, and Resize would
// show that.
func (img *Image) ZeroBeyondSize() error {
	if img.f == nil {
		return ErrReadOnly
	}
	n := int64(min(img.footer.CurrentSize, math.MaxInt64)) - img.size
	if img.dynamic() {
		n = min(n, img.bat.len()*img.lay.blockSize-img.size)
	}
	if n <= 0 {
		return nil
	}
	img.unsynced.Store(true)
	if err := img.zero(img.size, n); err != nil {
		return err
	}
	return img.Sync()
}

// allZero reports whether all bytes are zero.
func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// fitsParent checks that a differencing image can have that size: no less than its
// parent, and what it gains must not be the parent's.
func (img *Image) fitsParent(size int64) error {
	if img.parent == nil {
		return ErrNoParent
	}
	n := img.parent.Size()
	if size < n {
		return fmt.Errorf("disk of %d bytes: %w: smaller than its parent, which has %d", size, ErrUnsupported, n)
	}
	buf := make([]byte, 64<<10)
	for off := img.size; off < n && !img.inheritsZeros(off, n-off); off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), n-off)]
		if err := img.readInherited(buf, off); err != nil {
			return err
		}
		if !allZero(buf) {
			return fmt.Errorf("%w: making a disk larger over what its parent has behind it", ErrUnsupported)
		}
	}
	return nil
}

// resizedFooter is the footer that goes with a new size.
func (img *Image) resizedFooter(size int64) (Footer, error) {
	f := img.footer
	if err := checkSize(size); err != nil {
		return f, err
	}
	sectors := (size + SectorSize - 1) / SectorSize
	if SizeAuto.resolve(&f) == SizeFromGeometry {
		f.Geometry, sectors = RoundToGeometry(sectors)
	} else {
		f.Geometry = exactGeometry(sectors, f.Creator)
	}
	f.CurrentSize = uint64(sectors) * SectorSize
	return f, nil
}

// hiddenFrom is where bytes begin that no rule of size shows, and that become
// zeros when the disk grows over them.
func (img *Image) hiddenFrom() int64 { return max(img.size, int64(img.footer.CurrentSize)) }

func (img *Image) resizeFixed(f Footer) error {
	if disk.IsDevice(img.f) {
		return fmt.Errorf("%w: resizing a fixed disk on a device", ErrUnsupported)
	}
	if img.footerAt%SectorSize != 0 {
		return fmt.Errorf("%w: resizing a fixed disk whose file is not in whole sectors", ErrUnsupported)
	}
	a := &img.alloc
	if at := img.staleFooterAt - 1; at >= 0 { // an earlier try did not come so far
		if err := sparse.Zero(img.f, at, min(footerSize, img.size-at)); err != nil {
			return err
		}
		img.staleFooterAt = 0
	}
	old, end := img.footerAt, int64(f.CurrentSize)
	b := f.Encode()
	if hidden := img.hiddenFrom(); hidden < min(old, end) {
		if err := sparse.Zero(img.f, hidden, min(old, end)-hidden); err != nil {
			return err
		}
	}
	// The footer has no copy: the new one is durable before the old one goes.
	_, err := img.f.WriteAt(b[:], end)
	if err == nil {
		err = img.flush()
	}
	if err != nil {
		if end > old {
			_ = img.f.Truncate(img.alloc.length)
		}
		return fmt.Errorf("footer: %w", err)
	}
	img.footer, img.footerAt, img.size = f, end, end
	switch {
	case end > old: // its sector is the guest's now, and so is what followed it
		img.staleFooterAt = old + 1
		if err := sparse.Zero(img.f, old, min(max(img.alloc.length, old+footerSize), end)-old); err != nil {
			return err
		}
		img.staleFooterAt = 0
	case a.length > end+footerSize:
		if err := img.f.Truncate(end + footerSize); err != nil {
			return err
		}
	}
	img.alloc.length = end + footerSize
	return img.flush()
}

func (img *Image) resizeDynamic(f Footer) error {
	blocks := (int64(f.CurrentSize) + img.lay.blockSize - 1) / img.lay.blockSize
	if int64(f.CurrentSize) < img.size || blocks < img.bat.len() {
		return img.shrink(f, blocks)
	}
	if err := img.zeroHidden(int64(f.CurrentSize)); err != nil {
		return err
	}
	if blocks > img.bat.len() {
		if err := img.growBAT(blocks); err != nil {
			return err
		}
	}
	if err := img.writeFooters(f); err != nil {
		return err
	}
	img.size = int64(f.CurrentSize)
	return nil
}

// zeroHidden zeroes what the disk gains of a block that it has already.
func (img *Image) zeroHidden(size int64) error {
	hidden := img.hiddenFrom()
	block := hidden / img.lay.blockSize
	end := min(size, (block+1)*img.lay.blockSize)
	if hidden >= end || block >= img.bat.len() {
		return nil
	}
	if e := img.bat.load(block); e != unused {
		at := int64(e)*SectorSize + img.lay.bitmapSize + hidden%img.lay.blockSize
		if err := sparse.Zero(img.f, at, end-hidden); err != nil {
			return err
		}
		return img.flush()
	}
	return nil
}

// growBAT makes room for the entries of so many blocks, and marks the new ones
// as unused: behind the others where there is room, else in a new place at the
// end of the file.
func (img *Image) growBAT(blocks int64) error {
	n := img.bat.len()
	table := img.bat.resized(blocks)
	img.bitmaps.grow(blocks)
	a := &img.alloc
	room := img.roomForBAT()
	if end := img.lay.batOff + batBytes(blocks); room < batBytes(blocks) && img.lay.batOff+room == a.end {
		// Only the footer is in the way.
		if err := a.moveFooter(img, end); err != nil {
			return err
		}
		if err := img.flush(); err != nil {
			return err
		}
		a.end = end
		room = batBytes(blocks)
	}
	if batBytes(blocks) <= room {
		if err := table.writeTo(img.f, img.lay.batOff, n); err != nil {
			return err
		}
		if err := img.flush(); err != nil {
			return err
		}
		header := img.header
		header.MaxTableEntries = max(header.MaxTableEntries, uint32(blocks))
		if err := img.writeHeader(header); err != nil {
			return err
		}
		img.bat = table
		return nil
	}
	former := region{"former BAT", img.lay.batOff, img.lay.batEnd()}
	for _, r := range img.lay.batmap {
		if r.start == former.end {
			former.end = r.end
		}
	}
	before := img.bat
	img.bat = table
	if err := img.moveBATUp(); err != nil {
		img.bat = before
		return err
	}
	return img.refill(former)
}

// refill moves blocks into the place that the BAT has left, where it is large
// enough for them, and the BAT into theirs. Other space that nothing refers to is
// not for it to give back: if there is any, it does nothing.
func (img *Image) refill(former region) error {
	for _, g := range img.gaps() {
		if g[1]-g[0] >= img.lay.stored() && (g[0] > former.start || g[1] < former.end) {
			return nil
		}
	}
	return img.reclaim()
}

// roomForBAT is how many bytes the BAT can have where it stands.
func (img *Image) roomForBAT() int64 {
	end := img.alloc.end
	closer := func(start int64) {
		if start > img.lay.batOff && start < end {
			end = start
		}
	}
	for _, r := range img.lay.metadata() {
		closer(r.start)
	}
	for _, e := range img.bat.used() {
		closer(int64(e) * SectorSize)
	}
	return end - img.lay.batOff
}

// shrink cuts the disk to so many blocks: the footers first, then the entries
// that the disk has lost, and last the room their blocks took.
func (img *Image) shrink(f Footer, blocks int64) error {
	if err := img.writeFooters(f); err != nil {
		return err
	}
	img.size = int64(f.CurrentSize)
	if err := img.clearBatmap(blocks); err != nil {
		return err
	}
	var lost []int64
	for i := blocks; i < img.bat.len(); i++ {
		img.bat.store(i, unused)
		lost = append(lost, i)
	}
	if err := img.writeEntries(lost); err != nil {
		return err
	}
	if err := img.flush(); err != nil {
		return err
	}
	h := img.header
	if img.batmap == nil { // or else it would not follow the BAT any more
		h.MaxTableEntries = uint32(blocks)
	}
	if err := img.writeHeader(h); err != nil {
		return err
	}
	img.bat = img.bat.resized(blocks)
	img.bitmaps.forgetFrom(blocks)
	return img.reclaim()
}
