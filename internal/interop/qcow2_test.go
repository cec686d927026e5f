package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/qcow2"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// qcow2Entry is an entry of qemu-img map of a qcow2 image.
type qcow2Entry struct {
	Start   int64 `json:"start"`
	Length  int64 `json:"length"`
	Depth   int   `json:"depth"`
	Present bool  `json:"present"`
	Zero    bool  `json:"zero"`
	Data    bool  `json:"data"`
	Offset  int64 `json:"offset"`
}

// qcow2Formats are the formats of backing chains.
var qcow2Formats = disk.Formats{&vhd.Format, &qcow2.Format, &raw.Format}

// mapOf lists the extents of a disk as qemu-img map does.
func mapOf(t *testing.T, d disk.Disk) []qcow2Entry {
	t.Helper()
	var all []qcow2Entry
	for e, err := range d.Extents(0, d.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		m := qcow2Entry{
			Start: e.Off, Length: e.Len, Depth: e.Depth, Present: e.State != disk.Absent,
			Zero: e.State != disk.Data, Data: e.State == disk.Data || e.State == disk.Zero,
		}
		if e.File != nil {
			m.Offset = e.FileOff
		}
		all = append(all, m)
	}
	return all
}

// qcow2Rounds is the number of random images.
func qcow2Rounds(t *testing.T) uint64 {
	if os.Getenv("VHDTOOL_TORTURE") != "" {
		return 500
	}
	if testing.Short() {
		return 5
	}
	return 30
}

// randomQCOW2 describes an image that qemu makes.
type randomQCOW2 struct {
	create    []string // arguments of qemu-img create
	size      int64
	cluster   int64
	version   string
	canPack   bool // compressed writes
	snapshots bool
}

// newRandomQCOW2 draws the properties of an image.
func newRandomQCOW2(r *rand.Rand, dir string, backing string, maxSize int64) randomQCOW2 {
	clusters := []int64{512, 4 * kib, 64 * kib, 64 * kib, 2 * mib}
	x := randomQCOW2{version: "1.1", cluster: clusters[r.IntN(len(clusters))], canPack: true, snapshots: true}
	x.size = (1 + r.Int64N(maxSize)) &^ 511
	if x.size == 0 {
		x.size = 512
	}
	options := ""
	add := func(s string) { options += "," + s }
	if r.IntN(4) == 0 {
		x.version = "0.10"
	} else {
		if r.IntN(2) == 0 {
			add("compression_type=zstd")
		}
		if r.IntN(3) == 0 {
			add("refcount_bits=" + []string{"1", "2", "4", "8", "32", "64"}[r.IntN(6)])
			x.snapshots = false
		}
		if r.IntN(4) == 0 && x.cluster >= 16*kib {
			add("extended_l2=on")
		}
		if r.IntN(5) == 0 {
			add("lazy_refcounts=on")
		}
		if r.IntN(6) == 0 {
			add("data_file=" + filepath.Join(dir, fmt.Sprintf("data%d", r.IntN(1_000_000))))
			if r.IntN(2) == 0 && backing == "" {
				add("data_file_raw=on")
			}
			x.canPack, x.snapshots = false, false
		}
	}
	if backing == "" && r.IntN(6) == 0 {
		add("preallocation=metadata")
	}
	x.create = []string{"-o", fmt.Sprintf("compat=%s,cluster_size=%d%s", x.version, x.cluster, options)}
	return x
}

// operations draws operations of qemu-io on the disk.
func (x *randomQCOW2) operations(r *rand.Rand, n int) []string {
	var list []string
	packed := map[int64]bool{}
	for range n {
		length := 1 + r.Int64N([]int64{700, 5000, 70_000, 300_000}[r.IntN(4)])
		length = min(length, x.size)
		off := r.Int64N(x.size - length + 1)
		switch r.IntN(7) {
		case 0, 1: // whole clusters
			off -= off % x.cluster
			length = min(x.cluster*(1+r.Int64N(3)), x.size-off)
			if !x.canPack || packed[off] {
				list = append(list, fmt.Sprintf("write -P %d %d %d", 1+r.IntN(255), off, length))
				continue
			}
			length = min(x.cluster, x.size-off)
			packed[off] = true
			list = append(list, fmt.Sprintf("write -c -P %d %d %d", 1+r.IntN(255), off, length))
		case 2:
			list = append(list, fmt.Sprintf("write -z %d %d", off&^511, max(length&^511, 512)))
		case 3:
			off &^= 4095
			list = append(list, fmt.Sprintf("write -z -u %d %d", off, min((length+4095)&^4095, x.size-off)))
		case 4:
			off &^= 4095
			list = append(list, fmt.Sprintf("discard %d %d", off, min((length+4095)&^4095, x.size-off)))
		default:
			list = append(list, fmt.Sprintf("write -P %d %d %d", 1+r.IntN(255), off, length))
		}
	}
	return list
}

