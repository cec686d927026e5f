package vhd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// reclaimBatch is the number of bytes of blocks that are moved between two flushes. A batch has
// at least 16 blocks, so with large blocks it is larger.
const reclaimBatch = 32 << 20

// reclaim returns unused space to the file system. It moves blocks from the end of the file
// into gaps before them, then the BAT, and then truncates the file. The old copy of a block
// stays until its entry durably points to the new one. So a crash leaves an image that is
// intact, perhaps with leaks. When ctx ends, reclaim stops between two blocks. On a full disk
// (filling a gap that is a hole needs space) it returns less, without an error.
func (img *Image) reclaim(ctx context.Context, progress disk.Progress) error {
	if img.trailer.onDevice() {
		return nil
	}
	if err := img.moveBATDown(); err != nil {
		return err
	}
	if err := img.moveBlocksDown(ctx, progress); err != nil {
		return err
	}
	if err := img.closeGapBeforeBAT(); err != nil {
		return err
	}
	return img.cutFile()
}

// placedBlock is a block and its offset in the file.
type placedBlock struct{ block, start int64 }

// moveBlocksDown moves blocks from the end of the file into gaps.
func (img *Image) moveBlocksDown(ctx context.Context, progress disk.Progress) error {
	var blocks []placedBlock
	for i, e := range img.bat.used() {
		blocks = append(blocks, placedBlock{i, int64(e) * SectorSize})
	}
	slices.SortFunc(blocks, func(a, b placedBlock) int { return cmp.Compare(b.start, a.start) })
	free := img.freeSpace()
	batch := img.moveBatch()
	done, total := int64(0), img.bytesToMove(blocks)
	at, ok := free.next()
	for ok && len(blocks) > 0 && at < blocks[0].start {
		var moved []int64
		var entries []uint32
		for len(moved) < batch && ok && len(blocks) > 0 && at < blocks[0].start && ctx.Err() == nil {
			if err := img.copyBlock(at, blocks[0].start); errors.Is(err, syscall.ENOSPC) {
				ok = false
				break
			} else if err != nil {
				return fmt.Errorf("moving block %d: %w", blocks[0].block, err)
			}
			moved, entries = append(moved, blocks[0].block), append(entries, uint32(at/SectorSize))
			blocks = blocks[1:]
			at, ok = free.next()
			if done += img.lay.stored(); progress != nil {
				progress(done, max(done, total))
			}
		}
		if err := img.switchBlocks(moved, entries); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return interrupted{err}
		}
	}
	return nil
}

// moveBatch returns the number of blocks that are moved between two flushes.
func (img *Image) moveBatch() int { return max(16, int(reclaimBatch/img.lay.stored())) }

// switchBlocks points the entries of blocks to their copies, durably. entries has the new
// entries.
func (img *Image) switchBlocks(blocks []int64, entries []uint32) error {
	if err := img.flush(); err != nil || len(blocks) == 0 {
		return err
	}
	return img.state.change(func() error {
		for i, block := range blocks {
			img.bat.store(block, entries[i])
		}
		if err := img.writeEntries(blocks); err != nil {
			return err
		}
		if err := img.flush(); err != nil {
			return err
		}
		return img.retireSyncedFooter()
	})
}

// bytesToMove estimates the bytes that moveBlocksDown will move: those of blocks past the end
// that the blocks would have without gaps.
func (img *Image) bytesToMove(blocks []placedBlock) int64 {
	end := int64(len(blocks)) * img.lay.stored()
	for _, r := range img.lay.metadata() {
		end += r.end - r.start
	}
	n := int64(0)
	for _, b := range blocks {
		if b.start >= end {
			n += img.lay.stored()
		}
	}
	return n
}

// closeGapBeforeBAT moves the BAT down into a gap that blocks have left before it. If the BAT
// would overlap itself, it moves by way of the end of the file. Without space for that the gap
// stays.
func (img *Image) closeGapBeforeBAT() error {
	for _, g := range img.gaps() {
		if g[1] != img.lay.batOff || g[1]-g[0] < img.lay.stored() {
			continue
		}
		if g[1]-g[0] < img.tableBytes(img.bat.len()) {
			if err := img.moveBATUp(img.bat); err != nil {
				if img.state.usable() == nil {
					return nil
				}
				return err
			}
		}
		return img.moveBATDown()
	}
	return nil
}

// moveBATUp writes the table to the end of the file, and makes it the BAT. After an error the
// image has its former BAT, or has failed.
func (img *Image) moveBATUp(table bat) error {
	x, err := img.extend(roundUp(img.freeFrom(), dataAlign), img.tableBytes(table.len()))
	if err != nil {
		return err
	}
	m, err := img.copyBAT(table, x.start)
	if err != nil {
		return img.undoExtension(x, err)
	}
	return img.state.change(func() error {
		if err := img.switchBAT(table, x.start, m); err != nil {
			return err
		}
		return img.retireSyncedFooter()
	})
}

// gaps returns the unused ranges [start, end) of the file, in order.
func (img *Image) gaps() [][2]int64 {
	var gaps [][2]int64
	end := int64(0)
	used := func(start, stop int64) {
		// A wrong entry may point anywhere, and the file may end inside a sector.
		start = min(start, img.alloc.end, img.alloc.length/SectorSize*SectorSize)
		if start > end {
			gaps = append(gaps, [2]int64{end, start})
		}
		end = max(end, stop)
	}
	for start, stop := range img.bat.spans(&img.lay) {
		used(start, stop)
	}
	used(img.alloc.end, img.alloc.end)
	return gaps
}

