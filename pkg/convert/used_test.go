package convert_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// TestUsedBlocks compares with the blocks that have anything but zeros, and with
// what Copy allocates.
func TestUsedBlocks(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		src := source(t)
		block := rapid.SampledFrom([]int64{4 << 10, 64 << 10, 512 << 10, 2 * mib, 16 * mib}).Draw(t, "block size")
		var want []int64
		i := int64(0)
		for b := range slices.Chunk(src.b, int(block)) {
			if !isZero(b) {
				want = append(want, i)
			}
			i++
		}
		got, err := convert.UsedBlocks(context.Background(), src, block, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %d, want %d", got, want)
		}
		if len(src.b) == 0 {
			return
		}
		img, err := vhd.Create(filepath.Join(dir, "disk.vhd"), &vhd.CreateOptions{Size: src.Size(), Exact: true, BlockSize: block})
		if err != nil {
			t.Fatal(err)
		}
		defer img.Discard()
		if err := convert.Copy(context.Background(), img, src, nil); err != nil {
			t.Fatal(err)
		}
		if _, allocated := img.BlockCounts(); allocated != int64(len(want)) {
			t.Fatalf("Copy allocates %d blocks, want %d", allocated, len(want))
		}
	})
}

// counting is a disk that counts the bytes that are read.
type counting struct {
	*memory
	read atomic.Int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.read.Add(int64(len(p)))
	return c.memory.ReadAt(p, off)
}

// TestUsedBlocksReads demands that of a block with data at its start little is
// read, and of one without data all.
func TestUsedBlocksReads(t *testing.T) {
	c := &counting{memory: plain(32 * mib)}
	if used, err := convert.UsedBlocks(context.Background(), c, 2*mib, nil); err != nil || len(used) != 16 {
		t.Fatalf("%d blocks, %v; want 16", len(used), err)
	}
	if n := c.read.Load(); n > 16*mib {
		t.Errorf("%d bytes read of %d", n, c.Size())
	}
	clear(c.b)
	c.b[len(c.b)-1] = 1
	if used, err := convert.UsedBlocks(context.Background(), c, 2*mib, nil); err != nil || !slices.Equal(used, []int64{15}) {
		t.Errorf("blocks %d, %v; want the last one", used, err)
	}
}

func TestUsedBlocksErrors(t *testing.T) {
	broken := errors.New("broken")
	src := plain(4 * mib)
	src.readErr = func(off, n int64) error {
		if off+n > 2*mib {
			return broken
		}
		return nil
	}
	var oe *convert.OpError
	if _, err := convert.UsedBlocks(context.Background(), src, 512<<10, nil); !errors.As(err, &oe) || !errors.Is(err, broken) || oe.Off != 2*mib {
		t.Errorf("got %v, want an OpError at %d", err, 2*mib)
	}
	if _, err := convert.UsedBlocks(context.Background(), &untold{memory: plain(4 * mib), err: broken}, 512<<10, nil); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	short := &shrunk{memory: plain(4 * mib), at: 3*mib + 700}
	clear(short.b[3*mib:])
	if _, err := convert.UsedBlocks(context.Background(), short, 512<<10, nil); !errors.As(err, &oe) || oe.Off != short.at {
		t.Errorf("got %v, want an OpError at %d", err, short.at)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := convert.UsedBlocks(ctx, plain(mib), 4096, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// TestUsedBlocksZeroDisk has nothing to find in a disk of written zeros.
func TestUsedBlocksZeroDisk(t *testing.T) {
	src := plain(3*mib + 512)
	clear(src.b)
	if used, err := convert.UsedBlocks(context.Background(), src, 2*mib, nil); err != nil || len(used) != 0 {
		t.Errorf("blocks %d, %v; want none", used, err)
	}
	if used, err := convert.UsedBlocks(context.Background(), plain(0), 2*mib, nil); err != nil || len(used) != 0 {
		t.Errorf("blocks %d, %v of a disk without size; want none", used, err)
	}
	src.b = bytes.Clone(src.b)
	src.b[3*mib+511] = 1
	if used, err := convert.UsedBlocks(context.Background(), src, 2*mib, nil); err != nil || !slices.Equal(used, []int64{1}) {
		t.Errorf("blocks %d, %v; want 1, which the disk has only a part of", used, err)
	}
}