// TestRandomQCOW2 has qemu make images at random: the bytes, the map and the counts of
// check are qemu's, and so are the bytes of snapshots.
func TestRandomQCOW2(t *testing.T) {
	all := oracle.QEMUs(t)
	for seed := range qcow2Rounds(t) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			r, _ := newRand(7000 + seed)
			q := all[r.IntN(len(all))]
			dir := t.TempDir()
			maxSize := []int64{200 * kib, 3 * mib, 20 * mib}[r.IntN(3)]
			var name, format, snapshot string
			for level := range 1 + r.IntN(3) {
				child := filepath.Join(dir, fmt.Sprintf("level%d", level))
				if level == 0 && r.IntN(4) == 0 { // a raw disk or a VHD below
					format = []string{"raw", "vpc"}[r.IntN(2)]
					q.Img(t, "create", "-q", "-f", format, child, fmt.Sprint(1+r.Int64N(maxSize)))
					x := randomQCOW2{size: q.VirtualSize(t, format, child), cluster: 64 * kib}
					q.IO(t, format, child, "write -P 77 0 512", fmt.Sprintf("write -P 3 %d 512", x.size-512))
					name = child
					continue
				}
				x := newRandomQCOW2(r, dir, name, maxSize)
				args := append([]string{"create", "-q", "-f", "qcow2"}, x.create...)
				if name != "" {
					args = append(args, "-b", name, "-F", format)
				}
				q.Img(t, append(args, child, fmt.Sprint(x.size))...)
				name, format, snapshot = child, "qcow2", ""
				q.Try(t, "qemu-io", ioArgs(name, x.operations(r, 12))...)
				if x.snapshots && r.IntN(3) == 0 {
					// qemu may have marked its own image as damaged.
					if _, code := q.Try(t, "qemu-img", "snapshot", "-c", "first", name); code != 0 {
						continue
					}
					snapshot = "first"
					q.Try(t, "qemu-io", ioArgs(name, x.operations(r, 8))...)
				}
			}
			if format != "qcow2" {
				return
			}
			o := &disk.OpenOptions{Format: "qcow2"}
			d, _, err := disk.Open(name, qcow2Formats, o)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			want := filepath.Join(dir, "want")
			q.Img(t, "convert", "-f", "qcow2", "-O", "raw", name, want)
			sameAsFile(t, d, want)
			var theirs []qcow2Entry
			if err := json.Unmarshal([]byte(q.Img(t, "map", "-f", "qcow2", "--output=json", name)), &theirs); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(theirs, mapOf(t, d)); diff != "" {
				t.Errorf("qemu %s and we: %s", q.Version, diff)
			}
			sameCheck(t, q, name)
			if snapshot == "" {
				return
			}
			q.Img(t, "convert", "-f", "qcow2", "-l", snapshot, "-O", "raw", name, want)
			o.Options = disk.Options{"snapshot.name": snapshot}
			s, _, err := disk.Open(name, qcow2Formats, o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			sameAsFile(t, s, want)
		})
	}
}

// ioArgs are the arguments of qemu-io for commands on an image. Commands may fail, such as
// a compressed write into an allocated cluster.
func ioArgs(name string, commands []string) []string {
	args := []string{"-f", "qcow2"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	return append(args, name)
}

// sameAsFile reads a disk in pieces of odd sizes and compares it with a raw file.
func sameAsFile(t *testing.T, d disk.Disk, file string) {
	t.Helper()
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, d.Size())
	for off := 0; off < len(got); {
		n := min(len(got)-off, []int{1 << 20, 3000, 70_001, 512}[off%4])
		if k, err := d.ReadAt(got[off:off+n], int64(off)); k < n || err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("read of %d bytes at %d: %d, %v", n, off, k, err)
		}
		off += n
	}
	same(t, "the disk", got, want)
}

