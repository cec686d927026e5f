package qcow2_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/qcow2"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

// mixed is n bytes of text, noise and zeros.
func mixed(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, 0, n)
	for len(b) < n {
		k := 1 + r.IntN(100_000)
		switch r.IntN(4) {
		case 0:
			for range k {
				b = append(b, byte(r.IntN(256)))
			}
		case 1:
			b = append(b, bytes.Repeat([]byte("some text "), k/10)...)
		default:
			b = append(b, make([]byte, k)...)
		}
	}
	return b[:n]
}

// options are those of the images that tests write.
var options = []disk.Options{
	{},
	{"cluster_size": "512"},
	{"cluster_size": "2M"},
	{"compat": "0.10"},
	{"refcount_bits": "1", "cluster_size": "4k"},
	{"refcount_bits": "64", "cluster_size": "512"},
	{"extended_l2": "on", "cluster_size": "16k"},
	{"lazy_refcounts": "on"},
	{"preallocation": "metadata"},
	{"preallocation": "full", "cluster_size": "4k"},
	{"compress": "on"},
	{"compress": "on", "compat": "0.10", "cluster_size": "512"},
	{"compress": "on", "refcount_bits": "1", "cluster_size": "4k"},
	{"compress": "on", "cluster_size": "2M"},
	{"compress": "on", "compression_type": "zstd", "extended_l2": "on"},
}

