package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/qcow2"
)

var be = binary.BigEndian

// patch is a change of one field of an image.
type patch struct {
	off  int64
	size int // bytes of the value
	v    uint64
}

func (p patch) apply(b []byte) {
	switch p.size {
	case 1:
		b[p.off] = byte(p.v)
	case 4:
		be.PutUint32(b[p.off:], uint32(p.v))
	case 8:
		be.PutUint64(b[p.off:], p.v)
	}
}

// TestHostile changes fields of sound images as an attacker would. Opening or reading the
// image is an error of the kind, and check reports it.
func TestHostile(t *testing.T) {
	const kib = 1 << 10
	plain := written(t, bytes.Repeat([]byte("text"), 64*kib), disk.Options{"cluster_size": "4k"}, 1)
	packed := written(t, bytes.Repeat([]byte("text"), 64*kib), disk.Options{"cluster_size": "4k", "compress": "on"}, 1)
	zstd := written(t, bytes.Repeat([]byte("text"), 64*kib), disk.Options{"cluster_size": "4k", "compress": "on", "compression_type": "zstd"}, 1)
	extended := written(t, bytes.Repeat([]byte("text"), 64*kib), disk.Options{"extended_l2": "on", "cluster_size": "16k"}, 1)
	snapshot := content(t, "snapshot.qcow2")
	// Offsets of the structures, from the header.
	l1 := func(b []byte) int64 { return int64(be.Uint64(b[40:])) }
	l2 := func(b []byte) int64 { return int64(be.Uint64(b[l1(b):]) & 0x00fffffffffffe00) }
	snapshots := int64(be.Uint64(snapshot[64:]))
	corrupt, unsupported := qcow2.ErrCorrupt, qcow2.ErrUnsupported
	for _, c := range []struct {
		name    string
		image   []byte
		patches []patch
		kind    error
		want    string // in the message
	}{
		{"version 1", plain, []patch{{4, 4, 1}}, unsupported, "version"},
		{"version 4", plain, []patch{{4, 4, 4}}, unsupported, "version"},
		{"cluster bits 8", plain, []patch{{20, 4, 8}}, corrupt, "cluster bits"},
		{"cluster bits 64", plain, []patch{{20, 4, 64}}, corrupt, "cluster bits"},
		{"size 2^63", plain, []patch{{24, 8, 1 << 63}}, corrupt, "size"},
		{"size beyond L1", plain, []patch{{24, 8, 1 << 50}}, corrupt, "entries of the L1 table"},
		{"AES", plain, []patch{{32, 4, 1}}, unsupported, "AES"},
		{"LUKS", plain, []patch{{32, 4, 2}}, unsupported, "LUKS"},
		{"encryption 9", plain, []patch{{32, 4, 9}}, corrupt, "encryption"},
		{"L1 of 2^32 entries", plain, []patch{{36, 4, 1<<32 - 1}}, corrupt, "entries of the L1 table"},
		{"L1 beyond the file", plain, []patch{{36, 4, 4 << 20}}, corrupt, "L1 table"},
		{"L1 not aligned", plain, []patch{{40, 8, 4097}}, corrupt, "L1 table"},
		{"L1 at 2^63", plain, []patch{{40, 8, 1 << 63}}, corrupt, "L1 table"},
		{"refcount table of 2^32 clusters", plain, []patch{{56, 4, 1<<32 - 1}}, corrupt, "refcount table"},
		{"no refcount table", plain, []patch{{56, 4, 0}}, corrupt, "refcount table"},
		{"refcount table beyond the file", plain, []patch{{48, 8, 1 << 62}}, corrupt, "refcount table"},
		{"refcount order 7", plain, []patch{{96, 4, 7}}, corrupt, "refcount order"},
		{"2^32 snapshots", plain, []patch{{60, 4, 1<<32 - 1}}, corrupt, "snapshots"},
		{"snapshots beyond the file", plain, []patch{{60, 4, 1}, {64, 8, 1 << 40}}, corrupt, "snapshot table"},
		{"header length 2^32", plain, []patch{{100, 4, 1<<32 - 1}}, corrupt, "header length"},
		{"header length 8", plain, []patch{{100, 4, 8}}, corrupt, "header length"},
		{"extension too long", plain, []patch{{112, 4, 0xe2792aca}, {116, 4, 1<<32 - 1}}, corrupt, "header extension"},
		{"backing name beyond the cluster", plain, []patch{{8, 8, 4000}, {16, 4, 200}}, corrupt, "backing file name"},
		{"backing name of 2^32 bytes", plain, []patch{{8, 8, 200}, {16, 4, 1<<32 - 1}}, corrupt, "backing file name"},
		{"backing name at 2^63", plain, []patch{{8, 8, 1 << 63}, {16, 4, 1}}, corrupt, "backing file name"},
		{"unknown feature", plain, []patch{{72, 8, 1 << 40}}, unsupported, "unknown (bit 40)"},
		{"compression type without its bit", plain, []patch{{104, 1, 1}}, corrupt, "compression type"},
		{"unknown compression type", plain, []patch{{72, 8, 8}, {104, 1, 7}}, unsupported, "compression type"},
		{"extended L2 with small clusters", plain, []patch{{72, 8, 16}}, corrupt, "cluster bits"},
		{"data file without a name", plain, []patch{{72, 8, 4}}, nil, "external data file"},
		{"L2 at the header", plain, []patch{{l1(plain), 8, 0}}, nil, ""}, // unallocated: zeros
		{"L2 not aligned", plain, []patch{{l1(plain), 8, 4096 + 512}}, corrupt, "L1 entry 0"},
		{"L2 beyond the file", plain, []patch{{l1(plain), 8, 1 << 50}}, corrupt, "L1 entry 0"},
		{"L2 is the L1 table", plain, []patch{{l1(plain), 8, uint64(l1(plain)) | 1<<63}}, nil, ""},
		{"L2 points to itself", plain, []patch{{l2(plain), 8, uint64(l2(plain)) | 1<<63}}, nil, ""},
		{"cluster not aligned", plain, []patch{{l2(plain), 8, 4096 + 512}}, corrupt, "L2 entry of disk offset 0"},
		{"cluster beyond the file", plain, []patch{{l2(plain), 8, 1 << 50}}, corrupt, "cluster of disk offset 0"},
		{"zero cluster in version 2", written(t, []byte(strings.Repeat("x", 8192)), disk.Options{"compat": "0.10", "cluster_size": "4k"}, 1), []patch{{4096 * 2, 8, 0}}, nil, ""},
		{"compressed beyond the file", packed, []patch{{l2(packed), 8, 1<<62 | 1<<40}}, corrupt, "compressed cluster of disk offset 0"},
		{"compressed noise", packed, []patch{{l2(packed), 8, 1<<62 | uint64(l1(packed))}}, corrupt, "compressed cluster of disk offset 0"},
		{"zstd noise", zstd, []patch{{l2(zstd), 8, 1<<62 | uint64(l1(zstd))}}, corrupt, "compressed cluster of disk offset 0"},
		{"subcluster both", extended, []patch{{l2(extended) + 8, 8, 1<<32 | 1}}, corrupt, "both allocated and zeros"},
		{"subcluster without a cluster", extended, []patch{{l2(extended), 8, 0}}, corrupt, "without an offset"},
		{"snapshot id too long", snapshot, []patch{{snapshots + 12, 4, 0xffffffff}}, corrupt, "snapshot table"},
		{"snapshot extra data too long", snapshot, []patch{{snapshots + 36, 4, 1<<32 - 1}}, corrupt, "snapshot table"},
		{"snapshot size 2^63", snapshot, []patch{{snapshots + 48, 8, 1 << 63}}, corrupt, "size of the disk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := slices.Clone(c.image)
			for _, p := range c.patches {
				p.apply(b)
			}
			img, err := qcow2.NewImage(bytes.NewReader(b), int64(len(b)), nil)
			if err == nil {
				_, err = img.ReadAt(make([]byte, img.Size()), 0)
			}
			switch {
			case c.kind == nil && c.want == "":
				if err != nil {
					t.Errorf("%v, want an image that can be read", err)
				}
			case c.kind != nil && !errors.Is(err, c.kind), err == nil, !strings.Contains(err.Error(), c.want):
				t.Errorf("%v, want %v with %q", err, c.kind, c.want)
			}
			found := false
			for f, err := range qcow2.NewChecker(bytes.NewReader(b), int64(len(b))).Findings(t.Context()) {
				found = true
				_ = f
				_ = err
			}
			// check does not decompress, so it misses damage inside compressed data.
			if !found && c.want != "external data file" && !strings.Contains(c.name, "noise") && !strings.Contains(c.name, "version 2") {
				t.Error("check finds nothing")
			}
		})
	}
}

