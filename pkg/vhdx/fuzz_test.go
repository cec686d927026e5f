package vhdx_test

import (
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhdx"
)

// fuzzAreas are the parts of an image that a fuzzed edit changes.
var fuzzAreas = []int64{
	0, header1At, header2At, regions1At, regions2At, metadataAt, itemsAt, batAt, batAt + 8*4096, logAt, logAt + 4096, logAt + 8192, 4 * mib,
}

// edited applies edits to a crafted image. The first byte selects the image and whether the
// checksums are corrected. Each edit has four bytes: area, offset (two bytes) and value.
func edited(edits []byte) *sparse {
	if len(edits) == 0 {
		return base()
	}
	var s *sparse
	switch edits[0] % 3 {
	case 0:
		s = base()
	case 1:
		s = childImage(512, map[string]string{"parent_linkage": linkage(0xa1), "relative_path": "parent.vhdx"})
	case 2:
		s = dirty()
		at := s.logEntry(0, 0, 5, s.size, change{off: 4 * mib, page: pageOf('a')})
		s.logEntry(at, 0, 6, s.size, change{off: 4*mib + 8192, n: 8192}, change{off: batAt, page: make([]byte, 4096)})
	}
	for e := edits[1:]; len(e) >= 4; e = e[4:] {
		s.put(fuzzAreas[int(e[0])%len(fuzzAreas)]+int64(e[1])<<8|int64(e[2]), e[3])
	}
	if edits[0]&0x80 != 0 {
		s.resealAll()
		for _, at := range []int64{logAt, logAt + 8192} {
			s.seal(at, 8192)
		}
	}
	return s
}

func addSeeds(f *testing.F) {
	for image := range byte(3) {
		f.Add([]byte{image})
		for area := range byte(len(fuzzAreas)) {
			for _, off := range []byte{0, 8, 10, 16, 20, 24, 32, 48, 68, 72} {
				f.Add([]byte{image | 0x80, area, 0, off, 0xff})
			}
		}
	}
}

// FuzzOpen opens an image and reads the start of the disk and all extents.
func FuzzOpen(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, edits []byte) {
		s := edited(edits)
		img, err := vhdx.NewImage(s, s.size, &vhdx.OpenOptions{Parents: disk.ParentSearch{None: true}})
		if err != nil {
			return
		}
		defer img.Close()
		p := make([]byte, 64<<10)
		for off := int64(0); off < min(img.Size(), 8*mib); off += 300_000 {
			_, _ = img.ReadAt(p, off)
		}
		next, n := int64(0), 0
		for e, err := range img.Extents(0, img.Size()) {
			if err != nil || n == 10_000 {
				return
			}
			if e.Off != next || e.Len <= 0 {
				t.Fatalf("extent %d+%d, want one at %d", e.Off, e.Len, next)
			}
			next = e.End()
			n++
		}
		if next != img.Size() {
			t.Fatalf("the extents end at %d, want %d", next, img.Size())
		}
	})
}

// FuzzCheck: an image without errors can be read as a whole.
func FuzzCheck(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, edits []byte) {
		s := edited(edits)
		c := vhdx.NewChecker(s, s.size, nil)
		for f, err := range c.Findings(t.Context()) {
			if err != nil {
				return
			}
			if f.ID == "" || f.Want == "" {
				t.Fatalf("finding %+v without a name or a wanted value", f)
			}
		}
		_ = c.Diagnosis()
		img, err := vhdx.NewImage(s, s.size, &vhdx.OpenOptions{Parents: disk.ParentSearch{None: true}})
		if (err != nil) && c.Counts().Errors == 0 {
			t.Fatalf("the check reports no error, and the image is refused: %v", err)
		}
		if err != nil || c.Counts().Errors > 0 || img.Metadata().HasParent {
			return
		}
		for e, err := range img.Extents(0, img.Size()) {
			if err != nil {
				t.Fatalf("the check reports no error, and extents fail: %v", err)
			}
			if _, err := img.ReadAt(make([]byte, min(e.Len, 4096)), e.Off); err != nil && e.Len > 4096 {
				t.Fatalf("the check reports no error, and a read at %d fails: %v", e.Off, err)
			}
		}
	})
}
