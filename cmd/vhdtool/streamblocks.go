package main

import (
	"context"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// streamedBlocks returns the blocks that a new image in a pipe stores: of its n blocks of blockSize
// bytes those with data of the disk, or all if co allocates them. It also returns the progress
// function for writing them. blockSize is 0 for an image without blocks.
func streamedBlocks(ctx context.Context, src disk.Disk, n, blockSize int64, co *convert.Options) (used []int64, writing disk.Progress, err error) {
	writing = co.Progress
	switch {
	case blockSize == 0:
	case co.Allocate:
		for b := range n {
			used = append(used, b)
		}
	default:
		reading := disk.Progress(nil)
		if co.Progress != nil {
			reading, writing = halves(src.Size(), co.Progress)
		}
		used, err = convert.UsedBlocks(ctx, src, blockSize, reading)
	}
	return used, writing, err
}
