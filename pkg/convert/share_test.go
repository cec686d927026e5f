package convert

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

const (
	shareSize = 14 << 20
	shareMiB  = 1 << 20
)

// shareSource creates a disk in a file: data and holes of all alignments, and written zeros.
func shareSource(t *testing.T, name string) []byte {
	t.Helper()
	want := make([]byte, shareSize)
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(shareSize); err != nil {
		t.Fatal(err)
	}
	r := rand.NewChaCha8([32]byte{1})
	for _, x := range [][2]int64{
		{0, 5*shareMiB + 700},         // ends within a page
		{6*shareMiB + 512, 100 << 10}, // starts within a page
		{7 * shareMiB, 8192},          // too short to share
		{8*shareMiB - 4096, shareMiB}, // over blocks
		{9 * shareMiB, 4 * shareMiB},
	} {
		part := want[x[0] : x[0]+x[1]]
		_, _ = r.Read(part)
		if x[1] == 4*shareMiB { // a whole block of written zeros
			clear(part[4096 : 512<<10])
			clear(part[shareMiB : 3*shareMiB])
		}
		if _, err := f.WriteAt(part, x[0]); err != nil {
			t.Fatal(err)
		}
	}
	return want
}

// apart hides that a target can share.
type apart struct {
	Target
	disk.Zeroer
}

type apartReserver struct {
	apart
	disk.Reserver
}

func hideSharing(d Target) Target {
	a := apart{d, d.(disk.Zeroer)}
	if r, ok := d.(disk.Reserver); ok {
		return apartReserver{a, r}
	}
	return a
}

// shareTargets create targets in a file.
var shareTargets = func() map[string]func(f *os.File) (Target, error) {
	all := map[string]func(f *os.File) (Target, error){
		"raw": func(f *os.File) (Target, error) { return raw.Create(f, shareSize) },
	}
	for name, o := range map[string]vhd.CreateOptions{
		"fixed":          {Type: vhd.Fixed},
		"dynamic":        {},
		"dynamic, 256 K": {BlockSize: 256 << 10},
		"dynamic, 4 K":   {BlockSize: 4096},
	} {
		o.Size, o.Exact, o.UniqueID, o.Time = shareSize, true, uuid.UUID{1}, time.Unix(1e9, 0)
		all[name] = func(f *os.File) (Target, error) { return vhd.CreateIn(f, &o) }
	}
	return all
}()

// copyShared copies to a new target in a file. before is the way that is known at the start.
// It returns the way that works for the source's file.
func copyShared(t *testing.T, name, kind string, src disk.Disk, o Options, hide bool, before *way) way {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dst, err := shareTargets[kind](f)
	if err != nil {
		t.Fatal(err)
	}
	target := dst
	if hide {
		target = hideSharing(dst)
	}
	o.TargetIsZero = true
	c, err := newCopier(target, src, &o)
	if err != nil {
		t.Fatal(err)
	}
	var file *os.File
	for e, err := range src.Extents(0, src.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.File != nil {
			file = e.File.(*os.File)
		}
	}
	if before != nil {
		c.sharer.found(file, *before)
	}
	if err := c.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
	return c.sharer.way(file)
}

// shareSources opens the disk in each kind of file.
func shareSources(t *testing.T, dir string) (map[string]disk.Disk, []byte) {
	t.Helper()
	want := shareSource(t, filepath.Join(dir, "source.raw"))
	open := func(name string) *os.File {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	sources := map[string]disk.Disk{"raw": raw.Open(open("source.raw"), shareSize)}
	for _, kind := range []string{"fixed", "dynamic", "dynamic, 4 K"} {
		copyShared(t, filepath.Join(dir, "source "+kind), kind, sources["raw"], Options{}, true, nil)
		f := open("source " + kind)
		st, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		img, err := vhd.NewImage(f, st.Size(), nil)
		if err != nil {
			t.Fatal(err)
		}
		sources[kind] = img
	}
	return sources, want
}

// testShare copies from each kind of disk to each kind, and compares the file with one that is read
// and written. mayShare is the way that long runs must use.
func testShare(t *testing.T, from, to string, before *way, wantWay way) {
	sources, want := shareSources(t, from)
	for target := range shareTargets {
		for _, all := range []bool{false, true} {
			plain := filepath.Join(t.TempDir(), "plain")
			copyShared(t, plain, target, sources["raw"], Options{Allocate: all}, true, nil)
			wantFile, err := os.ReadFile(plain)
			if err != nil {
				t.Fatal(err)
			}
			if target == "raw" && !bytes.Equal(wantFile, want) {
				t.Error("the target is not the source")
			}
			for source, src := range sources {
				t.Run(fmt.Sprintf("%s to %s, all=%v", source, target, all), func(t *testing.T) {
					name := filepath.Join(to, "shared")
					got := copyShared(t, name, target, src, Options{Allocate: all, Workers: 3}, false, before)
					// Blocks of 4 KiB are never shared, so no way is tried.
					if source != "dynamic, 4 K" && target != "dynamic, 4 K" && got != wantWay {
						t.Errorf("way %d, want %d", got, wantWay)
					}
					b, err := os.ReadFile(name)
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(b, wantFile) {
						t.Errorf("a file of %d bytes, which is not that of %d bytes which reading and writing makes", len(b), len(wantFile))
					}
				})
			}
		}
	}
}

// The target is the same if nothing is shared, if sharing stops in the middle, and if the kernel
// copies.
func TestShareFallback(t *testing.T) {
	for name, w := range map[string]way{"written": written, "copied": copied} {
		t.Run(name, func(t *testing.T) {
			want := w
			if copyRangeFails(t) {
				want = written
			}
			testShare(t, t.TempDir(), t.TempDir(), &w, want)
		})
	}
}

// copyRangeFails reports whether the system cannot copy from file to file.
func copyRangeFails(t *testing.T) bool {
	t.Helper()
	a, b := filePair(t, make([]byte, 4096))
	return filesystem.CopyRange(b, 0, a, 0, 4096) != 4096
}

// filePair returns a file with these contents for reading, and an empty one.
func filePair(t *testing.T, contents []byte) (a, b *os.File) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), contents, 0o666); err != nil {
		t.Fatal(err)
	}
	a, err := os.Open(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	if b, err = os.Create(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return a, b
}

// Bytes past the end of the source do not count as copied.
func TestCopyRangeShort(t *testing.T) {
	if copyRangeFails(t) {
		t.Skip("the system does not copy from file to file")
	}
	a, b := filePair(t, bytes.Repeat([]byte("x"), 10000))
	if n := filesystem.CopyRange(b, 4096, a, 8192, 4096); n != 10000-8192 {
		t.Errorf("%d bytes, want %d", n, 10000-8192)
	}
}
