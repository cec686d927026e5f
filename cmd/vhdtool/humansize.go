package main

import (
	"fmt"

	"github.com/dustin/go-humanize"
)

// humanSize returns n bytes scaled and exact, as in "8.0 MiB (8,405,504 bytes)";
// below 1 KiB the exact number alone. Lines that are qemu-img's use
// [sizearg.Format] instead.
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
