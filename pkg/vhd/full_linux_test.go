//go:build linux && !portable

package vhd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// On a full file system, data that does not fit is reported, and existing data stays. When
// space is free again, the image continues.
func TestFullFileSystem(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("no file system can be mounted: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	const blockSize, blocks = 64 * kib, 64
	for name, o := range map[string]*vhd.CreateOptions{
		"packed":  {Size: blocks * blockSize, Exact: true, BlockSize: blockSize, DataAlign: 512},
		"aligned": {Size: blocks * blockSize, Exact: true, BlockSize: blockSize, FileAlign: 4096},
	} {
		t.Run(name, func(t *testing.T) {
			path, filler := filepath.Join(dir, "disk.vhd"), filepath.Join(dir, "filler")
			img, err := vhd.Create(path, o)
			must(t, err)
			must(t, img.Close())
			img, err = vhd.Open(path, &vhd.OpenOptions{Write: true})
			must(t, err)
			must(t, os.WriteFile(filler, pattern(mib+300*kib, 1), 0o600))
			defer os.Remove(filler)
			defer os.Remove(path)
			want := make([]byte, blocks*blockSize)
			full := 0
			for i := int64(0); i < 2*blocks; i++ {
				b := i % (blocks / 4) // as much as fits without the filler
				p := pattern(blockSize, byte(i))
				_, err := img.WriteAt(p, b*blockSize)
				switch {
				case err == nil:
					copy(want[b*blockSize:], p)
				case errors.Is(err, syscall.ENOSPC) && !errors.Is(err, vhd.ErrFailed):
					full++
					got := readAll(t, img)
					for at := b * blockSize; at < (b+1)*blockSize; at += sector {
						if s := string(got[at : at+sector]); s != string(want[at:at+sector]) && s != string(p[at-b*blockSize:][:sector]) {
							t.Fatalf("a sector of block %d is neither old nor new", b)
						}
					}
					copy(want[b*blockSize:], got[b*blockSize:(b+1)*blockSize])
				default:
					t.Fatal(err)
				}
				if i == blocks {
					must(t, img.Resize(context.Background(), (blocks-1)*blockSize, nil))
					want = want[:(blocks-1)*blockSize]
					must(t, os.Remove(filler))
				}
			}
			if full < blocks/8 {
				t.Errorf("%d writes found the file system full, want more", full)
			}
			sameBytes(t, "contents", readAll(t, img), want)
			must(t, img.Close())
			b, err := os.ReadFile(path)
			must(t, err)
			sameBytes(t, "contents when closed", readAll(t, openBytes(t, b, nil)), want)
			noErrors(t, b)
		})
	}
}
