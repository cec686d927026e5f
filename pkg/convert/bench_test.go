package convert

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

func BenchmarkIsZero(b *testing.B) {
	p := make([]byte, 64<<10)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if !isZero(p) {
			b.Fatal("zeros are not zero")
		}
	}
}

// inMemory returns a directory on a file system in memory, if there is one.
func inMemory(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "bench")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// BenchmarkCopy converts 32 MiB of data in a file to a dynamic VHD.
func BenchmarkCopy(b *testing.B) {
	const size = 32 << 20
	dir := inMemory(b)
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i>>8) | 1
	}
	if err := os.WriteFile(filepath.Join(dir, "disk.raw"), data, 0o666); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "disk.raw"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	src := raw.Open(f, size)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		img, err := vhd.Create(filepath.Join(dir, "disk.vhd"), &vhd.CreateOptions{Size: size, Exact: true})
		if err != nil {
			b.Fatal(err)
		}
		if err := Copy(context.Background(), img, src, nil); err != nil {
			b.Fatal(err)
		}
		if err := img.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCompare compares two files of 32 MiB.
func BenchmarkCompare(b *testing.B) {
	const size = 32 << 20
	dir := b.TempDir()
	var disks [2]*raw.Disk
	for i := range disks {
		name := filepath.Join(dir, string(rune('a'+i)))
		if err := os.WriteFile(name, bytes.Repeat([]byte{7}, size), 0o666); err != nil {
			b.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		disks[i] = raw.Open(f, size)
	}
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if at, err := Compare(context.Background(), disks[0], disks[1], nil); at >= 0 || err != nil {
			b.Fatal(at, err)
		}
	}
}
