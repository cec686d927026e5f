package main

import (
	"fmt"
	"testing"

	"github.com/vhdtool/vhdtool/internal/samples"
)

// measure computes the lengths in the vectors: of fixed images by geometry, of dynamic ones by
// layout.
func TestMeasureVectors(t *testing.T) {
	t.Parallel()
	for _, g := range samples.Geometries(t) {
		for n := g.First; n <= g.Last; n++ {
			args := []string{"measure", "-O", "vpc", "-o", "subformat=fixed", "--size", fmt.Sprint(n * 512)}
			if g.QEMU == "" { // larger than a dynamic disk
				command(t, 1, "measure", "-O", "vpc", "--size", fmt.Sprint(n*512))
				continue
			}
			length := g.QEMUSectors*512 + 512
			want := fmt.Sprintf("required size: %d\nfully allocated size: %d\n", length, length)
			if got, _ := command(t, 0, args...); got != want {
				t.Errorf("%d sectors: %q, want %q", n, got, want)
			}
		}
	}
	for _, l := range samples.Layouts(t) {
		if l.DataAlign != 4096 { // the default
			continue
		}
		options := fmt.Sprintf("force_size,block_size=%d", l.BlockSize)
		got, _ := command(t, 0, "measure", "-O", "vpc", "-o", options, "--size", fmt.Sprint(l.Size))
		want := fmt.Sprintf("required size: %d\nfully allocated size: %d\n", 1536+l.BAT+512, l.FullLength)
		if got != want {
			t.Errorf("%+v: %q, want %q", l, got, want)
		}
	}
}
