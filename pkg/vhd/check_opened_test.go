package vhd_test

import (
	"context"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// TestCheckOpened checks an open image. The check reports the findings and counts of its file, and
// does not read the BAT again.
func TestCheckOpened(t *testing.T) {
	image := craft{size: 64 * kib, blocks: []block{{entry: 1, sector: 8}, {entry: 3, sector: 20}}}
	leaky := craft{size: 64 * kib, blocks: []block{{entry: 1, sector: 80}}}
	withoutCopy := image.bytes()
	clear(withoutCopy[:sector])
	for name, file := range map[string][]byte{
		"intact": image.bytes(), "leaked space": leaky.bytes(), "leading footer lost": withoutCopy,
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemFile(file)
			img, err := vhd.NewImage(m, m.size(), nil)
			must(t, err)
			defer img.Close()
			batOff := int64(img.Header().TableOffset)
			examine := func(opened *vhd.Image) (findings []string, counts vhd.Counts, readsBAT bool) {
				m.reading = func(off int64, n int) { readsBAT = readsBAT || off == batOff }
				checker := vhd.NewChecker(m, m.size(), &vhd.CheckOptions{Opened: opened})
				for f, err := range checker.Findings(context.Background()) {
					must(t, err)
					findings = append(findings, f.String())
				}
				return findings, checker.Counts(), readsBAT
			}
			want, wantCounts, read := examine(nil)
			if !read {
				t.Fatal("the BAT of the file was not read")
			}
			got, counts, read := examine(img)
			if !slices.Equal(got, want) || counts != wantCounts {
				t.Errorf("findings %q, counts %+v; want %q, %+v", got, counts, want, wantCounts)
			}
			if read {
				t.Error("the BAT of the open image was read again")
			}
		})
	}
}