// tempFile is a new file that is closed when the test ends.
func tempFile(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// sound reports whether check finds nothing in a file.
func sound(t testing.TB, b []byte) {
	t.Helper()
	for f, err := range qcow2.NewChecker(bytes.NewReader(b), int64(len(b))).Findings(t.Context()) {
		t.Fatalf("check: %v, %v", f, err)
	}
}

// written copies a disk into a new image, and returns the file.
func written(t testing.TB, content []byte, o disk.Options, workers int) []byte {
	t.Helper()
	f := tempFile(t)
	d, err := qcow2.Format.Create(f, int64(len(content)), o)
	if err != nil {
		t.Fatal(err)
	}
	target := d.(convert.Target)
	if z := d.(disk.KnownZero); !z.ReadsZero() {
		t.Error("a new image does not read as zeros")
	}
	src := raw.Open(bytes.NewReader(content), int64(len(content)))
	if err := convert.Copy(t.Context(), target, src, &convert.Options{Workers: workers}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readAll(t, d), content) {
		t.Errorf("%v: the image that is written reads otherwise", o)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWrite writes images with each option, which are read and checked. Their bytes do not
// depend on the number of workers.
func TestWrite(t *testing.T) {
	for _, size := range []int{0, 512, 70_144, 3<<20 + 512} {
		content := mixed(uint64(size), size)
		for _, o := range options {
			t.Run(fmt.Sprintf("%d/%v", size, o), func(t *testing.T) {
				b := written(t, content, o, 1)
				if !bytes.Equal(b, written(t, content, o, 4)) {
					t.Error("the file depends on the number of workers")
				}
				sound(t, b)
				img, err := qcow2.NewImage(bytes.NewReader(b), int64(len(b)), nil)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(readAll(t, img), content) {
					t.Error("the image does not have what was written")
				}
				compareExtents(t, img, content)
			})
		}
	}
}

// TestWriteStream writes images in order, which are read and checked.
func TestWriteStream(t *testing.T) {
	for _, size := range []int{0, 512, 70_144, 3<<20 + 512} {
		content := mixed(uint64(size), size)
		src := raw.Open(bytes.NewReader(content), int64(size))
		for _, o := range options {
			qo, err := qcow2.ParseCreateOptions(int64(size), o)
			if err != nil {
				t.Fatal(err)
			}
			_, clusterSize := qo.Blocks()
			used, err := convert.UsedBlocks(t.Context(), src, clusterSize, nil)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err = qcow2.WriteStream(t.Context(), &out, qo, src, used, nil)
			if o["compress"] != "" || o["preallocation"] != "" {
				if !errors.Is(err, qcow2.ErrUnsupported) || out.Len() > 0 {
					t.Errorf("%v: %v after %d bytes, want ErrUnsupported", o, err, out.Len())
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			sound(t, out.Bytes())
			img, err := qcow2.NewImage(bytes.NewReader(out.Bytes()), int64(out.Len()), nil)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(readAll(t, img), content) {
				t.Errorf("%v: the stream does not have the disk", o)
			}
		}
	}
	if err := qcow2.WriteStream(t.Context(), io.Discard, &qcow2.CreateOptions{Size: 1 << 20}, nil, []int64{3, 2}, nil); err == nil {
		t.Error("clusters out of order were written")
	}
}

// TestGrowing writes a disk whose size is known last.
func TestGrowing(t *testing.T) {
	for _, o := range options {
		content := mixed(5, 2<<20+300)
		f := tempFile(t)
		d, err := qcow2.Format.Create(f, -1, o)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := convert.ReadFrom(t.Context(), d.(convert.GrowingTarget), bytes.NewReader(content), nil, nil); err != nil || n != int64(len(content)) {
			t.Fatalf("%v: %d, %v", o, n, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		sound(t, b)
		img, err := qcow2.NewImage(bytes.NewReader(b), int64(len(b)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(readAll(t, img), append(content, make([]byte, 212)...)) {
			t.Errorf("%v: the image does not have the stream", o)
		}
	}
}

// TestModel writes and zeroes at random over a parent or none, and compares with a slice.
func TestModel(t *testing.T) {
	base := mixed(9, 40_448)
	rapid.Check(t, func(rt *rapid.T) {
		o := qcow2.CreateOptions{
			Size: 512 * rapid.Int64Range(1, 100).Draw(rt, "sectors"), ClusterSize: rapid.SampledFrom([]int64{512, 4096, 64 << 10}).Draw(rt, "cluster"),
			Version: rapid.SampledFrom([]int{2, 3}).Draw(rt, "version"),
		}
		want := make([]byte, o.Size)
		if rapid.Bool().Draw(rt, "parent") {
			o.Parent, o.BackingFile, o.BackingFormat = raw.Open(bytes.NewReader(base), int64(len(base))), "base", "raw"
			copy(want, base)
		}
		f := tempFile(t)
		w, err := qcow2.Create(f, &o)
		if err != nil {
			rt.Fatal(err)
		}
		bounds := func(rt *rapid.T) (off, n int64) {
			off = rapid.Int64Range(0, o.Size).Draw(rt, "offset")
			return off, rapid.Int64Range(0, o.Size-off).Draw(rt, "length")
		}
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				off, n := bounds(rt)
				p := bytes.Repeat([]byte{rapid.Byte().Draw(rt, "value")}, int(n))
				if k, err := w.WriteAt(p, off); k != len(p) || err != nil {
					rt.Fatalf("write of %d bytes at %d: %d, %v", n, off, k, err)
				}
				copy(want[off:], p)
			},
			"zero": func(rt *rapid.T) {
				off, n := bounds(rt)
				if err := w.WriteZeroes(off, n); err != nil {
					rt.Fatal(err)
				}
				clear(want[off : off+n])
			},
			"reserve": func(rt *rapid.T) {
				if err := w.Reserve(bounds(rt)); err != nil {
					rt.Fatal(err)
				}
			},
			"beyond": func(rt *rapid.T) {
				off, n := bounds(rt)
				n += o.Size - off + 1
				if _, err := w.WriteAt(make([]byte, n), off); err == nil {
					rt.Fatalf("%d bytes were written at %d of %d", n, off, o.Size)
				}
			},
			"": func(rt *rapid.T) {
				if !bytes.Equal(readAll(t, w), want) {
					rt.Fatal("the image reads otherwise")
				}
			},
		})
		if err := w.Close(); err != nil {
			rt.Fatal(err)
		}
		if _, err := w.WriteAt([]byte{1}, 0); err == nil {
			rt.Fatal("a closed image was written")
		}
		b, err := os.ReadFile(f.Name())
		if err != nil {
			rt.Fatal(err)
		}
		sound(t, b)
		var parent disk.Disk
		if o.Parent != nil {
			parent = raw.Open(bytes.NewReader(base), int64(len(base)))
		}
		img, err := qcow2.NewImage(bytes.NewReader(b), int64(len(b)), &qcow2.OpenOptions{Parent: parent})
		if err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(readAll(t, img), want) {
			rt.Fatal("the file has other contents")
		}
	})
}

// TestPackedOnce: a compressed cluster is written whole, and once.
func TestPackedOnce(t *testing.T) {
	w, err := qcow2.CreatePacked(tempFile(t), &qcow2.CreateOptions{Size: 200 << 10})
	if err != nil {
		t.Fatal(err)
	}
	cluster := make([]byte, 64<<10)
	if _, err := w.WriteAt(cluster[:512], 0); err == nil {
		t.Error("a part of a cluster was written")
	}
	if _, err := w.WriteAt(cluster, 512); err == nil {
		t.Error("a cluster was written at another offset")
	}
	if _, err := w.WriteAt(cluster, 64<<10); err != nil {
		t.Error(err)
	}
	if _, err := w.WriteAt(cluster, 64<<10); err == nil {
		t.Error("a cluster was written twice")
	}
	if _, err := w.WriteAt(cluster[:8<<10], 192<<10); err != nil {
		t.Errorf("the last cluster: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// TestCreateOptions: what qemu refuses is refused, in its words.
func TestCreateOptions(t *testing.T) {
	for _, c := range []struct {
		o    disk.Options
		want string
	}{
		{disk.Options{"cluster_size": "1000"}, "Cluster size must be a power of two between 512 and 2048k"},
		{disk.Options{"cluster_size": "4M"}, "Cluster size must be"},
		{disk.Options{"cluster_size": "256"}, "Cluster size must be"},
		{disk.Options{"refcount_bits": "3"}, "Refcount width must be a power of two and may not exceed 64 bits"},
		{disk.Options{"refcount_bits": "128"}, "Refcount width must be"},
		{disk.Options{"compat": "1.2"}, "Parameter 'compat' does not accept value '1.2'"},
		{disk.Options{"compat": "0.10", "lazy_refcounts": "on"}, "Lazy refcounts only supported with compatibility level 1.1 and above"},
		{disk.Options{"compat": "0.10", "refcount_bits": "8"}, "Different refcount widths than 16 bits require"},
		{disk.Options{"compat": "v2", "compression_type": "zstd"}, "Non-zlib compression type is only supported"},
		{disk.Options{"compat": "v2", "extended_l2": "on"}, "Extended L2 entries are only supported"},
		{disk.Options{"extended_l2": "on", "cluster_size": "4k"}, "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"},
		{disk.Options{"preallocation": "some"}, "Parameter 'preallocation' does not accept value 'some'"},
		{disk.Options{"compression_type": "lz4"}, "Parameter 'compression_type' does not accept value 'lz4'"},
		{disk.Options{"encryption": "on"}, "Invalid parameter 'encryption'"},
	} {
		if _, err := qcow2.ParseCreateOptions(1<<20, c.o); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.o, err, c.want)
		}
	}
	if _, err := qcow2.ParseCreateOptions(1<<40, disk.Options{"cluster_size": "512"}); !errors.Is(err, qcow2.ErrTooLarge) {
		t.Errorf("a disk that needs too many tables: %v", err)
	}
}

func newRawDisk(b []byte) disk.Disk { return raw.Open(bytes.NewReader(b), int64(len(b))) }
