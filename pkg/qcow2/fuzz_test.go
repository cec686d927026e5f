package qcow2_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/qcow2"
)

// addSeeds adds small images, written by this package, as the start of a fuzzing.
func addSeeds(f *testing.F) {
	for _, o := range []qcow2.CreateOptions{
		{ClusterSize: 512},
		{ClusterSize: 512, Version: 2},
		{ClusterSize: 512, Compress: true},
		{ClusterSize: 512, Compress: true, Compression: qcow2.Zstd},
		{ClusterSize: 512, RefcountBits: 64, BackingFile: "base", BackingFormat: "raw"},
		{ClusterSize: 16 << 10, ExtendedL2: true},
	} {
		o.Size = 8 << 10
		name := filepath.Join(f.TempDir(), "seed")
		file, err := os.Create(name)
		if err != nil {
			f.Fatal(err)
		}
		var d interface {
			disk.Disk
			io.WriterAt
		}
		if o.Compress {
			d, err = qcow2.CreatePacked(file, &o)
		} else {
			d, err = qcow2.Create(file, &o)
		}
		if err != nil {
			f.Fatal(err)
		}
		if o.BackingFile == "" {
			for off := int64(0); off < o.Size; off += 2048 {
				if _, err := d.WriteAt(bytes.Repeat([]byte("text"), 128), off&^(max(o.ClusterSize, 512)-1)); err != nil && !o.Compress {
					f.Fatal(err)
				}
			}
		}
		if err := errors.Join(d.Close(), file.Close()); err != nil {
			f.Fatal(err)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	snapshot := content(f, "snapshot.qcow2")
	f.Add(snapshot)
}

// FuzzOpen opens anything, and reads the start and the end of the disk. The extents agree with the
// bytes that are read.
func FuzzOpen(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, file []byte) {
		for _, snapshot := range []string{"", "1"} {
			img, err := qcow2.NewImage(bytes.NewReader(file), int64(len(file)), &qcow2.OpenOptions{Snapshot: snapshot, Parents: disk.ParentSearch{None: true}})
			if err != nil {
				if img != nil {
					t.Fatal("an image and an error")
				}
				continue
			}
			lookAt(t, img, 0)
			lookAt(t, img, max(0, img.Size()-64<<10))
			img.Close()
		}
	})
}

// lookAt reads 64 KiB of a disk, and compares them with the extents.
func lookAt(t *testing.T, img *qcow2.Image, off int64) {
	n := min(64<<10, img.Size()-off)
	p := make([]byte, n)
	k, err := img.ReadAt(p, off)
	if err == nil && int64(k) < n || int64(k) > n {
		t.Fatalf("read of %d bytes at %d of %d: %d, %v", n, off, img.Size(), k, err)
	}
	at := off
	for e, eerr := range img.Extents(off, n) {
		if eerr != nil {
			if err == nil {
				t.Fatalf("extents at %d: %v, and all can be read", at, eerr)
			}
			return
		}
		if e.Off != at || e.Len <= 0 || e.End() > off+n {
			t.Fatalf("extent %+v, want one at %d", e, at)
		}
		at = e.End()
		if e.State != disk.Data && at <= off+int64(k) && !allZero(p[e.Off-off:at-off]) {
			t.Fatalf("extent %+v is not zeros", e)
		}
	}
	if at != off+n {
		t.Fatalf("extents end at %d, want %d", at, off+n)
	}
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// FuzzCheck checks anything. An image that is not opened has a finding or an error.
func FuzzCheck(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, file []byte) {
		size := int64(len(file))
		c := qcow2.NewChecker(bytes.NewReader(file), size)
		var checkErr error
		found := 0
		for _, err := range c.Findings(t.Context()) {
			checkErr = err
			found++
		}
		_, err := qcow2.NewImage(bytes.NewReader(file), size, &qcow2.OpenOptions{Parents: disk.ParentSearch{None: true}})
		switch {
		case errors.Is(err, qcow2.ErrNotQCOW2) != errors.Is(checkErr, qcow2.ErrNotQCOW2):
			t.Fatalf("open: %v; check: %v", err, checkErr)
		case errors.Is(err, qcow2.ErrUnsupported) != errors.Is(checkErr, qcow2.ErrUnsupported):
			t.Fatalf("open: %v; check: %v", err, checkErr)
		case errors.Is(err, qcow2.ErrCorrupt) && found == 0:
			t.Fatalf("open: %v; check finds nothing", err)
		}
		n := c.Counts()
		if n.Allocated < n.Compressed || n.Errors < 0 || n.Leaked < 0 || n.End < 0 {
			t.Fatalf("counts %+v", n)
		}
	})
}
