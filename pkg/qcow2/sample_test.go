package qcow2_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/qcow2"
)

// sample is an image of testdata that qemu made; scripts/qcow2-samples.sh says how.
type sample struct {
	name   string
	size   int64
	sha256 string
	files  []string // that belong to it
}

func samples(t testing.TB) []sample {
	t.Helper()
	text, err := os.ReadFile("testdata/images/manifest.csv")
	if err != nil {
		t.Fatal(err)
	}
	var all []sample
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n")[2:] {
		f := strings.Split(line, ",")
		size, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sample{f[0], size, f[2], strings.Fields(f[3])})
	}
	return all
}

// content is the content of a file of testdata/images.
func content(t testing.TB, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile(filepath.Join("testdata/images", name+".zst"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unpack writes a sample and the files that belong to it into dir, and returns its path.
func unpack(t testing.TB, dir, name string) string {
	t.Helper()
	for _, s := range samples(t) {
		if s.name != name {
			continue
		}
		for _, file := range append([]string{name}, s.files...) {
			if err := os.WriteFile(filepath.Join(dir, file), content(t, file), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		return filepath.Join(dir, name)
	}
	t.Fatalf("no sample %s", name)
	return ""
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// readAll reads a disk in one call.
func readAll(t testing.TB, d disk.Disk) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	if n, err := d.ReadAt(b, 0); n < len(b) || err != nil && len(b) > 0 {
		t.Fatalf("read of %d bytes: %d, %v", len(b), n, err)
	}
	return b
}

// TestSamples reads each sample as qemu does, whole and in pieces by many goroutines, and
// check finds nothing.
func TestSamples(t *testing.T) {
	for _, s := range samples(t) {
		t.Run(s.name, func(t *testing.T) {
			img, err := qcow2.Open(unpack(t, t.TempDir(), s.name), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close()
			all := readAll(t, img)
			if img.Size() != s.size || sum(all) != s.sha256 {
				t.Errorf("%d bytes with SHA-256 %s, want %d with %s", img.Size(), sum(all), s.size, s.sha256)
			}
			var wg sync.WaitGroup
			for seed := range uint64(8) {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(seed, 0))
					for range 100 {
						p := make([]byte, 1+r.IntN(100_000))
						off := r.Int64N(img.Size())
						n, err := img.ReadAt(p, off)
						want := all[off:min(int(off)+len(p), len(all))]
						if n != len(want) || !bytes.Equal(p[:n], want) || (err == io.EOF) != (n < len(p)) {
							t.Errorf("read of %d bytes at %d: %d, %v", len(p), off, n, err)
						}
					}
				})
			}
			wg.Wait()
			compareExtents(t, img, all)
			c := qcow2.NewChecker(bytes.NewReader(content(t, s.name)), int64(len(content(t, s.name))))
			for f, err := range c.Findings(t.Context()) {
				t.Errorf("check: %v, %v", f, err)
			}
		})
	}
}

// compareExtents compares what the extents say with the contents of the disk.
func compareExtents(t testing.TB, d disk.Disk, all []byte) {
	t.Helper()
	at := int64(0)
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil || e.Off != at || e.Len <= 0 {
			t.Fatalf("extent %+v, %v; want one at %d", e, err, at)
		}
		at = e.End()
		want := make([]byte, e.Len)
		switch {
		case e.State == disk.Data && e.Compressed:
			continue
		case e.State == disk.Data:
			if n, err := e.File.ReadAt(want, e.FileOff); n < len(want) && !errors.Is(err, io.EOF) {
				t.Fatalf("extent %+v: %d, %v", e, n, err)
			}
		}
		if !bytes.Equal(all[e.Off:at], want) {
			t.Fatalf("extent %+v does not have the disk's bytes", e)
		}
	}
	if at != d.Size() {
		t.Fatalf("the extents end at %d, want %d", at, d.Size())
	}
}

// TestSnapshot reads the state that a snapshot keeps, by id and by name.
func TestSnapshot(t *testing.T) {
	name := unpack(t, t.TempDir(), "snapshot.qcow2")
	want := make([]byte, 1049088)
	for i := range 20 << 10 {
		want[i] = 1
	}
	for _, o := range []qcow2.OpenOptions{{SnapshotID: "1"}, {SnapshotName: "first"}, {Snapshot: "1"}, {Snapshot: "first"}, {SnapshotID: "1", SnapshotName: "first"}} {
		img, err := qcow2.Open(name, &o)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(readAll(t, img), want) {
			t.Errorf("%+v: wrong contents", o)
		}
		if s := img.Snapshots(); len(s) != 1 || s[0].ID != "1" || s[0].Name != "first" || s[0].Size != img.Size() || s[0].Time.Year() < 2020 {
			t.Errorf("snapshots %+v", s)
		}
		img.Close()
	}
	for _, o := range []qcow2.OpenOptions{{SnapshotID: "first"}, {SnapshotName: "1"}, {Snapshot: "x"}, {SnapshotID: "1", SnapshotName: "x"}} {
		if _, err := qcow2.Open(name, &o); !errors.Is(err, qcow2.ErrNoSnapshot) {
			t.Errorf("%+v: %v, want ErrNoSnapshot", o, err)
		}
	}
}

// TestExtentsOfSubclusters compares extents with what was written.
func TestExtentsOfSubclusters(t *testing.T) {
	img, err := qcow2.Open(unpack(t, t.TempDir(), "subclusters.qcow2"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	var got []disk.State
	var ends []int64
	for e, err := range img.Extents(0, 32<<10) {
		if err != nil {
			t.Fatal(err)
		}
		got, ends = append(got, e.State), append(ends, e.End())
	}
	wantStates := []disk.State{disk.Absent, disk.Data, disk.Absent, disk.Unallocated, disk.Absent, disk.Data, disk.Absent}
	wantEnds := []int64{512, 1024, 8192, 12288, 20480, 25600, 32768}
	if !slices.Equal(got, wantStates) || !slices.Equal(ends, wantEnds) {
		t.Errorf("states %v that end at %v, want %v at %v", got, ends, wantStates, wantEnds)
	}
}
