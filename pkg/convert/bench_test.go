package convert

import (
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

// BenchmarkCopy converts 32 MiB of data in a file to a dynamic VHD.
func BenchmarkCopy(b *testing.B) {
	const size = 32 << 20
	dir := b.TempDir()
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
