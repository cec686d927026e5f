package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// The corpora in testdata/fuzz are small images with blocks of 4 KiB, intact or with one fault
// each.

func FuzzFooter(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		var b [512]byte
		copy(b[:], in)
		footer := vhd.DecodeFooter(&b)
		enc := footer.Encode()
		sum(b[:], 64)
		sameBytes(t, "footer", enc[:], b[:])
		_, _, _ = footer.Geometry.String(), footer.Creator.String(), footer.Type.String()
		if got, err := vhd.TimestampOf(footer.Timestamp.Time()); err != nil || got != footer.Timestamp {
			t.Fatalf("time stamp %d becomes %d, %v", footer.Timestamp, got, err)
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		var b [1024]byte
		copy(b[:], in)
		header := vhd.DecodeHeader(&b)
		enc := header.Encode()
		sum(b[:], 36)
		sameBytes(t, "header", enc[:], b[:])
	})
}

// FuzzOpen opens any file, and checks it. The two agree on what an image is, and reads agree
// with the extents.
func FuzzOpen(f *testing.F) {
	f.Fuzz(func(t *testing.T, file []byte) {
		openAndCheck(t, file)
		openAndCheck(t, summed(file))
	})
}

// summed returns the file with correct checksums in all structures. Otherwise a changed byte
// would hardly ever pass them.
func summed(file []byte) []byte {
	b := slices.Clone(file)
	if len(b) < 512 {
		return b
	}
	end := b[len(b)-512:]
	if off := be.Uint64(end[16:]); off < uint64(len(b)) && len(b)-int(off) >= 1024 {
		sum(b[off:off+1024], 36)
	}
	sum(b[:512], 64)
	sum(end, 64)
	return b
}

func openAndCheck(t *testing.T, file []byte) {
	size := int64(len(file))
	for _, rule := range []vhd.SizeRule{vhd.SizeAuto, vhd.SizeFromGeometry, vhd.SizeFromCurrent} {
		img, err := vhd.NewImage(bytes.NewReader(file), size, &vhd.OpenOptions{SizeRule: rule})
		var wrong []string
		var checkErr error
		c := vhd.NewChecker(bytes.NewReader(file), size, &vhd.CheckOptions{SizeRule: rule})
		for f, err := range c.Findings(context.Background()) {
			// These are reported, and do not prevent reading the image.
			if f.Severity == vhd.Error && !slices.Contains([]string{"trailing-footer", "leading-footer", "footers-differ", "unique-ids-differ", "current-size"}, f.ID) {
				wrong = append(wrong, f.ID)
			}
			checkErr = err
		}
		counts := c.Counts()
		if errors.Is(err, vhd.ErrNotVHD) != errors.Is(checkErr, vhd.ErrNotVHD) {
			t.Fatalf("Open: %v, Check: %v", err, checkErr)
		}
		if err != nil {
			if checkErr == nil && counts.Errors == 0 && c.Type() != vhd.Differencing {
				t.Fatalf("Open: %v, and Check finds no error", err)
			}
			continue
		}
		if checkErr != nil || len(wrong) > 0 {
			t.Fatalf("opened, but Check: %v, %q", checkErr, wrong)
		}
		if counts.Size != img.Size() {
			t.Fatalf("size %d, Check says %d", img.Size(), counts.Size)
		}
		look(t, img)
	}
	// This must not panic either.
	if img, err := vhd.NewImage(bytes.NewReader(file), size, &vhd.OpenOptions{IgnoreChecksums: true}); err == nil {
		look(t, img)
	}
}

// look reads the start and the end of a disk, and compares them with its extents.
func look(t *testing.T, img *vhd.Image) {
	const most = 64 * kib
	for _, off := range slices.Compact([]int64{0, max(0, img.Size()-most)}) {
		n := min(most, img.Size()-off)
		p := make([]byte, n)
		if k, err := img.ReadAt(p, off); int64(k) != n || err != nil && err != io.EOF {
			t.Fatalf("ReadAt of %d bytes at %d of %d: %d, %v", n, off, img.Size(), k, err)
		}
		at := off
		for e, err := range img.Extents(off, n) {
			if err != nil || e.Off != at || e.Len <= 0 {
				t.Fatalf("extent %+v, %v; want one at %d", e, err, at)
			}
			want := make([]byte, e.Len)
			if e.State == disk.Data {
				if k, err := e.File.ReadAt(want, e.FileOff); int64(k) != e.Len {
					t.Fatalf("extent %+v: %d, %v", e, k, err)
				}
			}
			sameBytes(t, "extent", p[e.Off-off:e.End()-off], want)
			at = e.End()
		}
		if at != off+n {
			t.Fatalf("extents end at %d, want %d", at, off+n)
		}
	}
}
