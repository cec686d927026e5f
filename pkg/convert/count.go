package convert

import (
	"context"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// CountBlocks counts the blocks of blockSize bytes, a power of two, that Copy
// would allocate for the disk: those with anything but zeros. Of each block it
// reads only as far as it must.
func CountBlocks(ctx context.Context, d disk.Disk, blockSize int64) (int64, error) {
	var count, off int64
	counted := int64(-1) // the last block that was
	buf := make([]byte, min(blockSize, 64<<10))
	for r, err := range zeroRuns(d) {
		if err != nil {
			return 0, &OpError{"reading", off, err}
		}
		end := min(r.end, d.Size())
		if r.zero {
			off = end
			continue
		}
		for off < end {
			block := off / blockSize
			if block == counted {
				off = min(end, (block+1)*blockSize)
				continue
			}
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			b := buf[:min(end-off, (block+1)*blockSize-off, int64(len(buf)))]
			if n, err := d.ReadAt(b, off); n < len(b) {
				return 0, &OpError{"reading", off + int64(n), err}
			}
			if !isZero(b) {
				counted = block
				count++
			}
			off += int64(len(b))
		}
	}
	return count, nil
}
