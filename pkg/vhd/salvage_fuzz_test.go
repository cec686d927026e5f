package vhd_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// FuzzSalvage opens any file with Salvage. The extents and the lost ranges agree with the
// reads, memory is proportional to the file, and an image without damage reads as usual. It
// also tries the file with one change and correct checksums.
func FuzzSalvage(f *testing.F) {
	for _, d := range append(dynamicDamages(4*kib), append(trailingMetadata(), fixedDamages()...)...) {
		f.Add(d.file, uint32(0), byte(0))
	}
	small := ordered(16, true).bytes()
	for _, at := range []uint32{0, 8, 60, 512, 540, 544, 1536, 1540, 1600} {
		f.Add(small, at, byte(1))
		f.Add(spoil(small, len(small)-512, 512), at, byte(1))
	}
	f.Add(differencingWithLocator(), uint32(1), byte(1))
	f.Fuzz(func(t *testing.T, file []byte, at uint32, with byte) {
		if len(file) > mib {
			return
		}
		salvageAny(t, file)
		if len(file) > 0 {
			b := slices.Clone(file)
			b[int(at)%len(b)] ^= with
			salvageAny(t, b)
			salvageAny(t, summed(b))
		}
	})
}

func salvageAny(t *testing.T, file []byte) {
	size := int64(len(file))
	var img *vhd.Image
	var err error
	took := allocated(func() {
		img, err = vhd.NewImage(bytes.NewReader(file), size, &vhd.OpenOptions{Salvage: true})
		if err == nil {
			img.Lost()
		}
	})
	if most := uint64(64*mib + 256*len(file)); took > most {
		t.Fatalf("salvage takes %d bytes for a file of %d", took, size)
	}
	plain, perr := vhd.NewImage(bytes.NewReader(file), size, nil)
	if err != nil {
		if perr == nil {
			t.Fatalf("Open opens what a salvage does not: %v", err)
		}
		return
	}
	got, lost := salvaged(t, img, mib)
	for range img.FileMap(size) {
	}
	if perr != nil {
		return
	}
	if plain.Size() != img.Size() || len(lost) > 0 {
		t.Fatalf("%d bytes, lost %+v; Open opens %d bytes", img.Size(), lost, plain.Size())
	}
	if b := head(t, plain); len(b) >= len(got) {
		sameBytes(t, "what Open reads", got, b[:len(got)])
	}
}
