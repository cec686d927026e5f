package vhdx_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhdx"
)

// pageOf returns a page of 4 KiB whose edges differ from its middle.
func pageOf(b byte) []byte {
	p := bytes.Repeat([]byte{b}, 4096)
	copy(p, "leading.")
	copy(p[4092:], "tail")
	return p
}

// dirty is a disk of two blocks with a log to replay. Only the first block is in the file.
func dirty() *sparse {
	s := craft{size: 2 * mib, entries: map[int64]uint64{0: 4*mib | 6}, pending: true}.image()
	s.fill(4*mib, mib, 'o')
	return s
}

// TestReplay: the changes of the log are part of the image, and the file stays unchanged.
func TestReplay(t *testing.T) {
	batPage := make([]byte, 4096)
	copy(batPage, []byte{6, 0, 0x40, 0, 0, 0, 0, 0, 6, 0, 0x50, 0, 0, 0, 0, 0})
	a, b := pageOf('a'), pageOf('b')
	old := func(n int) []byte { return bytes.Repeat([]byte{'o'}, n) }
	for name, c := range map[string]struct {
		log     func(s *sparse)
		pending int
		want    [][]byte // pages from the start of the disk
	}{
		"nothing": {func(*sparse) {}, 0, [][]byte{old(4096)}},
		"one page": {func(s *sparse) {
			s.logEntry(0, 0, 5, s.size, change{off: 4*mib + 4096, page: a})
		}, 1, [][]byte{old(4096), a, old(4096)}},
		"zeros": {func(s *sparse) {
			s.logEntry(0, 0, 5, s.size, change{off: 4 * mib, n: 8192})
		}, 1, [][]byte{make([]byte, 8192), old(4096)}},
		"a later entry replaces an earlier one": {func(s *sparse) {
			at := s.logEntry(0, 0, 5, s.size, change{off: 4 * mib, page: a}, change{off: 4*mib + 4096, page: a})
			s.logEntry(at, 0, 6, s.size, change{off: 4*mib + 4096, page: b})
		}, 2, [][]byte{a, b, old(4096)}},
		"data within zeros": {func(s *sparse) {
			at := s.logEntry(0, 0, 5, s.size, change{off: 4 * mib, n: 5 * 4096})
			s.logEntry(at, 0, 6, s.size, change{off: 4*mib + 8192, page: b})
		}, 2, [][]byte{make([]byte, 8192), b, make([]byte, 8192), old(4096)}},
		"zeros over data": {func(s *sparse) {
			at := s.logEntry(0, 0, 5, s.size, change{off: 4*mib + 4096, page: a}, change{off: 4 * mib, page: b})
			s.logEntry(at, 0, 6, s.size, change{off: 4*mib + 4096, n: 4096})
		}, 2, [][]byte{b, make([]byte, 4096), old(4096)}},
		"an entry that wraps around": {func(s *sparse) {
			at := s.logEntry(mib-8192, mib-8192, 5, s.size, change{off: 4 * mib, page: a}, change{off: 4*mib + 4096, page: b})
			s.logEntry(at, mib-8192, 6, s.size, change{off: 4*mib + 8192, page: a})
		}, 2, [][]byte{a, b, a, old(4096)}},
		"entries before the tail are done": {func(s *sparse) {
			at := s.logEntry(0, 0, 5, s.size, change{off: 4 * mib, page: a})
			s.logEntry(at, at, 6, s.size, change{off: 4*mib + 4096, page: b})
		}, 1, [][]byte{old(4096), b, old(4096)}},
		"the newest sequence counts": {func(s *sparse) {
			s.logEntry(0, 0, 5, s.size, change{off: 4 * mib, page: a})
			s.logEntry(65536, 65536, 9, s.size, change{off: 4*mib + 4096, page: b})
			s.logEntry(131072, 131072, 7, s.size, change{off: 4 * mib, page: b})
		}, 1, [][]byte{old(4096), b, old(4096)}},
		"an incomplete last entry was never written": {func(s *sparse) {
			at := s.logEntry(0, 0, 5, s.size, change{off: 4 * mib, page: a})
			s.logEntry(at, 0, 6, s.size, change{off: 4 * mib, page: b})
			s.put(logAt+at+4096+100, 1)
		}, 1, [][]byte{a, old(4096)}},
		"a sequence whose tail is overwritten does not count": {func(s *sparse) {
			s.logEntry(0, 65536, 5, s.size, change{off: 4 * mib, page: a})
		}, 0, [][]byte{old(4096)}},
		"an entry of an earlier use of the log": {func(s *sparse) {
			s.logEntry(0, 0, 5, s.size, change{off: 4 * mib, page: a})
			s.put(logAt+32, 0xff)
			s.seal(logAt, 8192)
		}, 0, [][]byte{old(4096)}},
		"an entry with many descriptors": {func(s *sparse) {
			var changes []change
			for i := range int64(130) {
				changes = append(changes, change{off: 4*mib + i*4096, page: pageOf(byte(i))})
			}
			s.logEntry(0, 0, 5, s.size, changes...)
		}, 1, [][]byte{pageOf(0), pageOf(1), pageOf(2)}},
		"a block that only the log refers to": {func(s *sparse) {
			s.logEntry(0, 0, 5, 6*mib, change{off: batAt, page: batPage}, change{off: 5 * mib, page: a})
		}, 1, [][]byte{old(mib), a, make([]byte, mib-4096)}},
	} {
		t.Run(name, func(t *testing.T) {
			s := dirty()
			c.log(s)
			before := s.clone()
			img := mustOpen(t, s)
			if got := img.PendingLogEntries(); got != c.pending {
				t.Errorf("%d entries to replay, want %d", got, c.pending)
			}
			want := bytes.Join(c.want, nil)
			if got := contents(t, img); !bytes.Equal(got[:len(want)], want) {
				t.Error("the contents are wrong")
			}
			if !same(s, before) {
				t.Error("the file was changed")
			}
			id := "log-empty"
			if c.pending > 0 {
				id = "log-pending"
			}
			if !has(findings(t, s), id) {
				t.Errorf("no finding %s", id)
			}
		})
	}
}

