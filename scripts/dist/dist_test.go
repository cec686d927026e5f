package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"testing"
	"time"
)

var (
	sample = []entry{
		{"b/text", 0o644, []byte("text")},
		{"a/program", 0o755, bytes.Repeat([]byte("program"), 1000)},
	}
	sampleTime = time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)
)

// TestArchives: an archive has every file, sorted, with its mode and the common time. It does
// not depend on the order of its input.
func TestArchives(t *testing.T) {
	reversed := slices.Clone(sample)
	slices.Reverse(reversed)
	for name, write := range map[string]func(io.Writer, []entry, time.Time) error{"tar.gz": writeTarGz, "zip": writeZip} {
		t.Run(name, func(t *testing.T) {
			var one, two bytes.Buffer
			if err := errors.Join(write(&one, sample, sampleTime), write(&two, reversed, sampleTime)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(one.Bytes(), two.Bytes()) {
				t.Error("the archive depends on the order of the files")
			}
			read := readTarGz
			if name == "zip" {
				read = readZip
			}
			got := read(t, one.Bytes())
			if want := byName(sample); !slices.EqualFunc(got, want, same) {
				t.Errorf("the archive has %v, want %v", got, want)
			}
		})
	}
}

func same(a, b entry) bool {
	return a.name == b.name && a.mode == b.mode && bytes.Equal(a.content, b.content)
}

func readTarGz(t *testing.T, b []byte) (all []entry) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("gzip's header has time %v and name %q, want none", z.ModTime, z.Name)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || !h.ModTime.Equal(sampleTime) {
			t.Errorf("%s: owner %d %d %q %q, time %v", h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entry{h.Name, h.FileInfo().Mode(), content})
	}
}

func readZip(t *testing.T, b []byte) (all []entry) {
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		if !f.Modified.Equal(sampleTime) {
			t.Errorf("%s: time %v", f.Name, f.Modified)
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entry{f.Name, f.Mode(), content})
	}
	return all
}

func TestDebianVersion(t *testing.T) {
	for in, want := range map[string]string{
		"v1.2.3":                 "1.2.3",
		"1.2.3":                  "1.2.3",
		"v1.2.3-4-gabcdef0":      "1.2.3+4+gabcdef0",
		"v1.2.3-dirty":           "1.2.3+dirty",
		"abcdef0":                "0~abcdef0",
		"1234567":                "0~1234567",
		"78423f3-dirty":          "0~78423f3+dirty",
		"v1.0.0-rc.1-2-g1234567": "1.0.0~rc.1+2+g1234567",
	} {
		if got := debianVersion(in); got != want {
			t.Errorf("debianVersion(%q) = %q, want %q", in, got, want)
		}
	}
}
