package source

import (
	"errors"
	"io/fs"
	"slices"
	"sync"
	"syscall"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Losses collects the ranges of a disk that could not be read. It is safe for concurrent
// use, and a nil *Losses is empty.
type Losses struct {
	images []lossyImage // images whose losses may grow during reads; set before the first read

	mu     sync.Mutex
	ranges []disk.LostRange // sorted, without overlaps, except for the last ones
	sorted int              // how many of them are in order
}

// lossyImage is a salvaged image whose disk starts at byte start.
type lossyImage struct {
	disk  disk.Salvaged
	start int64
}

// maxUnsorted bounds the ranges that are not merged yet.
const maxUnsorted = 4096

// add adds ranges of a disk whose byte 0 is at start.
func (l *Losses) add(start int64, ranges []disk.LostRange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range ranges {
		r.Off += start
		l.append(r)
	}
}

// addUnread adds a range that could not be read because of err.
func (l *Losses) addUnread(off, n int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.append(disk.LostRange{Range: disk.Range{Off: off, N: n}, Reason: reason(err)})
}

// append adds a range, and merges it where it continues the last one.
func (l *Losses) append(r disk.LostRange) {
	if n := len(l.ranges); n > 0 && sameKind(l.ranges[n-1], r) && end(l.ranges[n-1]) == r.Off {
		l.ranges[n-1].N += r.N
		return
	}
	l.ranges = append(l.ranges, r)
	if len(l.ranges)-l.sorted > maxUnsorted {
		l.merge()
	}
}

// end is the offset after a range.
func end(r disk.LostRange) int64 { return r.Off + r.N }

func sameKind(a, b disk.LostRange) bool { return a.Doubtful == b.Doubtful && a.Reason == b.Reason }

// merge sorts the ranges and joins neighbours. If two overlap, the one that starts first keeps the
// common part.
func (l *Losses) merge() {
	slices.SortStableFunc(l.ranges, func(a, b disk.LostRange) int {
		switch {
		case a.Off < b.Off:
			return -1
		case a.Off > b.Off:
			return 1
		}
		return 0
	})
	merged := l.ranges[:0:0]
	for _, r := range l.ranges {
		n := len(merged)
		if n == 0 || end(merged[n-1]) < r.Off {
			merged = append(merged, r)
			continue
		}
		last := &merged[n-1]
		if cut := end(*last) - r.Off; cut > 0 {
			r.Off, r.N = r.Off+cut, r.N-cut
		}
		switch {
		case r.N <= 0:
		case sameKind(*last, r):
			last.N += r.N
		default:
			merged = append(merged, r)
		}
	}
	l.ranges, l.sorted = merged, len(merged)
}

// Ranges returns the ranges lost so far, in the order of the disk, without overlaps. The caller
// owns the slice.
func (l *Losses) Ranges() []disk.LostRange {
	if l == nil {
		return nil
	}
	l.addKnown()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.merge()
	return slices.Clone(l.ranges)
}

// addKnown adds the losses that the images have detected so far.
func (l *Losses) addKnown() {
	for _, image := range l.images {
		l.add(image.start, image.disk.Lost())
	}
}

// MergeLost merges the lost ranges of two disks, in the form of Ranges.
func MergeLost(a, b []disk.LostRange) []disk.LostRange {
	var l Losses
	l.add(0, a)
	l.add(0, b)
	return l.Ranges()
}

// Contains reports whether the byte at off is lost. It must have been read before.
func (l *Losses) Contains(off int64) bool {
	if l == nil {
		return false
	}
	if l.has(off) {
		return true
	}
	l.addKnown() // reads may have detected more losses
	return l.has(off)
}

func (l *Losses) has(off int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sorted < len(l.ranges) {
		l.merge()
	}
	i, found := slices.BinarySearchFunc(l.ranges, off, func(r disk.LostRange, off int64) int {
		switch {
		case end(r) <= off:
			return -1
		case r.Off > off:
			return 1
		}
		return 0
	})
	return found && i < len(l.ranges)
}

// reason returns why a sector could not be read, without a file name.
func reason(err error) string {
	var number syscall.Errno
	var pe *fs.PathError
	var named *Error
	switch {
	case err == nil:
		return "unexpected end"
	case errors.As(err, &number):
		return number.Error()
	case errors.As(err, &pe):
		return pe.Err.Error()
	case errors.As(err, &named):
		return named.Err.Error()
	}
	return err.Error()
}
