// Package ddrescue writes mapfiles of GNU ddrescue, which record the rescued parts of a disk. With
// one, ddrescue can read the missing parts from another source, and ddrescuelog can list them.
package ddrescue

import (
	"bufio"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// The statuses of a part of a disk.
const (
	finished = '+'
	nonTried = '?'
	bad      = '-'
)

// WriteMapfile writes the mapfile of a disk of size bytes. The lost ranges are in the order of the
// disk and do not overlap. Doubtful ranges have the status "non-tried", so that ddrescue reads them
// again. The others are "bad sectors".
func WriteMapfile(w io.Writer, size int64, lost []disk.LostRange) error {
	b := bufio.NewWriter(w)
	fmt.Fprint(b, "# Mapfile. Created by vhdtool\n# current_pos  current_status  current_pass\n")
	fmt.Fprintf(b, "0x%08X     %c               1\n#      pos        size  status\n", 0, finished)
	part := func(off, n int64, status rune) {
		if n > 0 {
			fmt.Fprintf(b, "0x%08X  0x%08X  %c\n", off, n, status)
		}
	}
	at := int64(0)
	for i := 0; i < len(lost); {
		r, status := lost[i].Range, statusOf(lost[i])
		// Ranges with different reasons can have one status.
		for i++; i < len(lost) && lost[i].Off == r.Off+r.N && statusOf(lost[i]) == status; i++ {
			r.N += lost[i].N
		}
		part(at, r.Off-at, finished)
		part(r.Off, r.N, status)
		at = r.Off + r.N
	}
	part(at, size-at, finished)
	return b.Flush()
}

func statusOf(r disk.LostRange) rune {
	if r.Doubtful {
		return nonTried
	}
	return bad
}
