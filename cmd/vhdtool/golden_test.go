package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/vhdtool/vhdtool/internal/samples"
)

var updateGolden = flag.Bool("update-golden", false, "write the outputs in testdata/golden instead of comparing them")

// TestGoldenSamples compares the JSON of each sample image with testdata/golden. New keys and
// values are allowed. A changed line breaks scripts.
func TestGoldenSamples(t *testing.T) {
	dir := filepath.Join(samples.Dir(t), "golden")
	images := map[string]func(testing.TB) string{} // functions that unpack them, by name
	for _, s := range samples.Images(t) {
		images[s.Name] = func(t testing.TB) string { return samples.Unpack(t, s.Name) }
	}
	for _, d := range samples.Damages(t) {
		images["damage/"+d.Name] = d.Unpack
	}
	for name, unpack := range images {
		t.Run(name, func(t *testing.T) {
			image := unpack(t)
			t.Chdir(filepath.Dir(image)) // the outputs have the names as they were given
			compareGolden(t, filepath.Join(dir, filepath.FromSlash(name)+".txtar"), filepath.Base(image), strings.HasPrefix(name, "damage/"))
		})
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(files) != len(images) {
		t.Errorf("%d files in testdata/golden, %v; want %d, one for each image", len(files), err, len(images))
	}
}

// compareGolden runs the commands that print JSON on an image in the current directory, and
// compares the output with the file golden. For a damaged image it also compares a dry run and a
// repair.
func compareGolden(t *testing.T, golden, image string, damaged bool) {
	t.Helper()
	var made txtar.Archive
	run := func(args ...string) (out string, ok bool) {
		var stdout bytes.Buffer
		c := &cli{name: "vhdtool", stdin: os.Stdin, stdout: &stdout, stderr: io.Discard}
		status := c.execute(t.Context(), args)
		if err := validateJSON(schemaDir, args[0], stdout.Bytes()); err != nil {
			t.Errorf("the schema of %s does not allow its output: %v", args[0], err)
		}
		made.Files = append(made.Files, txtar.File{
			Name: fmt.Sprintf("%s: exit status %d", strings.Join(args, " "), status),
			Data: []byte(stable(stdout.String())),
		})
		return stdout.String(), status == 0
	}
	out, ok := run("info", "--output=json", "--backing-chain", image)
	run("check", "--output=json", image)
	// That of raw disks depends on the holes of the file system.
	if ok && strings.Contains(out, `"blocks"`) && !strings.Contains(out, `"format": "raw"`) {
		run("map", "--output=json", image)
	}
	if damaged {
		run("check", "-r", "all", "--dry-run", image)
		run("check", "-r", "all", "--dry-run", "--output=json", image)
		run("check", "-r", "all", image)
	}
	got := txtar.Format(&made)
	if *updateGolden {
		if err := os.MkdirAll(filepath.Dir(golden), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, got, 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the commands print\n%s\nwant\n%s\nif that is meant: go test ./cmd/vhdtool -run Golden -update-golden", got, want)
	}
}
