package convert

import (
	"iter"
	"math"
	"os"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// zeroRun is a part of a disk up to end, and whether it is known to be zero. What
// is not stands in the file, from fileOff on, if there is one.
type zeroRun struct {
	end     int64
	zero    bool
	skip    bool // not wanted
	file    *os.File
	fileOff int64
}

// runCursor goes along the zero runs of a disk.
type runCursor struct {
	zeroRun // the one it is at
	start   int64
	next    func() (zeroRun, error, bool)
	stop    func() // ends the use of the cursor
}

func newRunCursor(d disk.Disk, want func(disk.Extent) bool) *runCursor {
	next, stop := iter.Pull2(zeroRuns(d, want))
	return &runCursor{next: next, stop: stop}
}

// seek goes on to the run that off is in.
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

// zeroRuns yields a disk in parts that are known to be zero, or not, and behind
// its end zeros without end. Of a disk in blocks it also looks for holes of the file
// under extents of data: a block may be allocated and still be mostly hole. Other
// disks tell of holes themselves. Parts that want says no to are marked; a nil want
// takes all.
func zeroRuns(d disk.Disk, want func(disk.Extent) bool) iter.Seq2[zeroRun, error] {
	return func(yield func(zeroRun, error) bool) {
		var holes *filesystem.HoleMap // kept from extent to extent: see there
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
				holes = filesystem.NewHoleMap(e.File)
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
