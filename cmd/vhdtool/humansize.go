package main

import (
	"fmt"

	"github.com/dustin/go-humanize"
)

// humanSize returns n bytes scaled and exact, as in "8.0 MiB (8,405,504 bytes)". Below 1 KiB it is
// only the exact number. qemu-img's own lines use [sizearg.Format] instead.
func humanSize(n int64) string {
	exact := humanize.Comma(n) + " bytes"
	switch {
	case n == 1:
		return "1 byte"
	case n < humanize.KiByte:
		return exact
	}
	return fmt.Sprintf("%s (%s)", humanize.IBytes(uint64(n)), exact)
}
