package qcow2_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/internal/parentfile"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/qcow2"
)

// newChild creates an image of 64 KiB that only records its backing file.
func newChild(t *testing.T, name, backing, format string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := qcow2.Create(f, &qcow2.CreateOptions{Size: 64 << 10, BackingFile: backing, BackingFormat: format})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func newRaw(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append([]byte(text), make([]byte, 64<<10-len(text))...), 0o666); err != nil {
		t.Fatal(err)
	}
}

// TestTrust follows paths to parents in the image's directory and below it, and others only
// if the caller says so.
func TestTrust(t *testing.T) {
	dir := t.TempDir()
	images := filepath.Join(dir, "images")
	newRaw(t, filepath.Join(images, "base"), "beside")
	newRaw(t, filepath.Join(images, "sub", "base"), "below")
	newRaw(t, filepath.Join(dir, "base"), "above")
	if err := os.Symlink("../base", filepath.Join(images, "link")); err != nil {
		t.Fatal(err)
	}
	refused, notFound := parentfile.ErrRefused, os.ErrNotExist
	for _, c := range []struct {
		recorded string
		o        disk.ParentSearch
		want     string
		err      error
	}{
		{recorded: "base", want: "beside"},
		{recorded: "file:base", want: "beside"},
		{recorded: "sub/base", want: "below"},
		{recorded: filepath.Join(images, "base"), want: "beside"},
		{recorded: "../base", err: refused},
		{recorded: "link", err: refused},
		{recorded: filepath.Join(dir, "base"), err: refused},
		{recorded: "../base", o: disk.ParentSearch{Trust: true}, want: "above"},
		{recorded: "link", o: disk.ParentSearch{Trust: true}, want: "above"},
		{recorded: "/dev/zero", o: disk.ParentSearch{Trust: true}, err: parentfile.ErrSpecial},
		{recorded: "other", err: notFound},
		{recorded: "/elsewhere/base", err: notFound},
		{recorded: "/elsewhere/base", o: disk.ParentSearch{Dirs: []string{filepath.Join(images, "sub")}}, want: "below"},
		{recorded: "other", o: disk.ParentSearch{Files: []string{filepath.Join(dir, "base")}}, want: "above"},
		{recorded: "nbd://host/export", err: qcow2.ErrUnsupported},
		{recorded: "json:{}", err: qcow2.ErrUnsupported},
		{recorded: "child", err: qcow2.ErrParentLoop},
	} {
		child := filepath.Join(images, "child")
		format := "raw"
		if c.recorded == "child" {
			format = "qcow2"
		}
		newChild(t, child, c.recorded, format)
		img, err := qcow2.Open(child, &qcow2.OpenOptions{Parents: c.o})
		if c.err != nil {
			var pe *qcow2.ParentError
			if !errors.Is(err, c.err) || !errors.As(err, &pe) || !errors.Is(err, qcow2.ErrParentNotFound) {
				t.Errorf("%q, %+v: %v, want a ParentError with %v", c.recorded, c.o, err, c.err)
			}
			c.o.Partial = true
			if img, err = qcow2.Open(child, &qcow2.OpenOptions{Parents: c.o}); err != nil || !errors.Is(img.ParentErr(), c.err) {
				t.Errorf("%q, partial: %v", c.recorded, err)
				continue
			}
			if _, err := img.ReadAt(make([]byte, 512), 0); !errors.Is(err, qcow2.ErrNoParent) {
				t.Errorf("%q: a read without the parent: %v", c.recorded, err)
			}
			img.Close()
			continue
		}
		if err != nil {
			t.Errorf("%q, %+v: %v", c.recorded, c.o, err)
			continue
		}
		b := make([]byte, len(c.want))
		if _, err := img.ReadAt(b, 0); err != nil || string(b) != c.want {
			t.Errorf("%q, %+v: read %q, %v; want %q", c.recorded, c.o, b, err, c.want)
		}
		if path, ok := img.RecordedParent(); !ok || path != c.recorded || img.ParentErr() != nil || img.ParentPath() == "" {
			t.Errorf("recorded parent %q, opened %q, %v", path, img.ParentPath(), img.ParentErr())
		}
		img.Close()
	}
}

// TestParentLoop finds an image among its own parents.
func TestParentLoop(t *testing.T) {
	dir := t.TempDir()
	newChild(t, filepath.Join(dir, "a"), "b", "qcow2")
	newChild(t, filepath.Join(dir, "b"), "c", "")
	newChild(t, filepath.Join(dir, "c"), "a", "qcow2")
	_, err := qcow2.Open(filepath.Join(dir, "a"), nil)
	var pe *qcow2.ParentError
	if !errors.Is(err, qcow2.ErrParentLoop) || !errors.As(err, &pe) || len(pe.Opened) != 2 || pe.Recorded != "a" {
		t.Errorf("%v, %+v", err, pe)
	}
}

// TestUnknownParentFormat names a backing format that is not in the list.
func TestUnknownParentFormat(t *testing.T) {
	dir := t.TempDir()
	newRaw(t, filepath.Join(dir, "base"), "x")
	newChild(t, filepath.Join(dir, "child"), "base", "vmdk")
	if _, err := qcow2.Open(filepath.Join(dir, "child"), nil); !errors.Is(err, disk.ErrUnknownFormat) || !strings.Contains(err.Error(), "vmdk") {
		t.Errorf("%v, want an unknown format that is named", err)
	}
}

// TestDataFileTrust follows the path to the data file by the rules for parents.
func TestDataFileTrust(t *testing.T) {
	dir := t.TempDir()
	sub := filepath.Join(dir, "images")
	if err := os.Mkdir(sub, 0o777); err != nil {
		t.Fatal(err)
	}
	name := unpack(t, sub, "external.qcow2")
	moved := filepath.Join(dir, "external.data")
	if err := os.Rename(filepath.Join(sub, "external.data"), moved); err != nil {
		t.Fatal(err)
	}
	if _, err := qcow2.Open(name, nil); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "external.data") {
		t.Errorf("%v, want an error that names the file", err)
	}
	if err := os.Symlink(moved, filepath.Join(sub, "external.data")); err != nil {
		t.Fatal(err)
	}
	if _, err := qcow2.Open(name, nil); !errors.Is(err, parentfile.ErrRefused) {
		t.Errorf("%v, want a path that is not followed", err)
	}
	for _, o := range []qcow2.OpenOptions{{DataFile: moved}, {Parents: disk.ParentSearch{Trust: true}}, {Parents: disk.ParentSearch{Dirs: []string{dir}}}} {
		img, err := qcow2.Open(name, &o)
		if err != nil {
			t.Errorf("%+v: %v", o, err)
			continue
		}
		b := make([]byte, 2)
		if _, err := img.ReadAt(b, 0); err != nil || b[0] != 1 {
			t.Errorf("%+v: %v, %v", o, b, err)
		}
		img.Close()
	}
	img, err := qcow2.Open(name, &qcow2.OpenOptions{Parents: disk.ParentSearch{None: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if h := img.Header(); h.DataFile != "external.data" || !h.HasDataFile() {
		t.Errorf("header %+v", h)
	}
	if _, err := qcow2.Open(name, nil); err == nil {
		t.Error("a data file that is refused was opened")
	}
}