// TestSnapshotTables refuses the L1 table of a snapshot that is not in the file.
func TestSnapshotTables(t *testing.T) {
	image := content(t, "snapshot.qcow2")
	at := int64(be.Uint64(image[64:]))
	for _, p := range []patch{{at, 8, 1 << 40}, {at, 8, 4096 + 8}, {at + 8, 4, 0}} {
		b := slices.Clone(image)
		p.apply(b)
		if _, err := qcow2.NewImage(bytes.NewReader(b), int64(len(b)), &qcow2.OpenOptions{Snapshot: "1"}); !errors.Is(err, qcow2.ErrCorrupt) {
			t.Errorf("%+v: %v", p, err)
		}
		if _, err := qcow2.NewImage(bytes.NewReader(b), int64(len(b)), nil); err != nil {
			t.Errorf("%+v: the current state: %v", p, err)
		}
	}
}

// TestFlags: a dirty image and one that is marked as damaged are read, and check warns.
func TestFlags(t *testing.T) {
	for bit, id := range map[uint64]string{1: "dirty", 2: "marked-corrupt"} {
		b := written(t, make([]byte, 4096), nil, 1)
		patch{72, 8, bit}.apply(b)
		img, err := qcow2.NewImage(bytes.NewReader(b), int64(len(b)), nil)
		if err != nil {
			t.Fatal(err)
		}
		readAll(t, img)
		h := img.Header()
		if h.Dirty() != (bit == 1) || h.Corrupt() != (bit == 2) {
			t.Errorf("bit %d: dirty %t, corrupt %t", bit, h.Dirty(), h.Corrupt())
		}
		var ids []string
		for f, err := range qcow2.NewChecker(bytes.NewReader(b), int64(len(b))).Findings(t.Context()) {
			if err != nil || f.Severity != disk.Warning {
				t.Errorf("%v, %v", f, err)
			}
			ids = append(ids, f.ID)
		}
		if !slices.Equal(ids, []string{id}) {
			t.Errorf("findings %q, want %s", ids, id)
		}
	}
}