// TestReplayInFile: unchanged blocks keep their file, so that they can be cloned.
func TestReplayInFile(t *testing.T) {
	s := craft{size: 2 * mib, entries: map[int64]uint64{0: 4*mib | 6, 1: 6*mib | 6}, pending: true}.image()
	s.logEntry(0, 0, 5, s.size, change{off: 4 * mib, page: pageOf('a')})
	f, err := os.Open(s.file(t, "disk.vhdx"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := vhdx.NewImage(f, s.size, nil)
	if err != nil {
		t.Fatal(err)
	}
	contents(t, img)
	var files []bool
	for e := range img.Extents(0, img.Size()) {
		files = append(files, e.File == f)
	}
	if len(files) != 2 || files[0] || !files[1] {
		t.Errorf("extents in the file: %v, want the second only", files)
	}
}

// TestMetadataFromLog: region tables and metadata are read with the changes of the log.
func TestMetadataFromLog(t *testing.T) {
	s := dirty()
	page := make([]byte, 4096)
	_, _ = s.ReadAt(page, itemsAt)
	page[8+2] = 16 // virtual disk size
	s.logEntry(0, 0, 5, s.size, change{off: itemsAt, page: page})
	if got := mustOpen(t, s).Size(); got != 1*mib {
		t.Errorf("size %d, want %d of the log", got, mib)
	}
}

// TestLogRefusals: an image whose log cannot be replayed is refused.
func TestLogRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *sparse)
		id     string
		kind   error
	}{
		"truncated file": {func(s *sparse) {
			s.logEntry(0, 0, 5, s.size, change{off: 4 * mib, page: pageOf('a')})
			s.put64(logAt+48, uint64(s.size)+1)
			s.seal(logAt, 8192)
		}, "log-flushed", vhdx.ErrCorrupt},
		"endless file": {func(s *sparse) {
			s.logEntry(0, 0, 5, -1, change{off: 4 * mib, page: pageOf('a')})
		}, "log-last", vhdx.ErrCorrupt},
		"log after the end of the file": {func(s *sparse) { s.put64(header2At+72, 1<<40) }, "log-bounds", vhdx.ErrCorrupt},
		"log over the headers":          {func(s *sparse) { s.put64(header2At+72, 0) }, "log-bounds", vhdx.ErrCorrupt},
		"log without length":            {func(s *sparse) { s.put32(header2At+68, 0) }, "log-bounds", vhdx.ErrCorrupt},
		"odd log offset":                {func(s *sparse) { s.put64(header2At+72, mib+4096) }, "log-bounds", vhdx.ErrCorrupt},
		"log of a later version":        {func(s *sparse) { s.put16(header2At+64, 1) }, "log-version", vhdx.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			s := dirty()
			c.change(s)
			s.resealAll()
			refused(t, s, c.id, c.kind)
		})
	}
}

// TestManyOverlaps compares the replay of random changes with writes into a slice.
func TestManyOverlaps(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := dirty()
		want := make([]byte, 2*mib)
		copy(want, bytes.Repeat([]byte{'o'}, mib))
		at, sequence := int64(rnd.IntN(200))*4096, uint64(10)
		tail := at
		for range 1 + rnd.IntN(8) {
			var changes []change
			for range 1 + rnd.IntN(12) {
				off := int64(rnd.IntN(64)) * 4096
				if rnd.IntN(2) == 0 {
					p := pageOf(byte(rnd.IntN(256)))
					changes = append(changes, change{off: 4*mib + off, page: p})
					copy(want[off:], p)
					continue
				}
				n := int64(rnd.IntN(20)) * 4096
				changes = append(changes, change{off: 4*mib + off, n: n})
				clear(want[off : off+n])
			}
			at = s.logEntry(at, tail, sequence, s.size, changes...)
			sequence++
		}
		if !bytes.Equal(contents(t, mustOpen(t, s)), want) {
			t.Errorf("seed %d: the contents are wrong", seed)
		}
	}
}

// refused reports an error unless Open refuses the image for a finding that the check also reports.
func refused(t *testing.T, s *sparse, id string, kind error) {
	t.Helper()
	_, err := vhdx.NewImage(s, s.size, &vhdx.OpenOptions{Parents: disk.ParentSearch{None: true}})
	var fe *vhdx.FormatError
	if !errors.As(err, &fe) || fe.ID != id || !errors.Is(err, kind) {
		t.Errorf("%v; want %s and %v", err, id, kind)
	}
	if !has(findings(t, s), id) {
		t.Errorf("the check does not report %s", id)
	}
}

func same(a, b *sparse) bool {
	if a.size != b.size || len(a.pages) != len(b.pages) {
		return false
	}
	for i, p := range a.pages {
		if q := b.pages[i]; q == nil || *q != *p {
			return false
		}
	}
	return true
}

// findings checks an image.
func findings(t testing.TB, s *sparse) []disk.Finding {
	t.Helper()
	var all []disk.Finding
	for f, err := range vhdx.NewChecker(s, s.size, nil).Findings(t.Context()) {
		if err != nil {
			t.Fatalf("check: %v", err)
		}
		all = append(all, f)
	}
	return all
}

func has(found []disk.Finding, id string) bool {
	for _, f := range found {
		if f.ID == id {
			return true
		}
	}
	return false
}