// qcow2Counts is what qemu-img check counts.
type qcow2Counts struct {
	EndOffset   int64 `json:"image-end-offset"`
	Compressed  int64 `json:"compressed-clusters"`
	Total       int64 `json:"total-clusters"`
	Allocated   int64 `json:"allocated-clusters"`
	Fragmented  int64 `json:"fragmented-clusters"`
	Corruptions int64 `json:"corruptions"`
	Leaks       int64 `json:"leaks"`
}

// sameCheck compares the counts of check with qemu-img's, and whether it finds anything.
func sameCheck(t *testing.T, q oracle.QEMU, name string) {
	t.Helper()
	out, err := q.Command("qemu-img", "check", "-f", "qcow2", "--output=json", name).Output()
	var theirs qcow2Counts
	if jerr := json.Unmarshal(out, &theirs); jerr != nil {
		t.Fatalf("qemu-img check: %v: %v: %s", err, jerr, out)
	}
	if diff := cmp.Diff(theirs, countsOf(t, name)); diff != "" {
		t.Errorf("check of qemu %s and ours: %s", q.Version, diff)
	}
}

// countsOf is what our check counts in a file.
func countsOf(t *testing.T, name string) qcow2Counts {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := disk.FileSize(f)
	if err != nil {
		t.Fatal(err)
	}
	c := qcow2.NewChecker(f, size)
	for finding, err := range c.Findings(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		t.Log(finding)
	}
	n := c.Counts()
	return qcow2Counts{n.End, n.Compressed, n.Blocks, n.Allocated, n.Fragmented, n.Errors, n.Leaked}
}

// TestDamagedQCOW2 overwrites bytes of the metadata at random, and compares the counts of
// check with qemu-img's where both can open the image.
func TestDamagedQCOW2(t *testing.T) {
	q := oracle.QEMUs(t)[0]
	dir := t.TempDir()
	sound := filepath.Join(dir, "sound")
	q.Img(t, "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", sound, "3M")
	q.IO(t, "qcow2", sound, "write -P 1 0 900k", "write -P 3 2M 500k", "write -z 1M 8k", "write -c -P 9 1536k 4k", "write -c -P 9 1540k 4k")
	q.Img(t, "snapshot", "-c", "s", sound)
	q.IO(t, "qcow2", sound, "write -P 4 64k 128k")
	content, err := os.ReadFile(sound)
	if err != nil {
		t.Fatal(err)
	}
	img, err := qcow2.Open(sound, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := img.Header()
	img.Close()
	tables := []int64{int64(h.L1Offset), int64(h.RefcountTableOffset), int64(h.RefcountTableOffset) + 4096, int64(h.L1Offset) + 4096, int64(h.L1Offset) + 8192}
	for seed := range 3 * qcow2Rounds(t) {
		r, _ := newRand(9000 + seed)
		b := slices.Clone(content)
		for range 1 + r.IntN(4) {
			at := tables[r.IntN(len(tables))] + r.Int64N(256)
			b[at] = []byte{0, 1, 2, 0x10, 0x40, 0x80, byte(r.IntN(256))}[r.IntN(7)]
		}
		name := filepath.Join(dir, "damaged")
		if err := os.WriteFile(name, b, 0o666); err != nil {
			t.Fatal(err)
		}
		out, err := q.Command("qemu-img", "check", "-f", "qcow2", "--output=json", name).CombinedOutput()
		var theirs qcow2Counts
		start := slices.Index(out, '{')
		if start < 0 || json.Unmarshal(out[start:], &theirs) != nil {
			t.Logf("seed %d: qemu-img check: %v", seed, err)
			continue
		}
		if diff := cmp.Diff(theirs, countsOf(t, name)); diff != "" {
			t.Errorf("seed %d: check of qemu %s and ours: %s\n%s", seed, q.Version, diff, out)
		}
	}
}
