package vhd_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// withMBR returns data with an MBR of one partition that ends at the offset end.
func withMBR(data []byte, end int64) []byte {
	b := slices.Clone(data)
	clear(b[440:512])
	b[450] = 0x83
	binary.LittleEndian.PutUint32(b[454:], 8)
	binary.LittleEndian.PutUint32(b[458:], uint32(end/sector-8))
	b[510], b[511] = 0x55, 0xaa
	return b
}

// withGPT returns data with the parts of a GPT that determine the end of the disk. These are
// the header, and the backup in the last sector of a disk of size bytes, if that is in the
// data.
func withGPT(data []byte, size int64) []byte {
	b := slices.Clone(data)
	copy(b[sector:], "EFI PART")
	binary.LittleEndian.PutUint64(b[sector+32:], uint64(size/sector-1))
	if size <= int64(len(b)) {
		copy(b[size-sector:], "EFI PART")
	}
	return b
}

// checkNamed checks a file with that name and contents, repairs it, and checks it again. It
// returns the findings of each check, and the file.
func checkNamed(t *testing.T, name string, b []byte) (before, after []string, repaired []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	writeFile(t, path, b)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	check := func() (ids []string) {
		size, err := disk.FileSize(f)
		must(t, err)
		_, err = checkImage(f, size, nil, func(x vhd.Finding) { ids = append(ids, x.ID) })
		if err != nil {
			return []string{err.Error()}
		}
		return ids
	}
	before = check()
	_, err = vhd.Repair(context.Background(), f, int64(len(b)), &vhd.RepairOptions{All: true})
	if err != nil && !errors.Is(err, vhd.ErrNotVHD) {
		t.Fatal(err)
	}
	after = check()
	repaired, err = os.ReadFile(path)
	must(t, err)
	return before, after, repaired
}

var notVHD = []string{vhd.ErrNotVHD.Error()}

// TestLostFooter examines files without a footer. A new one is written only if the name is that
// of a VHD and the end of the disk is certain.
func TestLostFooter(t *testing.T) {
	const size = 2 * mib
	data := noise(size, 9)
	gpt, mbr := withGPT(data, size), withMBR(data, size)
	grown := slices.Concat(fixedImage(data), make([]byte, size-sector))
	torn := slices.Concat(gpt, fixedImage(data)[size:size+20])
	for _, c := range []struct {
		name, file    string
		b             []byte
		before, after []string
		contents      []byte // of the disk after the repair
	}{
		{"GPT", "d.vhd", gpt, []string{"footer-missing"}, nil, gpt},
		{"GPT, other case", "D.VHD", gpt, []string{"footer-missing"}, nil, gpt},
		{"GPT, no name of a VHD", "d.raw", gpt, notVHD, notVHD, nil},
		{"GPT and zeros", "d.vpc", slices.Concat(gpt, make([]byte, 4*kib)), []string{"footer-missing"}, nil, gpt},
		{"GPT and data", "d.vhd", slices.Concat(gpt, noise(4*kib, 1)), []string{"footer-missing"}, []string{"footer-missing"}, nil},
		{"GPT and a torn footer", "d.vhd", torn, []string{"footer-missing"}, nil, gpt},
		{"GPT without its backup", "d.vhd", withGPT(gpt[:size-sector], size+sector)[:size-sector], []string{"disk-cut"}, []string{"disk-cut"}, nil},
		{"GPT of a larger disk", "d.vhd", withGPT(data, 3*size), []string{"disk-cut"}, []string{"disk-cut"}, nil},
		{"GPT of a much smaller disk", "d.vhd", withGPT(noise(4*mib, 1), mib), notVHD, notVHD, nil},
		{"GPT, enlarged and used since", "d.vhd", withGPT(grown, 2*size), []string{"footer-missing"}, nil, withGPT(grown, 2*size)},
		{"MBR", "d.vhd", mbr, []string{"footer-missing"}, nil, mbr},
		{"MBR, unused space at the end", "d.vhd", withMBR(data, size-mib), []string{"footer-missing"}, nil, withMBR(data, size-mib)},
		{"MBR, unused space, odd length", "d.vhd", withMBR(data, size-mib)[:size-sector], []string{"footer-missing"}, []string{"footer-missing"}, nil},
		{"MBR of a larger disk", "d.vhd", withMBR(data, size+sector), []string{"disk-cut"}, []string{"disk-cut"}, nil},
		{"no partitions", "d.vhd", data, notVHD, notVHD, nil},
		{"zeros", "d.vhd", make([]byte, size), notVHD, notVHD, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, after, b := checkNamed(t, c.file, c.b)
			if !slices.Equal(before, c.before) || !slices.Equal(after, c.after) {
				t.Errorf("check finds %q, and after the repair %q; want %q and %q", before, after, c.before, c.after)
			}
			if c.contents != nil {
				sameBytes(t, "the disk", readAll(t, openBytes(t, b, nil)), c.contents)
			} else {
				sameBytes(t, "the file", b, c.b)
			}
		})
	}
}

