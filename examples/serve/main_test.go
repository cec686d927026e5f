package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

func newImage(t *testing.T) *vhd.Image {
	name := filepath.Join(t.TempDir(), "disk.vhd")
	img, err := vhd.Create(name, &vhd.CreateOptions{Size: 3 << 20, Exact: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt([]byte("hello"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	if img, err = vhd.Open(name, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

// A client can request a part of the disk.
func TestServe(t *testing.T) {
	s := httptest.NewServer(handler(newImage(t)))
	defer s.Close()
	for _, c := range []struct {
		path, part string
		status     int
		want       string
	}{
		{"/disk.raw", "bytes=1048576-1048580", http.StatusPartialContent, "hello"},
		{"/disk.raw", "bytes=3145727-", http.StatusPartialContent, "\x00"},
		{"/other.raw", "bytes=0-1", http.StatusNotFound, "404 page not found\n"},
	} {
		req, err := http.NewRequest(http.MethodGet, s.URL+c.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Range", c.part)
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || string(body) != c.want {
			t.Errorf("%s, %s: status %d, %.20q, %v; want %d, %q", c.path, c.part, resp.StatusCode, body, err, c.status, c.want)
		}
	}
}

// The file meets the requirements of package fs.
func TestFile(t *testing.T) {
	img := newImage(t)
	f, err := diskFS{"disk.raw", img}.Open("disk.raw")
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil || st.Size() != img.Size() || st.IsDir() || st.Name() != "disk.raw" {
		t.Errorf("Stat: %v, %v", st, err)
	}
	want := make([]byte, img.Size())
	copy(want[1<<20:], "hello")
	if got, err := io.ReadAll(f); err != nil || string(got) != string(want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
