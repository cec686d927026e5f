package vhd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/internal/samples"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// A salvaged image cannot be written.
func TestSalvageRefusesWrite(t *testing.T) {
	m := newMemFile(craft{size: 8 * kib}.bytes())
	if img, err := vhd.NewImage(m, m.size(), &vhd.OpenOptions{Write: true, Salvage: true}); err == nil {
		t.Errorf("opened %v, want an error", img)
	}
}

// salvaged reads at most the first most bytes of the disk of a damaged image. It checks that
// the extents agree with the contents. The lost ranges must be in order, on the disk, and zeros
// unless they are doubtful.
func salvaged(t tb, img *vhd.Image, most int64) ([]byte, []disk.LostRange) {
	t.Helper()
	b := make([]byte, min(img.Size(), most))
	if n, err := img.ReadAt(b, 0); n != len(b) || err != nil && err != io.EOF {
		t.Fatalf("ReadAt of %d bytes: %d, %v", len(b), n, err)
	}
	at := int64(0)
	lost := img.Lost()
	for e, err := range img.Extents(0, int64(len(b))) {
		if err != nil || e.Off != at || e.Len <= 0 {
			t.Fatalf("extent %+v, %v; want one at %d", e, err, at)
		}
		at = e.End()
		want := make([]byte, e.Len)
		if e.State == disk.Data {
			if e.File == nil {
				t.Fatalf("extent %+v of data is in no file", e)
			}
			if n, err := e.File.ReadAt(want, e.FileOff); int64(n) != e.Len {
				t.Fatalf("extent %+v: %d, %v", e, n, err)
			}
			for _, x := range lost {
				if !x.Doubtful && x.Off < e.End() && x.Off+x.N > e.Off {
					t.Fatalf("extent %+v is data, and %+v is lost", e, x)
				}
			}
		}
		sameBytes(t, fmt.Sprintf("extent %+v", e), b[e.Off:e.End()], want)
	}
	if at != int64(len(b)) {
		t.Fatalf("the extents end at %d, want %d", at, len(b))
	}
	end := int64(0)
	for _, x := range lost {
		if x.N <= 0 || x.Off < end || x.Off+x.N > img.Size() || x.Reason == "" {
			t.Fatalf("lost range %+v after %d, on a disk of %d bytes: %+v", x, end, img.Size(), lost)
		}
		end = x.Off + x.N
		if !x.Doubtful && x.Off < int64(len(b)) {
			part := b[x.Off:min(end, int64(len(b)))]
			sameBytes(t, fmt.Sprintf("lost range %+v", x), part, make([]byte, len(part)))
		}
	}
	return b, lost
}

// agrees compares a salvaged disk with the original. Every byte that is not lost must be that
// of the original.
func agrees(t tb, img *vhd.Image, want []byte) []disk.LostRange {
	t.Helper()
	got, lost := salvaged(t, img, 64*mib)
	if len(got) < len(want) {
		t.Fatalf("the disk has %d bytes, want %d", len(got), len(want))
	}
	want = append(want, make([]byte, len(got)-len(want))...) // the size may be inexact
	for _, x := range lost {
		for _, b := range [][]byte{got, want} {
			clear(b[min(int64(len(b)), x.Off):min(int64(len(b)), x.Off+x.N)])
		}
	}
	sameBytes(t, "what is not lost", got, want)
	return lost
}

func lostBytes(lost []disk.LostRange, doubtful bool) (n int64) {
	for _, x := range lost {
		if x.Doubtful == doubtful {
			n += x.N
		}
	}
	return n
}

// Each damaged sample reads as the undamaged one, except for the listed lost ranges. An entry
// that became a valid unused one shows no damage.
func TestSalvageSamples(t *testing.T) {
	for _, d := range samples.Damages(t) {
		if d.Finding == "leak" {
			continue
		}
		t.Run(d.Name, func(t *testing.T) {
			original, err := vhd.Open(samples.Unpack(t, d.From), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer original.Close()
			want := readAll(t, original)
			img, err := vhd.Open(d.Unpack(t), &vhd.OpenOptions{Salvage: true})
			if errors.Is(err, vhd.ErrNotVHD) && (d.Finding == "footer-misplaced" || d.Finding == "footer-torn") {
				return // the disk is complete, and a repair restores the footer
			}
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			lost := agrees(t, img, want)
			t.Logf("%d bytes: %d lost, %d doubtful: %+v", img.Size(), lostBytes(lost, false), lostBytes(lost, true), lost)
		})
	}
}

// An intact image opens in the same way with Salvage, and nothing is lost.
func TestSalvageGoodImages(t *testing.T) {
	for _, i := range samples.Images(t) {
		if strings.HasSuffix(i.Name, ".raw") {
			continue
		}
		t.Run(i.Name, func(t *testing.T) {
			name := samples.Unpack(t, i.Name)
			plain, err := vhd.Open(name, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			img, err := vhd.Open(name, &vhd.OpenOptions{Salvage: true})
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			if lost := img.Lost(); len(lost) > 0 {
				t.Errorf("lost %+v of an image without damage", lost)
			}
			if img.Size() > 64*mib {
				return
			}
			got, _ := salvaged(t, img, 64*mib)
			sameBytes(t, "the disk", got, readAll(t, plain))
		})
	}
}

// Damages that are repaired can be salvaged, too.
func TestSalvageDamages(t *testing.T) {
	forDamages(t, func(t *testing.T, d *damage) {
		img, err := vhd.NewImage(bytes.NewReader(d.file), int64(len(d.file)), &vhd.OpenOptions{Salvage: true})
		if errors.Is(err, vhd.ErrNotVHD) || errors.Is(err, vhd.ErrCorrupt) && d.contents == nil {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		salvaged(t, img, 64*mib)
		plain, err := vhd.NewImage(bytes.NewReader(d.file), int64(len(d.file)), nil)
		if err != nil {
			return
		}
		if lost := agrees(t, img, readAll(t, plain)); len(lost) > 0 {
			t.Errorf("lost %+v of an image that can be opened", lost)
		}
	})
}
