package vhd_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// A batmap that overlaps other structures is reported. Shrinking, emptying and repairing the
// image do not overwrite these structures.
func TestBatmapOverOthers(t *testing.T) {
	const blockSize = 4 * kib
	good := xenImage(craft{size: 20 * blockSize, blocks: []block{{3, 4, nil, pattern(blockSize, 1)}, {9, 13, nil, pattern(blockSize, 2)}}})
	const header = 2048 // offset of the batmap
	footer := len(good) - 512
	disk := readAll(t, openBytes(t, good, nil))
	for _, c := range []struct {
		over   string
		offset int
		sev    vhd.Severity
	}{
		{"the copy of the footer", 0, vhd.Error},
		{"the dynamic disk header", 512, vhd.Error},
		{"the dynamic disk header", 1024, vhd.Error},
		{"the BAT", 1536, vhd.Error},
		{"the batmap header", header, vhd.Error},
		{"block 3", 6 * sector, vhd.Error},
		{"not in the file", footer, vhd.Warning}, // over the trailing footer
	} {
		b := bytes.Clone(good)
		be.PutUint64(b[header+8:], uint64(c.offset))
		fs, _ := findings(t, b)
		if len(fs) != 1 || fs[0].ID != "batmap-place" || fs[0].Severity != c.sev || fs[0].Offset != header+8 || !strings.HasSuffix(fs[0].Got, c.over) {
			t.Errorf("map at %d: findings %v, want one of a map over %s", c.offset, fs, c.over)
		}
		for name, does := range map[string]struct {
			do   func(t *testing.T, m *memFile) error
			want []byte
		}{
			"write": {func(t *testing.T, m *memFile) error {
				img := openMem(t, m)
				write(t, img, disk, 0)
				return img.Close()
			}, disk},
			"make smaller": {func(t *testing.T, m *memFile) error {
				img := openMem(t, m)
				must(t, img.Resize(context.Background(), 5*blockSize, nil))
				return img.Close()
			}, disk[:5*blockSize]},
			"make larger": {func(t *testing.T, m *memFile) error {
				img := openMem(t, m)
				must(t, img.Resize(context.Background(), 1000*blockSize, nil))
				return img.Close()
			}, append(bytes.Clone(disk), make([]byte, 980*blockSize)...)},
			"empty": {func(t *testing.T, m *memFile) error {
				img := openMem(t, m)
				must(t, img.Empty(context.Background(), nil))
				return img.Close()
			}, make([]byte, len(disk))},
			"repair": {func(t *testing.T, m *memFile) error {
				return repairFile(m, &vhd.RepairOptions{All: true})
			}, disk},
		} {
			t.Run(c.over+"/"+name, func(t *testing.T) {
				m := newMemFile(b)
				must(t, does.do(t, m))
				noErrors(t, m.bytes(), "batmap-place")
				img := openBytes(t, m.bytes(), nil)
				sameBytes(t, "contents", readAll(t, img), does.want)
				if marker, ok := img.Marker(); marker != 7 || !ok {
					t.Errorf("marker %d, %t: the header of the map was overwritten", marker, ok)
				}
			})
		}
	}
}
