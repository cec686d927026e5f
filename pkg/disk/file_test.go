package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// OpenFile reads the length after it has the lock. Bytes that another process appends before it
// unlocks the file are part of the file.
func TestLockedThenMeasured(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, make([]byte, 1000), 0o666); err != nil {
		t.Fatal(err)
	}
	var asked []bool
	lock := func(f *os.File, write bool) error {
		asked = append(asked, write)
		return os.Truncate(name, 2000)
	}
	f, size, err := disk.OpenFile(name, true, lock)
	if err != nil || size != 2000 || len(asked) != 1 || !asked[0] {
		t.Fatalf("%d bytes, %v, locked for writing %t; want 2000 and one lock for writing", size, err, asked)
	}
	defer f.Close()
	if size, err := disk.LockAndMeasure(f, false, nil); size != 2000 || err != nil {
		t.Errorf("without a lock: %d bytes, %v", size, err)
	}
	o := &disk.OpenOptions{Lock: func(f *os.File, write bool) error { return os.Truncate(name, 3000) }}
	d, _, err := disk.Open(name, formats, o)
	if err != nil || d.Size() != 3000 {
		t.Fatalf("Open: %v, %v; want 3000 bytes", d, err)
	}
	d.Close()
}

// A file whose lock fails is closed, and the error is returned unchanged.
func TestLockRefused(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, make([]byte, 1000), 0o666); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	var opened *os.File
	lock := func(f *os.File, write bool) error { opened = f; return refused }
	if f, size, err := disk.OpenFile(name, false, lock); f != nil || size != 0 || err != refused {
		t.Errorf("%v, %d, %v; want nil, 0 and the reason", f, size, err)
	}
	if _, err := opened.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is still open (%v)", err)
	}
	if d, _, err := disk.Open(name, formats, &disk.OpenOptions{Lock: lock}); d != nil || !errors.Is(err, refused) {
		t.Errorf("Open: %v, %v; want nil and the reason", d, err)
	}
}

// Open closes the file with the disk, and after an error.
func TestOpenCloses(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, []byte("MARK"), 0o666); err != nil {
		t.Fatal(err)
	}
	var opened *os.File
	o := &disk.OpenOptions{Lock: func(f *os.File, _ bool) error { opened = f; return nil }}
	d, _, err := disk.Open(name, formats, o)
	if err != nil {
		t.Fatal(err)
	}
	if o.Closer != nil {
		t.Error("the caller's options were changed")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := opened.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the disk is closed, and its file is not: %v", err)
	}
	o.Options = disk.Options{"refuse": "on"}
	if d, _, err := disk.Open(name, formats, o); d != nil || err == nil {
		t.Fatalf("%v, %v; want nil and an error", d, err)
	}
	if _, err := opened.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("opening failed, and the file is open: %v", err)
	}
	o.Format, o.Options, opened = "nobody's", nil, nil
	if _, _, err := disk.Open(name, formats, o); !errors.Is(err, disk.ErrUnknownFormat) || opened != nil {
		t.Errorf("%v, and the file was opened: %t; want ErrUnknownFormat before that", err, opened != nil)
	}
}
