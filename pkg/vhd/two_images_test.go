package vhd_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// TestTwoImages joins two images, as cat does. Check and Open both name the offset at which the
// second starts, and the commands of the note extract each of them.
func TestTwoImages(t *testing.T) {
	child := differencingWithLocator()
	first := map[string][]byte{
		"fixed":             fixedImage(noise(300*kib, 1)),
		"fixed, GPT":        fixedImage(withGPT(noise(mib, 1), mib)),
		"dynamic":           craft{size: 64 * kib, blockSize: 4 * kib, blocks: []block{{1, 8, nil, noise(4*kib, 2)}, {0, 40, nil, noise(4*kib, 3)}}}.bytes(),
		"dynamic, no block": craft{size: 64 * kib, blockSize: 4 * kib}.bytes(),
		"differencing":      child,
	}
	second := map[string][]byte{
		"fixed":              fixedImage(noise(100*kib, 4), text(68, "0123456789abcdef")),
		"dynamic":            craft{size: 64 * kib, blockSize: 4 * kib, footer: []edit{text(68, "0123456789abcdef")}, blocks: []block{{1, 8, nil, noise(4*kib, 5)}}}.bytes(),
		"larger dynamic":     craft{size: 40 * mib, blockSize: 64 * kib, footer: []edit{text(68, "0123456789abcdef")}, blocks: []block{{1, 12, nil, noise(64*kib, 5)}}}.bytes(),
		"dynamic of same id": craft{size: 64 * kib, blockSize: 4 * kib, blocks: []block{{1, 8, nil, noise(4*kib, 5)}}}.bytes(),
		"two fixed":          slices.Concat(fixedImage(noise(100*kib, 6)), fixedImage(noise(50*kib, 7))),
	}
	for a, x := range first {
		for b, y := range second {
			t.Run(a+" and "+b, func(t *testing.T) {
				want := int64(len(x))
				if b == "two fixed" {
					want += 100*kib + sector
				}
				both := slices.Concat(x, y)
				found, _ := findings(t, both)
				if len(found) != 1 || found[0].ID != "two-images" || found[0].Offset != want {
					t.Fatalf("found %+v, want two-images at offset %d", found, want)
				}
				_, err := vhd.NewImage(newMemFile(both), int64(len(both)), nil)
				if !errors.Is(err, vhd.ErrCorrupt) {
					t.Errorf("NewImage: %v, want %v", err, vhd.ErrCorrupt)
				}
				if r, _ := repair(t, both, vhd.RepairOptions{All: true, DiscardOrphans: true}, vhd.ErrTwoImages); r.writes() > 0 {
					t.Error("the repair wrote to the file")
				}
				dir := t.TempDir()
				writeFile(t, filepath.Join(dir, "FILE"), both)
				for _, command := range commandsIn(found[0].Note) {
					cmd := exec.Command("sh", "-c", command)
					cmd.Dir = dir
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Fatalf("%s: %v: %s", command, err, out)
					}
				}
				for name, want := range map[string][]byte{"first.vhd": both[:want], "second.vhd": both[want:]} {
					got, err := os.ReadFile(filepath.Join(dir, name))
					must(t, err)
					sameBytes(t, name, got, want)
				}
			})
		}
	}
	for name, x := range first {
		t.Run("a copy of itself/"+name, func(t *testing.T) {
			both := slices.Concat(x, x)
			found, _ := findings(t, both)
			if len(found) == 0 || found[len(found)-1].ID != "two-images" || found[len(found)-1].Offset != int64(len(x)) {
				t.Errorf("found %+v, want two-images at offset %d", found, len(x))
			}
			if _, err := vhd.NewImage(newMemFile(both), int64(len(both)), &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}}); !errors.Is(err, vhd.ErrCorrupt) {
				t.Errorf("NewImage: %v, want %v", err, vhd.ErrCorrupt)
			}
		})
	}
}

// commandsIn returns the command lines that a note has in single quotes.
func commandsIn(note string) (all []string) {
	for i, part := range strings.Split(note, "'") {
		if i%2 == 1 {
			all = append(all, part)
		}
	}
	return all
}

// TestOneImage has single images that resemble two.
func TestOneImage(t *testing.T) {
	inner := fixedImage(noise(100*kib, 1))
	block0 := make([]byte, 256*kib)
	copy(block0[64*kib:], inner)
	nested := craft{size: mib, blockSize: 256 * kib, blocks: []block{{0, 8, nil, block0}}}.bytes()
	slack := fixedImage(slices.Concat(noise(50*kib, 2), noise(100*kib, 1)), currentSize(100*kib))
	for name, b := range map[string][]byte{
		"fixed": fixedImage(noise(mib, 1)), "a VHD inside a block": nested, "a VHD inside a fixed disk": fixedImage(slices.Concat(noise(50*kib, 2), inner, make([]byte, kib))),
		"a VHD at the end of a fixed disk": fixedImage(slices.Concat(noise(50*kib, 2), inner)), "more than the current size": slack,
	} {
		found, _ := findings(t, b)
		if slices.ContainsFunc(found, func(f vhd.Finding) bool { return f.ID == "two-images" }) {
			t.Errorf("%s: found %s", name, fmt.Sprint(found))
		}
		if _, err := vhd.NewImage(newMemFile(b), int64(len(b)), nil); err != nil {
			t.Errorf("%s: NewImage: %v", name, err)
		}
	}
}
