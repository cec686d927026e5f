package interop

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// TestSameWrites does the same writes with the engine and with qemu-io, on copies of an image of
// qemu-img.
func TestSameWrites(t *testing.T) {
	oracle.Need(t, "qemu-img", "qemu-io")
	for _, options := range qemuOptions {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s/%d", options, seed), func(t *testing.T) {
				t.Parallel()
				r, _ := newRand(200 + seed)
				dir := t.TempDir()
				a, b := filepath.Join(dir, "ours.vhd"), filepath.Join(dir, "qemu.vhd")
				oracle.QemuImg(t, "create", "-q", "-f", "vpc", "-o", options, b, fmt.Sprint(1+r.Int64N(13*mib)))
				m := make(model, sizeTheirs(t, b))
				ws := randomWrites(r, int64(len(m)), 10)
				theirs(t, b, ws)
				m.apply(ws)
				copyFile(t, a, b)

				ws = randomWrites(r, int64(len(m)), 25)
				ours(t, a, ws)
				theirs(t, b, ws)
				m.apply(ws)
				checkClean(t, a)
				for name, image := range map[string]string{"our image": a, "qemu's image": b} {
					same(t, name+" read by us", readOurs(t, image), m)
					same(t, name+" read by qemu", readTheirs(t, image), m)
				}
			})
		}
	}
}

// TestTakeTurns writes to one image with the engine and qemu-io in turns.
func TestTakeTurns(t *testing.T) {
	makers := qemuMakers(t)
	for _, block := range []int64{4 * kib, 64 * kib, 512 * kib, 2 * mib, 16 * mib} {
		makers[fmt.Sprintf("ours/block=%d", block)] = ourMaker(vhd.CreateOptions{Exact: block != 64*kib, BlockSize: block, Creator: vhd.CreatorVirtualBox})
	}
	for name, make := range makers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			takeTurns(t, name, make)
		})
	}
}

func takeTurns(t *testing.T, name string, create maker) {
	image := filepath.Join(t.TempDir(), "image.vhd")
	r, _ := newRand(300 + uint64(len(name)))
	create(t, image, 5*mib+r.Int64N(3*mib))
	m := make(model, sizeTheirs(t, image))
	for turn := range 4 {
		ws := randomWrites(r, int64(len(m)), 1+r.IntN(12))
		who := "us"
		if turn%2 == 0 {
			ours(t, image, ws)
		} else {
			who = "qemu-io"
			theirs(t, image, ws)
		}
		m.apply(ws)
		checkClean(t, image)
		same(t, fmt.Sprintf("turn %d, by %s, read by us", turn, who), readOurs(t, image), m)
		same(t, fmt.Sprintf("turn %d, by %s, read by qemu", turn, who), readTheirs(t, image), m)
	}
}
