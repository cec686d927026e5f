package vhd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// The pieces of a split image are refused by name, by every call.
func TestSplitImage(t *testing.T) {
	whole := craft{size: 64 * kib, blocks: []block{{0, 4, nil, pattern(4*kib, 1)}}}.bytes()
	for name, c := range map[string]struct {
		files   map[string][]byte
		refused bool
	}{
		"x.vhd":   {map[string][]byte{"x.vhd": whole[:4096], "x.v01": whole[4096:]}, true},
		"x.v01":   {map[string][]byte{"x.vhd": whole[:4096], "x.v01": whole[4096:]}, true},
		"X.VHD":   {map[string][]byte{"X.VHD": whole[:4096], "X.V01": whole[4096:]}, true},
		"raw.vhd": {map[string][]byte{"raw.vhd": pattern(8*kib, 1), "raw.v01": pattern(512, 1)}, true},
		"w.vhd":   {map[string][]byte{"w.vhd": whole, "w.v01": pattern(512, 1)}, false},
		"y.vhd":   {map[string][]byte{"y.vhd": whole}, false},
		"y.v01":   {map[string][]byte{"y.v01": whole}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tree(t, dir, c.files)
			path := filepath.Join(dir, name)
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			defer f.Close()
			size := int64(len(c.files[name]))
			_, opened := vhd.NewImage(f, size, nil)
			probed := vhd.Probe(f, size)
			_, checked := checkImage(f, size, nil, func(vhd.Finding) {})
			_, mended := repaired(context.Background(), f, size, &vhd.RepairOptions{All: true})
			for what, err := range map[string]error{"open": opened, "probe": probed, "check": checked, "repair": mended} {
				refused := errors.Is(err, vhd.ErrUnsupported) && strings.Contains(err.Error(), "split")
				if refused != c.refused || !refused && err != nil {
					t.Errorf("%s: %v, want a refusal: %t", what, err, c.refused)
				}
				if errors.Is(err, disk.ErrNotThisFormat) {
					t.Errorf("%s: %v, and another format takes it", what, err)
				}
			}
			left, err := os.ReadFile(path)
			must(t, err)
			sameBytes(t, "the file", left, c.files[name])
		})
	}
}
