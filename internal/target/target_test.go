package target

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// broken is an unreadable disk.
type broken struct{ disk.Disk }

var errBroken = errors.New("broken")

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errBroken }

func rawDisk(content []byte) disk.Disk {
	return raw.Open(bytes.NewReader(content), int64(len(content)))
}

func createRaw(size int64) func(disk.File) (disk.Disk, error) {
	return func(f disk.File) (disk.Disk, error) { return raw.Create(f, size) }
}

// When a child is created, an error of reading the parent names the parent, not the source.
func TestChildNamesParent(t *testing.T) {
	base := rawDisk(bytes.Repeat([]byte{1}, 1<<20))
	name := filepath.Join(t.TempDir(), "child.vhd")
	f, err := Create(name, &CreateOptions{}, func(f disk.File) (disk.Disk, error) {
		return vhd.CreateIn(f, &vhd.CreateOptions{Size: 1 << 20, Exact: true, Parent: base, ParentRecord: vhd.ParentRecord{Name: "base.raw"}})
	})
	if err != nil {
		t.Fatal(err)
	}
	child := &Child{File: f, Parent: source.Named(broken{base}, "base.raw")}
	src := source.Join([]*source.Source{{Name: "source.raw", Disk: source.Named(rawDisk(bytes.Repeat([]byte{2}, 1<<20)), "source.raw")}}, &source.Options{})
	err = child.Copy(t.Context(), src, &convert.Options{})
	var read *source.Error
	if !errors.As(err, &read) || read.Name != "base.raw" || !errors.Is(err, errBroken) {
		t.Errorf("got %v, want an error of reading base.raw", err)
	}
	child.Discard()
	if _, err := os.Stat(name); err == nil {
		t.Error("a discarded child was left")
	}
}

// Disks and streams are written at an offset of a new file, and of an existing image. Other bytes
// do not change.
func TestSeek(t *testing.T) {
	const seek = 1536
	part := bytes.Repeat([]byte("part"), 256)
	sources := map[string]func() *source.Source{
		"disk":   func() *source.Source { return &source.Source{Disk: rawDisk(part)} },
		"stream": func() *source.Source { return &source.Source{Stream: bytes.NewReader(part)} },
	}
	for kind, src := range sources {
		t.Run("new file from a "+kind, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "new")
			size := int64(seek + len(part))
			if kind == "stream" {
				size = 0
			}
			f, err := Create(name, &CreateOptions{}, createRaw(size))
			if err != nil {
				t.Fatal(err)
			}
			f.Seek = seek
			if err := f.Copy(t.Context(), src(), &convert.Options{}); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(name); err == nil {
				t.Error("the file has its name before Commit")
			}
			if err := f.Commit(false); err != nil {
				t.Fatal(err)
			}
			want := append(make([]byte, seek), part...)
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v; want zeros and the part", len(got), err)
			}
		})
		t.Run("existing from a "+kind, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "existing")
			want := bytes.Repeat([]byte("old "), 2048)
			if err := os.WriteFile(name, want, 0o666); err != nil {
				t.Fatal(err)
			}
			d, _, err := disk.Open(name, disk.Formats{&raw.Format}, &disk.OpenOptions{Write: true})
			if err != nil {
				t.Fatal(err)
			}
			e := &Existing{Disk: d, Seek: seek}
			if err := e.Copy(t.Context(), src(), &convert.Options{}); err != nil {
				t.Fatal(err)
			}
			if err := e.Commit(true); err != nil {
				t.Fatal(err)
			}
			copy(want[seek:], part)
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v; want the old ones around the part", len(got), err)
			}
		})
	}
}

// A stream that is too large is an error, and the image keeps its size.
func TestExistingTooSmall(t *testing.T) {
	name := filepath.Join(t.TempDir(), "existing")
	if err := os.WriteFile(name, make([]byte, 1024), 0o666); err != nil {
		t.Fatal(err)
	}
	d, _, err := disk.Open(name, disk.Formats{&raw.Format}, &disk.OpenOptions{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	e := &Existing{Disk: d, Seek: 512}
	if err := e.Copy(t.Context(), &source.Source{Stream: bytes.NewReader(make([]byte, 513))}, &convert.Options{}); err == nil {
		t.Error("513 bytes were written into 512")
	}
	e.Discard()
	if st, err := os.Stat(name); err != nil || st.Size() != 1024 {
		t.Errorf("%v, %v; want 1024 bytes", st, err)
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// A format that cannot be streamed from a stream is refused before any write.
func TestStream(t *testing.T) {
	var out bytes.Buffer
	refuse := errors.New("no")
	s := &Stream{W: nopCloser{&out}, End: func(io.Writer, int64) error { return refuse }}
	err := s.Copy(t.Context(), &source.Source{Stream: bytes.NewReader(make([]byte, 100))}, &convert.Options{})
	var se *StreamError
	if !errors.As(err, &se) || !errors.Is(err, refuse) || out.Len() > 0 {
		t.Errorf("got %v and %d bytes, want a StreamError and none", err, out.Len())
	}
	s = &Stream{W: nopCloser{&out}, End: func(w io.Writer, n int64) error {
		_, err := w.Write(make([]byte, 512-n%512))
		return err
	}}
	last := int64(0)
	o := &convert.Options{Progress: func(done, _ int64) { last = done }}
	if err := s.Copy(context.Background(), &source.Source{Stream: bytes.NewReader(make([]byte, 100))}, o); err != nil || out.Len() != 512 || s.Size() != 100 || last != 100 {
		t.Errorf("%d bytes, size %d, progress %d, %v; want 512, 100 and 100", out.Len(), s.Size(), last, err)
	}
}
