package disk

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"sort"
)

// Concat joins several disks, one after the other, to one disk.
type Concat struct {
	disks  []Disk
	starts []int64 // offset of each disk, then the total size
}

// NewConcat returns the concatenation of the disks. Closing it closes them.
func NewConcat(disks ...Disk) *Concat {
	c := &Concat{disks: disks, starts: make([]int64, 1, len(disks)+1)}
	for i, d := range disks {
		c.starts = append(c.starts, c.starts[i]+d.Size())
	}
	return c
}

// Size is the sum of the sizes in bytes.
func (c *Concat) Size() int64 { return c.starts[len(c.disks)] }

// diskAt returns the index of the disk that contains off.
func (c *Concat) diskAt(off int64) int {
	return sort.Search(len(c.disks), func(i int) bool { return c.starts[i+1] > off })
}

// ReadAt implements [io.ReaderAt].
func (c *Concat) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	n := 0
	for i := c.diskAt(off); n < len(p); i++ {
		if i == len(c.disks) {
			return n, io.EOF
		}
		in := off + int64(n) - c.starts[i]
		piece := p[n:min(int64(len(p)), int64(n)+c.disks[i].Size()-in)]
		k, err := c.disks[i].ReadAt(piece, in)
		n += k
		if k < len(piece) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	return n, nil
}

// Extents implements [Disk].
func (c *Concat) Extents(off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		n, err := ClipRange(off, n, c.Size())
		if err != nil {
			yield(Extent{}, err)
			return
		}
		for end := off + n; off < end; {
			i := c.diskAt(off)
			stop := min(end, c.starts[i+1])
			for e, err := range c.disks[i].Extents(off-c.starts[i], stop-off) {
				e.Off += c.starts[i]
				if !yield(e, err) || err != nil {
					return
				}
			}
			off = stop
		}
	}
}

// Close closes all the disks.
func (c *Concat) Close() error {
	var errs []error
	for _, d := range c.disks {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}
