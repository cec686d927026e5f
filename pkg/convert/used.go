package convert

import (
	"context"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// UsedBlocks returns the blocks of blockSize bytes, a power of two, that Copy
// would allocate for the disk: those with anything but zeros. Of each block it
// reads only as far as it must. progress, if set, counts the bytes of the disk.
func UsedBlocks(ctx context.Context, d disk.Disk, blockSize int64, progress disk.Progress) ([]int64, error) {
	var used []int64
	var off int64
	report := func() {
		if progress != nil {
			progress(off, d.Size())
		}
	}
	buf := make([]byte, min(blockSize, 64<<10))
	for r, err := range zeroRuns(d, nil) {
		if err != nil {
			return nil, &OpError{"reading", off, err}
		}
		end := min(r.end, d.Size())
		if r.zero {
			off = end
			report()
			continue
		}
		for off < end {
			block := off / blockSize
			if n := len(used); n > 0 && used[n-1] == block {
				off = min(end, (block+1)*blockSize)
				report()
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			b := buf[:min(end-off, (block+1)*blockSize-off, int64(len(buf)))]
			if n, err := d.ReadAt(b, off); n < len(b) {
				return nil, &OpError{"reading", off + int64(n), err}
			}
			if !isZero(b) {
				used = append(used, block)
			}
			off += int64(len(b))
			report()
		}
	}
	return used, nil
}
