package main

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

func newTar(t *testing.T, files map[string][]byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"README", "./disk.raw"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFromTar(t *testing.T) {
	disk := make([]byte, 5<<20)
	copy(disk[3<<20:], "hello")
	archive := newTar(t, map[string][]byte{"README": []byte("text"), "./disk.raw": disk})
	dir := t.TempDir()
	name := filepath.Join(dir, "disk.vhd")
	if err := convertEntry(context.Background(), bytes.NewReader(archive), "disk.raw", name); err != nil {
		t.Fatal(err)
	}
	img, err := vhd.Open(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	got, err := io.ReadAll(io.NewSectionReader(img, 0, img.Size()))
	if err != nil || !bytes.Equal(got, disk) {
		t.Errorf("%d bytes (%v), which are not the %d of the disk", len(got), err, len(disk))
	}
}

// After an error there is no image.
func TestFromTarErrors(t *testing.T) {
	archive := newTar(t, map[string][]byte{"./disk.raw": make([]byte, 5<<20)})
	for _, c := range []struct {
		name    string
		archive []byte
		entry   string
	}{
		{"no such entry", archive, "other.raw"},
		{"cut short", archive[:3<<20], "disk.raw"},
	} {
		dir := t.TempDir()
		if err := convertEntry(context.Background(), bytes.NewReader(c.archive), c.entry, filepath.Join(dir, "disk.vhd")); err == nil {
			t.Errorf("%s: no error", c.name)
		}
		if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
			t.Errorf("%s: %v is left (%v)", c.name, left, err)
		}
	}
}
