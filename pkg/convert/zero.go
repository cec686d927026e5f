package convert

import "bytes"

var zeroPage [4096]byte

// isZero reports whether all of b is zero.
func isZero(b []byte) bool {
	for len(b) > len(zeroPage) {
		if !bytes.Equal(b[:len(zeroPage)], zeroPage[:]) {
			return false
		}
		b = b[len(zeroPage):]
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}

// run is the range [start, end) of a buffer.
type run struct{ start, end int64 }

// dataRuns returns the ranges of b that are not zeros. Only whole steps of zeros count. Steps
// are aligned on the disk, where b is at offset off.
func dataRuns(b []byte, off, step int64) []run {
	var runs []run
	for i := int64(0); i < int64(len(b)); {
		end := min(i+step-(off+i)%step, int64(len(b)))
		if !isZero(b[i:end]) {
			if n := len(runs); n > 0 && runs[n-1].end == i {
				runs[n-1].end = end
			} else {
				runs = append(runs, run{i, end})
			}
		}
		i = end
	}
	return runs
}