// TestCutFile reads what is left of a file that was cut, and refuses the rest.
func TestCutFile(t *testing.T) {
	content := bytes.Repeat([]byte("text"), 64<<10)
	var out bytes.Buffer
	// A stream has its data last.
	o := &qcow2.CreateOptions{Size: int64(len(content))}
	if err := qcow2.WriteStream(t.Context(), &out, o, newRawDisk(content), []int64{0, 1, 2, 3}, nil); err != nil {
		t.Fatal(err)
	}
	b := out.Bytes()[:out.Len()-64<<10-512]
	img, err := qcow2.NewImage(bytes.NewReader(b), int64(len(b)), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 128<<10)
	if _, err := img.ReadAt(got, 0); err != nil || !bytes.Equal(got, content[:len(got)]) {
		t.Errorf("what is left: %v", err)
	}
	if _, err := img.ReadAt(got[:64<<10], 192<<10); !errors.Is(err, qcow2.ErrCorrupt) {
		t.Errorf("a cluster after the end of the file: %v", err)
	}
}

// failingOnce fails the first read of a range of the file.
type failingOnce struct {
	*bytes.Reader
	from   int64
	failed bool
}

var errFailing = errors.New("failing")

func (r *failingOnce) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.from && !r.failed {
		r.failed = true
		return 0, errFailing
	}
	return r.Reader.ReadAt(p, off)
}

// TestReadAgain: after an error of reading the file, the same bytes can be read again.
func TestReadAgain(t *testing.T) {
	content := bytes.Repeat([]byte("text"), 64<<10)
	for _, o := range []disk.Options{{}, {"compress": "on"}} {
		b := written(t, content, o, 1)
		r := &failingOnce{Reader: bytes.NewReader(b), from: 1 << 40}
		img, err := qcow2.NewImage(r, int64(len(b)), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.from = 0
		got := make([]byte, 1000)
		try := func(what string) {
			r.failed = false
			if _, err := img.ReadAt(got, 70_000); !errors.Is(err, errFailing) {
				t.Errorf("%v: %s: %v, want the error of the file", o, what, err)
			}
			r.failed = true
		}
		try("the L2 table")
		if _, err := img.ReadAt(got[:1], int64(len(content))-1); err != nil { // reads the table
			t.Fatal(err)
		}
		try("the data")
		if _, err := img.ReadAt(got, 70_000); err != nil || !bytes.Equal(got, content[70_000:71_000]) {
			t.Errorf("%v: read again: %v", o, err)
		}
	}
}
