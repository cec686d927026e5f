package filesystem_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// fatFile behaves like a file on FAT through FUSE. Truncate cannot extend it, a write must not
// leave a gap, and its end cannot be read.
type fatFile struct {
	mu sync.Mutex
	b  []byte
}

func (f *fatFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off >= int64(len(f.b)) {
		return 0, syscall.EPERM
	}
	n := copy(p, f.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *fatFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off > int64(len(f.b)) {
		return 0, syscall.EPERM
	}
	n := copy(f.b[off:], p)
	f.b = append(f.b, p[n:]...)
	return len(p), nil
}

func (f *fatFile) Truncate(n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n > int64(len(f.b)) {
		return syscall.EPERM
	}
	f.b = f.b[:n]
	return nil
}

func (f *fatFile) Sync() error { return nil }

func (f *fatFile) Size() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int64(len(f.b)), nil
}

func TestSetLength(t *testing.T) {
	f := &fatFile{b: []byte("contents")}
	for _, n := range []int64{3, 10, 3 << 20, 3 << 20, 0} {
		kept := min(n, int64(len(f.b)))
		want := append(bytes.Clone(f.b[:kept]), make([]byte, n-kept)...)
		if err := filesystem.SetLength(f, n); err != nil || !bytes.Equal(f.b, want) {
			t.Errorf("SetLength(%d): %v, %d bytes, want %d", n, err, len(f.b), n)
		}
	}
	broken := &brokenFile{fatFile{b: make([]byte, 5)}}
	if err := filesystem.SetLength(broken, 9); !errors.Is(err, syscall.EIO) || len(broken.b) != 5 {
		t.Errorf("a failing disk: %v, %d bytes", err, len(broken.b))
	}
}

// brokenFile is a file whose disk fails.
type brokenFile struct{ fatFile }

func (f *brokenFile) Truncate(int64) error { return syscall.EIO }

// TestImagesOnFAT creates images in files that Truncate cannot extend. They equal those in other
// files, byte for byte.
func TestImagesOnFAT(t *testing.T) {
	contents := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(contents[3<<20 : 4<<20])
	source := raw.Open(bytes.NewReader(contents), int64(len(contents)))
	ordinary := func() disk.File { return &memoryFile{} }
	fat := func() disk.File { return filesystem.NewDense(&fatFile{}) }
	o := vhd.CreateOptions{Size: int64(len(contents)), Exact: true, BlockSize: 64 << 10}
	fixed := o
	fixed.Type, fixed.BlockSize = vhd.Fixed, 0
	for name, create := range map[string]func(f disk.File) (convert.Target, error){
		"raw":     func(f disk.File) (convert.Target, error) { return raw.Create(f, int64(len(contents))) },
		"dynamic": func(f disk.File) (convert.Target, error) { return vhd.CreateIn(f, &o) },
		"fixed":   func(f disk.File) (convert.Target, error) { return vhd.CreateIn(f, &fixed) },
	} {
		var got [2][]byte
		for i, storage := range []func() disk.File{ordinary, fat} {
			f := storage()
			d, err := create(f)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := convert.Copy(context.Background(), d, source, nil); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := d.Close(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			n, err := disk.FileSize(f)
			if err != nil {
				t.Fatal(err)
			}
			got[i] = make([]byte, n)
			if _, err := f.ReadAt(got[i], 0); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		// The unique ids are random.
		if len(got[0]) != len(got[1]) || name == "raw" && !bytes.Equal(got[0], got[1]) {
			t.Errorf("%s: files of %d and %d bytes differ", name, len(got[0]), len(got[1]))
		}
		if name == "raw" {
			continue
		}
		img, err := vhd.NewImage(bytes.NewReader(got[1]), int64(len(got[1])), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if at, err := convert.Compare(context.Background(), img, source, nil); at >= 0 || err != nil {
			t.Errorf("%s: the disks differ at %d, %v", name, at, err)
		}
	}
}

// memoryFile is an ordinary file.
type memoryFile struct{ fatFile }

func (f *memoryFile) WriteAt(p []byte, off int64) (int, error) {
	if n, _ := f.Size(); off > n {
		_ = f.Truncate(off)
	}
	return f.fatFile.WriteAt(p, off)
}

func (f *memoryFile) Truncate(n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n > int64(len(f.b)) {
		f.b = append(f.b, make([]byte, n-int64(len(f.b)))...)
	}
	f.b = f.b[:n]
	return nil
}

// Concurrent writes past the end leave no gap, and reads end at the end.
func TestDense(t *testing.T) {
	file := &fatFile{}
	f := filesystem.NewDense(file)
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			if _, err := f.WriteAt([]byte{byte(i + 1)}, int64(i*1000)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	want := make([]byte, 63*1000+1)
	for i := range 64 {
		want[i*1000] = byte(i + 1)
	}
	if !bytes.Equal(file.b, want) {
		t.Errorf("%d bytes that are not those written", len(file.b))
	}
	p := make([]byte, 10)
	if n, err := f.ReadAt(p, int64(len(want))-3); n != 3 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %d bytes, %v", n, err)
	}
	if n, err := f.ReadAt(p, int64(len(want))); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %d bytes, %v", n, err)
	}
	if err := f.Truncate(5); err != nil || len(file.b) != 5 {
		t.Errorf("shorter: %v, %d bytes", err, len(file.b))
	}
	if err := f.Truncate(7); err != nil || len(file.b) != 7 {
		t.Errorf("longer: %v, %d bytes", err, len(file.b))
	}
}
