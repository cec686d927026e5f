// Package samples reads the shared test data in the top-level testdata directory: sample images
// by producer, damaged images, and vectors of geometry and layout. testdata/README.md describes
// who created each.
package samples

import (
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vhdtool/vhdtool/internal/decompress"
)

// Image is a sample image.
type Image struct {
	Name    string   // "PRODUCER/FILE", the argument of Unpack
	Size    int64    // of the disk, in bytes
	SHA256  string   // of the disk, in hexadecimal
	Parents []string // file names of the parents, nearest first
}

// Producer is the program that created the image, with its version.
func (i *Image) Producer() string { return path.Dir(i.Name) }

// Images returns the sample images of testdata/images/manifest.csv.
func Images(t testing.TB) []Image {
	t.Helper()
	var images []Image
	for _, r := range table(t, "images/manifest.csv") {
		i := Image{Name: r["image"], Size: number(t, r["size"]), SHA256: r["sha256"], Parents: strings.Fields(r["parents"])}
		images = append(images, i)
	}
	return images
}

// Unpack writes the sample image name and its parents to a new directory, and returns the path
// of the image. The directory is removed when the test ends.
func Unpack(t testing.TB, name string) string {
	t.Helper()
	dir := t.TempDir()
	for _, i := range Images(t) {
		if i.Name != name {
			continue
		}
		for _, file := range append([]string{path.Base(name)}, i.Parents...) {
			write(t, filepath.Join(dir, file), unpacked(t, "images/"+i.Producer()+"/"+file))
		}
		return filepath.Join(dir, path.Base(name))
	}
	t.Fatalf("testdata/images/manifest.csv has no image %q", name)
	return ""
}

// unpacked returns the contents of the file NAME.zst in testdata.
func unpacked(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join(Dir(t), name+".zst"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, _, err := decompress.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("%s: %v", f.Name(), err)
	}
	return content
}

// modified is the modification time of all unpacked samples. A child records the time of its
// parent.
var modified = time.Unix(1_700_000_000, 0)

func write(t testing.TB, name string, content []byte) {
	t.Helper()
	err := os.WriteFile(name, content, 0o666)
	if err == nil {
		err = os.Chtimes(name, modified, modified)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Dir returns the testdata directory at the top of the module. Tests run in the directory of
// their package, which is below it.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "testdata")
		}
		if dir == filepath.Dir(dir) {
			err = fmt.Errorf("no directory above has a go.mod")
		}
		dir = filepath.Dir(dir)
	}
	t.Fatal(err)
	return ""
}

// table reads a CSV file in testdata. Its first line has the names of the columns.
func table(t testing.TB, name string) []map[string]string {
	t.Helper()
	f, err := os.Open(filepath.Join(Dir(t), name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comment = '#'
	lines, err := r.ReadAll()
	if err != nil || len(lines) < 2 {
		t.Fatalf("%s: %d lines, %v; want a header and rows", f.Name(), len(lines), err)
	}
	var rows []map[string]string
	for _, line := range lines[1:] {
		row := map[string]string{}
		for i, column := range lines[0] {
			row[column] = line[i]
		}
		rows = append(rows, row)
	}
	return rows
}

// number parses an integer of a table.
func number(t testing.TB, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
