package qcow2

import (
	"os"

	"github.com/vhdtool/vhdtool/internal/filesystem"
)

// isPreallocated reports whether the file has far less storage than the image has clusters
// in use: they were preallocated, and holes of the file among them are zeros. The threshold
// is qemu's, and so is the map.
func (img *Image) isPreallocated() bool {
	f, ok := img.r.(*os.File)
	if !ok {
		return false
	}
	allocated, ok := filesystem.Allocated(f)
	if !ok {
		return false
	}
	clusters := allocated / img.clusterSize
	threshold := max(clusters*10/9, clusters+2)
	end := (img.length + img.clusterSize - 1) / img.clusterSize
	if threshold > end {
		return false
	}
	counts, err := readRefcountTable(img.r, img.length, &img.header)
	if err != nil {
		return false
	}
	used := int64(0)
	for k := int64(0); k < end; k++ {
		if off, valid := counts.blockOffset(k); off == 0 || !valid {
			k |= 1<<counts.perBlock() - 1 // on to the next block
			continue
		}
		n, ok, err := counts.of(k)
		if err != nil || !ok {
			return false
		}
		if n > 0 {
			used++
		}
		if used >= threshold {
			return true
		}
	}
	return false
}
