//go:build linux && !portable

package convert

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// Space that was allocated ahead and not used is freed, and all data is written.
func TestAllocateAheadFreesUnused(t *testing.T) {
	dir := t.TempDir()
	const size = 4 * zoneSize
	// Full, then full of gaps, then full again, and then nothing more.
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{})
	want := int64(0)
	fill := func(start, end int64) {
		_, _ = random.Read(data[start:end])
		want += end - start
	}
	fill(0, 3*zoneSize/2)
	for off := int64(3 * zoneSize / 2); off < 5*zoneSize/2; off += 512 << 10 {
		fill(off, off+300<<10)
	}
	fill(5*zoneSize/2, 3*zoneSize)
	srcFile, err := os.Create(filepath.Join(dir, "src"))
	if err != nil {
		t.Fatal(err)
	}
	defer srcFile.Close()
	if _, err := srcFile.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	src := raw.Open(srcFile, size)
	for name, create := range map[string]func(f *os.File) (disk.Disk, error){
		"raw": func(f *os.File) (disk.Disk, error) { return raw.Create(f, size) },
		"fixed": func(f *os.File) (disk.Disk, error) {
			return vhd.CreateIn(f, &vhd.CreateOptions{Size: size, Exact: true, Type: vhd.Fixed})
		},
		"dynamic": func(f *os.File) (disk.Disk, error) {
			return vhd.CreateIn(f, &vhd.CreateOptions{Size: size, Exact: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if !filesystem.AllocatesSlowly(f) {
				t.Skip("nothing is allocated ahead on this file system")
			}
			d, err := create(f)
			if err != nil {
				t.Fatal(err)
			}
			c, err := newCopier(d.(Target), src, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.run(context.Background()); err != nil {
				t.Fatal(err)
			}
			allocated := int64(0)
			for _, z := range c.ahead.zones {
				allocated += z.allocated
			}
			if allocated < zoneSize {
				t.Errorf("%d bytes were allocated ahead, want %d or more", allocated, zoneSize)
			}
			got := make([]byte, size)
			if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
				t.Errorf("the copy differs, %v", err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			st, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			// The rest is metadata of the image, and gaps too small to free.
			if used := st.Sys().(*syscall.Stat_t).Blocks * 512; used > want+1<<20 {
				t.Errorf("the file uses %d bytes, want the %d of the data, and at most 1 MiB more", used, want)
			}
		})
	}
}

// XFS allocates space after the data of a growing file. It is freed where the file continues
// at another offset.
func TestAllocateAheadFreesXFS(t *testing.T) {
	dir := mountNew(t, "xfs")
	const size, run, step = 64 << 20, 8<<20 + 64<<10, 16 << 20 // a block ends far after each run
	data := make([]byte, size)
	for off := 0; off < size; off += step {
		_, _ = rand.NewChaCha8([32]byte{}).Read(data[off : off+run])
	}
	name := filepath.Join(t.TempDir(), "src") // not on XFS, which would share the storage
	if err := os.WriteFile(name, data, 0o666); err != nil {
		t.Fatal(err)
	}
	srcFile, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer srcFile.Close()
	target := filepath.Join(dir, "target")
	img, err := vhd.Create(target, &vhd.CreateOptions{Size: size, Exact: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := Copy(context.Background(), img, raw.Open(srcFile, size), nil); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if _, err := img.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the copy differs, %v", err)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(target)
	if err != nil {
		t.Fatal(err)
	}
	want := int64(size / step * run)
	if used := st.Sys().(*syscall.Stat_t).Blocks * 512; used > want+1<<20 {
		t.Errorf("the file uses %d bytes, want the %d of the data, and at most 1 MiB more", used, want)
	}
}
