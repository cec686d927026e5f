package samples

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

var updateDamage = flag.Bool("update-damage", false, "write the damaged images instead of comparing them")

// TestDamages makes each damaged image of its sample again, and compares it with the one
// in testdata/damage.
func TestDamages(t *testing.T) {
	dir := filepath.Join(Dir(t), "damage")
	wanted := map[string]bool{"recipes.csv": true}
	for _, d := range Damages(t) {
		made, err := d.Apply(unpacked(t, "images/"+d.From))
		if err != nil {
			t.Fatal(err)
		}
		wanted[d.Name+".zst"] = true
		if *updateDamage {
			e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, d.Name+".zst"), e.EncodeAll(made, nil))
			continue
		}
		if !bytes.Equal(unpacked(t, "damage/"+d.Name), made) {
			t.Errorf("%s is not what its recipe makes: go test ./internal/samples -update-damage", d.Name)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !wanted[f.Name()] {
			t.Errorf("recipes.csv does not name %s", f.Name())
		}
	}
}

// TestApply refuses edits that make no sense.
func TestApply(t *testing.T) {
	for edits, want := range map[string]string{
		"write 1 6162":     "0ab3",
		"write -1 61":      "012a",
		"fill 1 2 7a":      "0zz3",
		"copy 0 2 2":       "0101",
		"cut 3; append 61": "012a",
		"cut -4":           "",
		"grow 2":           "0123\x00\x00",
	} {
		d := Damage{Edits: edits}
		if got, err := d.Apply([]byte("0123")); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v; want %q", edits, got, err, want)
		}
	}
	for _, edits := range []string{"", "write", "write 5 61", "write 3 6162", "write 0 6", "fill 0 1", "cut -5", "grow -1", "seal 0", "erase 0"} {
		d := Damage{Edits: edits}
		if got, err := d.Apply([]byte("0123")); err == nil {
			t.Errorf("%q: %q, want an error", edits, got)
		}
	}
}
