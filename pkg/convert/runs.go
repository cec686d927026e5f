package convert

import (
	"iter"
	"math"
	"os"

	"github.com/vhdtool/vhdtool/internal/sparse"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// zeroRun is a part of a disk up to end. zero says that it is known to be zero. If file is not
// nil, it stores the part from fileOff on.
type zeroRun struct {
	end     int64
	zero    bool
	skip    bool // excluded by Options.Only
	file    *os.File
	fileOff int64
}

// runCursor iterates over the zero runs of a disk.
type runCursor struct {
	zeroRun // the current one
	start   int64
	next    func() (zeroRun, error, bool)
	stop    func() // releases the cursor
}

func newRunCursor(d disk.Disk, want func(disk.Extent) bool) *runCursor {
	next, stop := iter.Pull2(zeroRuns(d, want))
	return &runCursor{next: next, stop: stop}
}

// seek advances to the run that contains off.
func (c *runCursor) seek(off int64) error {
	for c.end <= off {
		run, err, _ := c.next()
		if err != nil {
			return err
		}
		c.start, c.zeroRun = c.end, run
	}
	return nil
}

// zeroRuns splits a disk into parts that are known to be zero and others. An endless run of
// zeros follows the end of the disk. Extents that want returns false for are marked as skip; a
// nil want includes all.
//
// A disk in blocks reports an allocated block as data, even if most of it is a hole of the
// file. There zeroRuns also detects the holes. Other disks report their holes themselves.
func zeroRuns(d disk.Disk, want func(disk.Extent) bool) iter.Seq2[zeroRun, error] {
	return func(yield func(zeroRun, error) bool) {
		var holes *sparse.Map // kept from extent to extent: see there
		blocker, ok := d.(disk.Blocker)
		inBlocks := ok && blocker.BlockSize() != 0
		for e, err := range d.Extents(0, d.Size()) {
			if err != nil {
				yield(zeroRun{}, err)
				return
			}
			if want != nil && !want(e) {
				if !yield(zeroRun{end: e.End(), skip: true}, nil) {
					return
				}
				continue
			}
			if e.State != disk.Data || e.File == nil || !inBlocks {
				file, _ := e.File.(*os.File)
				if !yield(zeroRun{end: e.End(), zero: e.State != disk.Data, file: file, fileOff: e.FileOff}, nil) {
					return
				}
				continue
			}
			if holes == nil || holes.File() != e.File {
				holes = sparse.NewMap(e.File)
			}
			for x, err := range holes.Extents(e.FileOff-e.Off, e.Off, e.Len, disk.Unallocated) {
				file, _ := x.File.(*os.File)
				if !yield(zeroRun{end: x.End(), zero: x.State != disk.Data, file: file, fileOff: x.FileOff}, err) || err != nil {
					return
				}
			}
		}
		yield(zeroRun{end: math.MaxInt64, zero: true}, nil)
	}
}
