package interop

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/qcow2"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

// qcow2Options are the options of new images, as the command line has them.
var qcow2Options = []disk.Options{
	{},
	{"cluster_size": "512"},
	{"cluster_size": "2M"},
	{"compat": "0.10"},
	{"refcount_bits": "1", "cluster_size": "4k"},
	{"refcount_bits": "64", "cluster_size": "512"},
	{"extended_l2": "on", "cluster_size": "16k"},
	{"lazy_refcounts": "on"},
	{"preallocation": "metadata"},
	{"preallocation": "falloc", "cluster_size": "4k"},
	{"preallocation": "full"},
	{"compress": "on"},
	{"compress": "on", "compat": "0.10", "cluster_size": "512"},
	{"compress": "on", "refcount_bits": "1", "cluster_size": "4k"},
	{"compress": "on", "refcount_bits": "4"},
	{"compress": "on", "cluster_size": "2M"},
	{"compress": "on", "compression_type": "zstd"},
	{"compress": "on", "compression_type": "zstd", "extended_l2": "on"},
}

// newQCOW2 copies a raw disk into a new image, and returns the image's bytes.
func newQCOW2(t *testing.T, name string, src disk.Disk, o disk.Options, workers int) []byte {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := qcow2.Format.Create(f, src.Size(), o)
	if err != nil {
		t.Fatal(err)
	}
	err = convert.Copy(t.Context(), d.(convert.Target), src, &convert.Options{Workers: workers})
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mixedDisk is a raw disk of data that can be compressed, data that cannot, zeros and holes.
func mixedDisk(t *testing.T, size int64) string {
	t.Helper()
	r, bytesOf := newRand(uint64(size))
	name := filepath.Join(t.TempDir(), "mixed.raw")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for range min(40, size) {
		n := min(size, 1+r.Int64N(200_000))
		b := fill(bytesOf, int(n))
		switch r.IntN(4) {
		case 0:
			b = bytes.Repeat(b[:1+len(b)/100], 100)[:n]
		case 1:
			for i := range b {
				b[i] = 'a' + b[i]%8
			}
		case 2:
			clear(b)
		}
		if _, err := f.WriteAt(b, r.Int64N(size-n+1)); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// TestQCOW2ForQEMU makes images with every option. Each release of qemu reads them, and its
// check finds nothing; the bytes do not depend on the number of workers.
func TestQCOW2ForQEMU(t *testing.T) {
	all := oracle.QEMUs(t)
	for _, size := range []int64{0, 512, 300 * kib, 5*mib + 512, 19 * mib} {
		source := mixedDisk(t, size)
		for i, o := range qcow2Options {
			t.Run(fmt.Sprintf("%d/%v", size, o), func(t *testing.T) {
				t.Parallel()
				src, _, err := disk.Open(source, disk.Formats{&raw.Format}, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer src.Close()
				name := filepath.Join(t.TempDir(), "image.qcow2")
				one := newQCOW2(t, name, src, o, 1)
				if four := newQCOW2(t, name, src, o, 4); !bytes.Equal(one, four) {
					t.Error("the file depends on the number of workers")
				}
				for j, q := range all {
					if (i+j)%len(all) != 0 && os.Getenv("VHDTOOL_TORTURE") == "" {
						continue
					}
					if out, code := q.Try(t, "qemu-img", "check", "-f", "qcow2", name); code != 0 {
						t.Errorf("qemu-img %s check: %d: %s", q.Version, code, out)
					}
					if out, code := q.Try(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, name); code != 0 {
						t.Errorf("qemu-img %s compare: %d: %s", q.Version, code, out)
					}
					sameCheck(t, q, name)
				}
				img, err := qcow2.Open(name, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer img.Close()
				sameAsFile(t, img, source)
			})
		}
	}
}
