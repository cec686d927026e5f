package samples

import "testing"

// Layout has the offsets and lengths of a new dynamic image, in bytes.
type Layout struct {
	Size       int64 // of the disk
	BlockSize  int64
	DataAlign  int64 // alignment of the data of each block
	Entries    int64 // of the BAT
	BAT        int64 // length of the BAT, in whole sectors
	Bitmap     int64 // length of a sector bitmap, in whole sectors
	FirstData  int64 // offset of the data of the first block
	Stride     int64 // distance between the data of two blocks
	FullLength int64 // length of the file with all blocks allocated
}

// Layouts returns the vectors in testdata/vectors/layout.csv.
func Layouts(t testing.TB) []Layout {
	t.Helper()
	var all []Layout
	for _, r := range table(t, "vectors/layout.csv") {
		all = append(all, Layout{
			number(t, r["size"]), number(t, r["block_size"]), number(t, r["data_align"]), number(t, r["entries"]),
			number(t, r["bat"]), number(t, r["bitmap"]), number(t, r["first_data"]), number(t, r["stride"]), number(t, r["full_length"]),
		})
	}
	return all
}
