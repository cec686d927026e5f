package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// The download is an image of the disk, and has the announced length.
func TestDownload(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	src, err := raw.Create(f, 20<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := src.WriteAt([]byte("hello"), 9<<20); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(handler(src))
	defer s.Close()
	resp, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	file, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Header.Get("Content-Length"); got != fmt.Sprint(len(file)) {
		t.Errorf("%s bytes announced, %d sent", got, len(file))
	}
	img, err := vhd.NewImage(bytes.NewReader(file), int64(len(file)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if off, err := convert.Compare(context.Background(), src, img, nil); off != -1 || err != nil {
		t.Errorf("the disks differ at %d (%v)", off, err)
	}
	if _, used := img.BlockCounts(); used != 1 {
		t.Errorf("%d blocks in use, want 1", used)
	}
}
