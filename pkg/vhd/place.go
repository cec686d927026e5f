package vhd

import (
	"os"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Place implements [disk.Placer]. In a dynamic disk the range ends at the end of the block. In
// a block that is not fully written it returns no offset, because a writer would have to update
// the bitmap.
func (img *Image) Place(off, n int64) (f *os.File, fileOff, n0 int64) {
	f, ok := img.f.(*os.File)
	if !ok || img.writable(off, n) != nil {
		return nil, 0, 0
	}
	img.unsynced.Store(true)
	if !img.dynamic() {
		return f, off, n
	}
	block, in := off/img.lay.blockSize, off%img.lay.blockSize
	if block >= img.bat.len() {
		return nil, 0, 0
	}
	e := img.bat.load(block)
	if e == unused {
		return nil, 0, 0
	}
	if bm, err := img.bitmap(block, e); bm != nil || err != nil {
		return nil, 0, 0
	}
	return f, int64(e)*SectorSize + img.lay.bitmapSize + in, min(n, img.lay.blockSize-in)
}

var _ disk.Placer = (*Image)(nil)
