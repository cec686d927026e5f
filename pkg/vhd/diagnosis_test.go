package vhd_test

import (
	"bytes"
	"context"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vhdtool/vhdtool/internal/samples"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

const (
	copyIsGood  = "The trailing footer is missing; the copy at the start is good."
	lostHeader  = "The dynamic disk header is not where the footer points: no block can be found without it."
	oddHeader   = "The dynamic disk header has fields that no reader accepts."
	noFooter    = "The trailing footer is missing, and no copy of it is good."
	lostBlock   = "Space for 1 block in the file holds data that no BAT entry points to: it may be lost blocks."
	shiftedRest = ", so everything after them is at a wrong offset. Copy the file again from its source, in binary mode."
)

// fileBytes is the content of a file.
func fileBytes(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

// diagnose checks the image and returns the diagnosis.
func diagnose(t testing.TB, file []byte) []string {
	t.Helper()
	c := vhd.NewChecker(bytes.NewReader(file), int64(len(file)), nil)
	for _, err := range c.Findings(context.Background()) {
		must(t, err)
	}
	return c.Diagnosis()
}

// TestDiagnosisOfDamages compares the diagnosis of each damaged image of testdata.
func TestDiagnosisOfDamages(t *testing.T) {
	want := map[string][]string{
		"trailing-footer-missing.vhd": {"The file was cut: 512 bytes are missing, and no block is affected.", copyIsGood},
		"trailing-footer-torn.vhd":    {"The file was cut: 300 bytes are missing, and no block is affected.", copyIsGood},
		"last-block-torn.vhd": {
			"The file was cut: 32.5 KiB (33,280 bytes) are missing; 1 of 112 blocks is affected: bytes 7274496 to 7340031 of the disk.", copyIsGood,
		},
		"leading-footer-zeros.vhd":   {"The copy of the footer at the start is damaged; the trailing footer is good. qemu and others read only the copy."},
		"footers-differ.vhd":         {"The copy of the footer at the start differs from the trailing footer. qemu and others read only the copy."},
		"unique-ids-differ.vhd":      {"The two copies of the footer belong to different images: part of this file was overwritten by another image."},
		"footer-checksum.vhd":        {"The footer is damaged: its checksum is wrong. A fixed disk has no copy of it."},
		"header-checksum.vhd":        {"The dynamic disk header is damaged: its checksum is wrong."},
		"header-cookie.vhd":          {lostHeader},
		"header-beyond-end.vhd":      {lostHeader},
		"header-and-footer-lost.vhd": {copyIsGood, lostHeader},
		"both-footers-zeros.vhd":     {noFooter},
		"both-footers-torn.vhd":      {"The file was cut: 512 bytes are missing, and no block is affected.", noFooter},
		"bat-sector-zeros.vhd": {
			"The BAT is damaged: 112 of 112 blocks are affected: bytes 0 to 7340031 of the disk.",
			"Space for 3 blocks in the file holds data that no BAT entry points to: it may be lost blocks.",
		},
		"bat-sector-garbage.vhd": {
			"The BAT is damaged: 112 of 112 blocks are affected: bytes 0 to 7340031 of the disk.",
			"Space for 4 blocks in the file holds data that no BAT entry points to: it may be lost blocks.",
		},
		"bat-entries-zeros.vhd":   {"The BAT is damaged: 2 of 4 blocks are affected: bytes 0 to 4194303 of the disk.", lostBlock},
		"bat-beyond-end.vhd":      {"The BAT is damaged: 1 of 4 blocks is affected: bytes 0 to 2097151 of the disk.", lostBlock},
		"bat-overlap.vhd":         {"The BAT is damaged: 2 of 4 blocks are affected: bytes 0 to 4194303 of the disk.", lostBlock},
		"block-leaked.vhd":        {lostBlock},
		"fixed-short.vhd":         {"The data of the disk was cut: 6.0 MiB (6,291,456 bytes) are missing before the footer."},
		"block-size-huge.vhd":     {oddHeader},
		"block-size-odd.vhd":      {oddHeader},
		"table-huge.vhd":          {oddHeader},
		"table-short.vhd":         {oddHeader, "Space for 3 blocks in the file holds data that no BAT entry points to: it may be lost blocks."},
		"disk-type-unknown.vhd":   {"The footer has fields that no reader accepts."},
		"footer-before-zeros.vhd": {"The file was enlarged or padded after it was complete: the footer is followed by 8.0 KiB (8,192 bytes)."},
		"footer-before-data.vhd":  {"The file was enlarged or padded after it was complete: the footer is followed by 4.0 KiB (4,096 bytes)."},
		"footer-torn.vhd":         {"The end of the footer was cut off; the disk before it is complete."},
		"two-images.vhd":          {"The file holds two images, one after the other: the second starts at offset 279,040."},
		"geometry-zero.vhd":       nil, // warnings
		"saved-state.vhd":         nil,
	}
	for _, d := range samples.Damages(t) {
		w, known := want[d.Name]
		if !known {
			t.Errorf("%s has no diagnosis in this test", d.Name)
			continue
		}
		t.Run(d.Name, func(t *testing.T) {
			if diff := cmp.Diff(w, diagnose(t, fileBytes(t, d.Unpack(t)))); diff != "" {
				t.Errorf("diagnosis (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDiagnosis covers damages that testdata does not have.
func TestDiagnosis(t *testing.T) {
	s := sampleOf(64 * kib)
	good := s.bytes()
	blocks := func(places map[int]uint32) []byte { return s.with(func(s *sample) { s.bat = places }).bytes() }
	for _, c := range []struct {
		name string
		file []byte
		want []string
	}{
		{"none", good, nil},
		{"bytes missing", slices.Delete(slices.Clone(good), 5000, 5007), []string{"Bytes are missing inside the file (7 bytes)" + shiftedRest}},
		{"bytes added", slices.Insert(slices.Clone(good), 5000, 1), []string{"Bytes were added inside the file (1 byte)" + shiftedRest}},
		{"footer overwritten", spoil(good, len(good)-512, 512), []string{copyIsGood}},
		{"both footers", spoil(spoil(good, 64, 4), len(good)-448, 4), []string{"The trailing footer is damaged, and no copy of it is good."}},
		{"impossible entry, footer cut", blocks(map[int]uint32{2: 1 << 30})[:len(good)-512], []string{
			copyIsGood, "The BAT is damaged: 1 of 10 blocks is affected: bytes 131072 to 196607 of the disk.",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, diagnose(t, c.file)); diff != "" {
				t.Errorf("diagnosis (-want +got):\n%s", diff)
			}
		})
	}
}
