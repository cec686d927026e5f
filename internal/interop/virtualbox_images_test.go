package interop

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/chain"
)

// vboxCreate has VirtualBox create an empty image of size bytes, of the variant Standard,
// which is dynamic, or Fixed.
func vboxCreate(t *testing.T, v *oracle.VirtualBox, image string, size int64, variant string) {
	t.Helper()
	v.Img(t, "createbase", "--filename", image, "--size", fmt.Sprint(size), "--format", "VHD", "--variant", variant)
}

// TestReadVirtualBox reads and checks images that VirtualBox has made of raw disks.
func TestReadVirtualBox(t *testing.T) {
	oracle.NeedVirtualBox(t)
	for name, source := range sources(t) {
		for _, variant := range []string{"Standard", "Fixed"} {
			t.Run(name+"/"+variant, func(t *testing.T) {
				t.Parallel()
				v := oracle.NeedVirtualBox(t)
				b, err := os.ReadFile(source)
				if err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				whole, image := filepath.Join(dir, "whole.raw"), filepath.Join(dir, "image.vhd")
				b = append(b, make([]byte, -len(b)&511)...)
				writeFile(t, whole, int64(len(b)), map[int64][]byte{0: b})
				v.Img(t, "convert", "--srcfilename", whole, "--srcformat", "RAW", "--dstfilename", image, "--dstformat", "VHD", "--variant", variant)
				readAlike(t, image, b)
			})
		}
	}
}

// TestChangeVirtualBoxFixed writes into and resizes a fixed image of VirtualBox, which
// reads it afterwards. TestPackedImagesStayPacked does the same to dynamic ones.
func TestChangeVirtualBoxFixed(t *testing.T) {
	v := oracle.NeedVirtualBox(t)
	image := filepath.Join(t.TempDir(), "image.vhd")
	vboxCreate(t, v, image, vboxSize, "Fixed")
	checkClean(t, image)
	m := make(model, vboxSize)
	for _, size := range []int64{vboxSize, 60 * mib, 20 * mib} {
		resize(t, image, size)
		m = append(m, make([]byte, max(0, size-int64(len(m))))...)[:size]
		ws := []write{{off: size - 700, n: 700, value: 1}, {off: 15 * mib, n: 3 * mib, value: 2}, {off: 16 * mib, n: mib, value: 0}}
		writeSessions(t, image, ws)
		m.apply(ws)
		checkClean(t, image)
		sameEverywhere(t, oracle.NeedVirtualBox(t), image, m)
	}
}

// TestCommitVirtualBoxChild changes a chain of VirtualBox: its child is written to, grown
// and committed, and VirtualBox still reads the child and compacts the parent. Both keep
// their ids, because VirtualBox refuses a registered disk that has another one.
func TestCommitVirtualBoxChild(t *testing.T) {
	for _, variant := range []string{"Standard", "Fixed"} {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			v := oracle.NeedVirtualBox(t)
			dir := t.TempDir()
			base, child := filepath.Join(dir, "base.vhd"), filepath.Join(dir, "child.vhd")
			vboxCreate(t, v, base, vboxSize, variant)
			writeSessions(t, base, scattered)
			m := make(model, vboxSize)
			m.apply(scattered)
			v.Manage(t, "createmedium", "disk", "--filename", child, "--diffparent", base, "--format", "VHD")
			checkClean(t, child)
			ws := []write{{off: 3*mib - 100, n: 5000, value: 41}, {off: 20 * mib, n: 7 * mib, value: 42}, {off: 30 * mib, n: mib, value: 0}}
			writeSessions(t, child, ws)
			m.apply(ws)
			sameEverywhere(t, v, child, m)

			if err := chain.Commit(context.Background(), child, &chain.CommitOptions{KeepID: true}); err != nil {
				t.Fatal(err)
			}
			checkClean(t, child)
			checkClean(t, base)
			sameEverywhere(t, v, child, m)
			sameEverywhere(t, v, base, m)

			resize(t, child, 50*mib)
			grown := append(m[:len(m):len(m)], make([]byte, 10*mib)...)
			ws = []write{{off: 45 * mib, n: 4 * mib, value: 43}}
			writeSessions(t, child, ws)
			grown.apply(ws)
			if err := chain.Commit(context.Background(), child, &chain.CommitOptions{KeepID: true}); err != nil {
				t.Fatal(err)
			}
			sameEverywhere(t, v, child, grown)
			if variant == "Standard" {
				compact(t, v, base)
			}
			sameEverywhere(t, v, base, grown)
		})
	}
}

// TestVirtualBoxChildReadByAll has chains of VirtualBox and of ours mixed: each side
// makes a child of the other's child.
func TestVirtualBoxChildReadByAll(t *testing.T) {
	v := oracle.NeedVirtualBox(t)
	dir := t.TempDir()
	name := func(level int) string { return filepath.Join(dir, fmt.Sprintf("%d.vhd", level)) }
	vboxCreate(t, v, name(0), vboxSize, "Standard")
	writeSessions(t, name(0), scattered)
	m := make(model, vboxSize)
	m.apply(scattered)
	register(t, v, name(0))
	r, _ := newRand(7)
	for level := 1; level < 5; level++ {
		ws := randomWrites(r, vboxSize, 6)
		if level%2 == 1 {
			m = createChild(t, name(level), name(level-1), 0, m, ws)
			register(t, v, name(level))
		} else {
			v.Manage(t, "createmedium", "disk", "--filename", name(level), "--diffparent", name(level-1), "--format", "VHD")
			writeSessions(t, name(level), ws)
			m.apply(ws)
		}
		checkClean(t, name(level))
		sameEverywhere(t, v, name(level), m)
	}
}

// TestVirtualBoxBeyond2040GiB reads, checks and changes dynamic images larger than
// Windows makes them. VirtualBox makes them, but opens only those with a BAT of less than
// 1,048,576 entries.
func TestVirtualBoxBeyond2040GiB(t *testing.T) {
	for _, c := range []struct {
		size  int64
		opens bool
	}{{2<<40 - 2*mib, true}, {3 << 40, false}} {
		t.Run(fmt.Sprint(c.size), func(t *testing.T) {
			v := oracle.NeedVirtualBox(t)
			image := filepath.Join(t.TempDir(), "image.vhd")
			vboxCreate(t, v, image, c.size, "Standard")
			if n := checkClean(t, image, "large-disk"); n.Size != c.size {
				t.Errorf("check: a disk of %d bytes, want %d", n.Size, c.size)
			}
			ws := []write{{off: c.size - 700, n: 700, value: 3}, {off: 1 << 40, n: 5000, value: 2}, {off: 0, n: 2 * mib, value: 1}, {off: 0, n: 2 * mib, value: 0}}
			writeSessions(t, image, ws)
			checkClean(t, image, "large-disk")
			if c.opens {
				compact(t, v, image)
				checkReadable(t, image)
			} else if out, code := v.TryImg(t, "info", "--filename", image); code == 0 {
				t.Errorf("VirtualBox opens it now: %s", out)
			}
			img, err := vhd.Open(image, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			if img.Size() != c.size {
				t.Errorf("a disk of %d bytes, want %d", img.Size(), c.size)
			}
			for _, w := range []write{ws[0], ws[1], ws[3]} {
				b, want := make([]byte, w.n), make(model, w.n)
				want.apply([]write{{n: w.n, value: w.value}})
				if n, _ := img.ReadAt(b, w.off); n != len(b) {
					t.Fatalf("read of %d bytes at %d: %d", w.n, w.off, n)
				}
				same(t, fmt.Sprintf("read at %d", w.off), b, want)
			}
		})
	}
}