// TestMisplacedFooter covers the offsets of a footer in a file that was enlarged.
func TestMisplacedFooter(t *testing.T) {
	const size = 3 * mib
	data := noise(size, 9)
	good := fixedImage(data)
	grown := func(image []byte, n int64, tail []byte) []byte { return slices.Concat(image, make([]byte, n), tail) }
	for _, c := range []struct {
		name string
		b    []byte
		want []string
	}{
		{"at the end of the GPT", grown(fixedImage(withGPT(data, size)), 2*mib, noise(mib, 3)), []string{"footer-misplaced"}},
		{"at the end of a partition", grown(fixedImage(withMBR(data, size)), 2*mib, noise(mib, 3)), []string{"footer-misplaced"}},
		{"at the next MiB", grown(fixedImage(withMBR(data, size-mib+sector)), 2*mib, noise(mib, 3)), []string{"footer-misplaced"}},
		{"before data", grown(good, 0, noise(mib-sector, 3)), []string{"footer-misplaced"}},
		{"before more data", grown(good, 0, noise(2*mib, 3)), notVHD},
		{"before zeros", grown(good, 12*mib, nil), []string{"footer-misplaced"}},
		{"the disk was enlarged since", grown(fixedImage(withGPT(data, size+mib)), mib-sector, nil), notVHD},
		{"another current size", grown(fixedImage(data, currentSize(size-sector)), kib, nil), notVHD},
		{"a wrong checksum", grown(append(slices.Clone(data), slices.Concat(good[size:size+64], []byte{1}, good[size+65:])...), kib, nil), notVHD},
		{"a dynamic disk", grown(slices.Concat(data, footerBytes(dynamic, size)), kib, nil), notVHD},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := summary(t, c.b, false); !slices.Equal(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
			err := vhd.Probe(newMemFile(c.b), int64(len(c.b)))
			var damaged *vhd.FormatError
			if !errors.Is(err, disk.ErrNotThisFormat) || errors.As(err, &damaged) == slices.Equal(c.want, notVHD) {
				t.Errorf("Probe: %v, want an error that leaves the file to other formats", err)
			}
		})
	}
	t.Run("in a hole", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "d.raw")
		writeFile(t, name, good)
		must(t, os.Truncate(name, 40*gib))
		f, err := os.Open(name)
		must(t, err)
		defer f.Close()
		if _, data, err := filesystem.NewHoleMap(f).At(20*gib, 40*gib); data || err != nil {
			t.Skip("holes are not found here")
		}
		img, err := vhd.Open(name, nil)
		var damaged *vhd.FormatError
		if !errors.As(err, &damaged) || damaged.ID != "footer-misplaced" || damaged.Offset != size {
			t.Errorf("Open: %v, %v; want footer-misplaced at offset %d", img, err, size)
		}
	})
}

// TestNestedVHD has raw disks that store VHDs as files. None of them is recognised as a VHD.
func TestNestedVHD(t *testing.T) {
	inner := [][]byte{
		fixedImage(noise(256*kib, 1)), fixedImage(withGPT(noise(256*kib, 1), 256*kib)), fixedImage(noise(mib, 2)),
		craft{size: mib, blockSize: 4 * kib, blocks: []block{{1, 8, nil, noise(4*kib, 2)}}}.bytes(),
	}
	rnd := rand.New(rand.NewPCG(4, 4))
	for i := range 60 {
		b := make([]byte, 3*mib+rnd.IntN(8)*sector)
		copy(b, noise(rnd.IntN(len(b)), byte(i)))
		size := int64(len(b))
		switch i % 4 {
		case 1:
			b = withGPT(b, size)
		case 2:
			b = withMBR(b, size)
		case 3:
			b = withMBR(b, size-mib)
		}
		for _, x := range inner {
			if at := (1 + rnd.IntN((len(b)-len(x))/sector-1)) * sector; i%3 > 0 && at+len(x) < len(b) {
				copy(b[max(at, 2*sector):], x)
			}
		}
		err := vhd.Probe(newMemFile(b), size)
		var damaged *vhd.FormatError
		if !errors.Is(err, disk.ErrNotThisFormat) || errors.As(err, &damaged) {
			t.Fatalf("disk %d: %v, want a raw disk", i, err)
		}
	}
}

// TestLostFooterNotes: the commands in the notes of these findings name only FILE and NEW.vhd.
func TestLostFooterNotes(t *testing.T) {
	const size = 2 * mib
	path := filepath.Join(t.TempDir(), "d.vhd")
	writeFile(t, path, withGPT(noise(size, 9), size))
	_, err := vhd.Open(path, nil)
	var damaged *vhd.FormatError
	if !errors.As(err, &damaged) || !strings.Contains(damaged.Note, "check -f vpc -r all FILE") {
		t.Errorf("Open: %v with the note %q", err, damaged.Note)
	}
}

// namedRecorder is a recorder of a file with a name.
type namedRecorder struct {
	*recorder
	name string
}

func (r namedRecorder) Name() string { return r.name }

// TestCrashOfNewFooter interrupts the repair of a lost footer at every point. The disk is found
// in the remaining file, and another repair completes the first.
func TestCrashOfNewFooter(t *testing.T) {
	const size = 2 * mib
	gpt := withGPT(noise(size, 9), size)
	for name, b := range map[string][]byte{"GPT": gpt, "GPT and zeros": slices.Concat(gpt, make([]byte, 4*kib))} {
		t.Run(name, func(t *testing.T) {
			r := record(b)
			_, err := vhd.Repair(context.Background(), namedRecorder{r, "d.vhd"}, r.size(), &vhd.RepairOptions{All: true})
			must(t, err)
			want := r.bytes()
			sameBytes(t, "the disk", readAll(t, openBytes(t, want, nil))[:size], gpt)
			r.cuts(t, rand.New(rand.NewPCG(1, 1)), 20, func(k int, file []byte) {
				left := namedRecorder{record(file), "d.vhd"}
				if _, err := vhd.Repair(context.Background(), left, left.size(), &vhd.RepairOptions{All: true}); err != nil {
					t.Fatalf("after a cut after change %d of %d: %v", k, len(r.log), err)
				}
				got := left.bytes()
				sameBytes(t, "the disk after another repair", readAll(t, openBytes(t, got, nil)), gpt)
				if len(got) != len(want) {
					t.Fatalf("cut after change %d of %d: the repaired file has %d bytes, want %d", k, len(r.log), len(got), len(want))
				}
			})
		})
	}
}