// freeSpace yields the offsets in gaps at which blocks fit, from the start of the file on.
// Blocks are aligned, unless the gap is too small for that. In a packed file they end where the
// block after the gap starts.
type freeSpace struct {
	gaps [][2]int64
	lay  *layout
}

func (img *Image) freeSpace() freeSpace { return freeSpace{img.gaps(), &img.lay} }

// next returns the offset for the next block; ok is false if no gap is left.
func (s *freeSpace) next() (at int64, ok bool) {
	for ; len(s.gaps) > 0; s.gaps = s.gaps[1:] {
		g := &s.gaps[0]
		stored := s.lay.stored()
		if s.lay.packed() {
			g[0] += (g[1] - g[0]) % stored
		}
		at := s.lay.nextBlockOffset(g[0])
		if at+stored > g[1] {
			at = g[0]
		}
		if at+stored <= g[1] {
			g[0] = at + stored
			return at, true
		}
	}
	return 0, false
}

// moveBATDown moves the BAT into the first gap before it in which it fits.
func (img *Image) moveBATDown() error {
	n := img.tableBytes(img.bat.len())
	for _, g := range img.gaps() {
		if g[0] >= img.lay.batOff {
			break
		}
		if g[1]-g[0] >= n {
			m, err := img.copyBAT(img.bat, g[0])
			if err != nil {
				return err
			}
			return img.switchBAT(img.bat, g[0], m)
		}
	}
	return nil
}

// tableBytes returns the size in the file of a BAT for that many blocks, with XenServer's
// batmap, which must follow it.
func (img *Image) tableBytes(blocks int64) int64 {
	n := batBytes(blocks)
	if img.batmap != nil {
		n += img.batmap.space(blocks)
	}
	return n
}

// copyBAT writes a table to unused space, durably. XenServer's batmap moves with it.
func (img *Image) copyBAT(table bat, at int64) (*batmap, error) {
	if err := table.writeTo(img.f, at, 0); err != nil {
		return nil, err
	}
	m := img.batmap
	if m != nil {
		var err error
		if m, err = img.copyBatmap(at+batBytes(table.len()), table.len()); err != nil {
			return nil, err
		}
	}
	return m, img.flush()
}

// switchBAT makes the table at offset at the BAT, with one write of the header's first sector.
func (img *Image) switchBAT(table bat, at int64, m *batmap) error {
	header := img.header
	header.TableOffset = uint64(at)
	header.MaxTableEntries = uint32(table.len())
	if err := img.writeHeader(header); err != nil {
		return err
	}
	img.bat = table
	if m != nil {
		img.batmap, img.lay.batmap = m, m.ownRegions()
	}
	return nil
}

// copyBlock copies a stored block to unused space. Holes stay holes.
func (img *Image) copyBlock(to, from int64) error {
	stored := img.lay.stored()
	if err := filesystem.Zero(img.f, to, stored); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	holes := filesystem.NewHoleMap(img.r)
	for off := int64(0); off < stored; {
		end, data, err := holes.At(from+off, from+stored)
		if err != nil {
			return err
		}
		n := end - from - off
		if !data {
			off += n
			continue
		}
		n = min(n, int64(len(buf)))
		if err := readFull(img.r, buf[:n], from+off); err != nil {
			return err
		}
		if _, err := img.f.WriteAt(buf[:n], to+off); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// cutFile truncates the file after everything in use. If the disk is too full to write the
// footer there, the file keeps its end.
func (img *Image) cutFile() error {
	a := &img.alloc
	end := img.endOfUse()
	if img.trailer.onDevice() {
		a.end = end
		return nil
	}
	at := img.lay.footerOffset(end)
	if at+footerSize > a.footerAt { // the footers would overlap, to gain less than a sector
		return nil
	}
	// In a packed file with an aligned length the next block goes where blocks were before.
	if err := filesystem.Zero(img.f, end, at-end); err != nil {
		return err
	}
	footer := img.footer.Encode()
	if _, err := img.f.WriteAt(footer[:], at); errors.Is(err, syscall.ENOSPC) {
		return nil
	} else if err != nil {
		return fmt.Errorf("footer: %w", err)
	}
	if err := img.flush(); err != nil {
		return err
	}
	if err := img.f.Truncate(at + footerSize); err != nil {
		return err
	}
	a.end, a.footerAt, a.length, a.syncedFooterAt = end, at, at+footerSize, -1
	img.footerAt, img.trailer = at, trailerMoves
	return img.flush()
}

// Empty deallocates all blocks of an image. A dynamic disk then reads as zeros, and a
// differencing one as its parent. After a crash any of the blocks may remain. Nothing else may
// use the image meanwhile.
func (img *Image) Empty(ctx context.Context, progress disk.Progress) error {
	if err := img.state.inPlace("emptying"); err != nil {
		return err
	}
	if img.twoIDs {
		return ErrTwoIDs
	}
	if !img.dynamic() {
		return fmt.Errorf("emptying a %v disk: %w", img.footer.Type, ErrUnsupported)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := img.Sync(); err != nil {
		return err
	}
	return img.state.change(func() error {
		if err := img.clearBatmap(0); err != nil {
			return err
		}
		if err := img.dropBlocks(0); err != nil {
			return err
		}
		return img.reclaim(ctx, progress)
	})
}
