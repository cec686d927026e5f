package main

import (
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// TestLostWithin cuts lost ranges to an extent.
func TestLostWithin(t *testing.T) {
	lost := []disk.LostRange{{Range: disk.Range{Off: 1024, N: 1024}}, {Range: disk.Range{Off: 4096, N: 512}}, {Range: disk.Range{Off: 8192, N: 512}}}
	for _, c := range []struct {
		off, n int64
		want   []disk.Range
	}{
		{0, 1024, nil},
		{0, 1536, []disk.Range{{Off: 1024, N: 512}}},
		{1536, 4096, []disk.Range{{Off: 1536, N: 512}, {Off: 4096, N: 512}}},
		{0, 1 << 20, []disk.Range{{Off: 1024, N: 1024}, {Off: 4096, N: 512}, {Off: 8192, N: 512}}},
		{8704, 512, nil},
	} {
		got := lostWithin(lost, c.off, c.n)
		if len(got) != len(c.want) {
			t.Errorf("%+v: got %v, want %v", c, got, c.want)
			continue
		}
		for i, r := range got {
			if r.Range != c.want[i] {
				t.Errorf("%+v: got %v, want %v", c, got, c.want)
			}
		}
	}
}
