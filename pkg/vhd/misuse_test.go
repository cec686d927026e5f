package vhd_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/chain"
)

// Nil options are the zero value in every call with options. The call works or returns an
// error, and never panics.
func TestNilOptions(t *testing.T) {
	ctx := t.Context()
	_, fixed := parentDisk(1)
	var none *vhd.CreateOptions
	name := func(t *testing.T) string { return filepath.Join(t.TempDir(), "a.vhd") }
	stored := func(t *testing.T) string {
		dir := t.TempDir()
		tree(t, dir, map[string][]byte{"a.vhd": fixed})
		return filepath.Join(dir, "a.vhd")
	}
	source := raw.Open(bytes.NewReader(fixed), 16*kib)
	target := func() convert.Target { return raw.OpenWrite(newMemFile(make([]byte, 16*kib)), 16*kib) }
	vpc := disk.Formats{&vhd.Format, &raw.Format}
	for what, c := range map[string]struct {
		call func(t *testing.T) error
		want error // nil for no error
	}{
		"vhd.Open": {func(t *testing.T) error {
			img, err := vhd.Open(stored(t), nil)
			return closing(img, err)
		}, nil},
		"NewImage": {func(*testing.T) error {
			img, err := vhd.NewImage(bytes.NewReader(fixed), int64(len(fixed)), nil)
			return closing(img, err)
		}, nil},
		"Create": {func(t *testing.T) error {
			img, err := vhd.Create(name(t), nil)
			return closing(img, err)
		}, nil},
		"CreateIn": {func(*testing.T) error {
			img, err := vhd.CreateIn(newMemFile(nil), nil)
			return closing(img, err)
		}, nil},
		"chain.Commit":     {func(t *testing.T) error { return chain.Commit(ctx, stored(t), nil) }, vhd.ErrUnsupported},
		"chain.Rebase":     {func(t *testing.T) error { return chain.Rebase(ctx, stored(t), nil) }, vhd.ErrUnsupported},
		"WriteStream":      {func(*testing.T) error { return vhd.WriteStream(ctx, io.Discard, nil, source, nil, nil) }, nil},
		"WriteFixedEnd":    {func(*testing.T) error { return vhd.WriteFixedEnd(io.Discard, nil) }, vhd.ErrUnsupported},
		"Validate":         {func(*testing.T) error { return none.Validate() }, nil},
		"VirtualSize":      {func(*testing.T) error { _, err := none.VirtualSize(); return err }, nil},
		"FileLength":       {func(*testing.T) error { _, err := none.FileLength(1); return err }, nil},
		"BlockLayout":      {func(*testing.T) error { _, _, err := none.BlockLayout(); return err }, nil},
		"ParseOpenOptions": {func(*testing.T) error { _, err := vhd.ParseOpenOptions(nil); return err }, nil},
		"ParseCreateOptions": {func(*testing.T) error {
			_, err := vhd.ParseCreateOptions(0, nil)
			return err
		}, nil},
		"Check": {func(*testing.T) error {
			for _, err := range vhd.NewChecker(bytes.NewReader(fixed), int64(len(fixed)), nil).Findings(ctx) {
				if err != nil {
					return err
				}
			}
			return nil
		}, nil},
		"Repair": {func(*testing.T) error {
			_, err := repaired(ctx, newMemFile(bytes.Clone(fixed)), int64(len(fixed)), nil)
			return err
		}, nil},
		"disk.Open": {func(t *testing.T) error {
			d, _, err := disk.Open(stored(t), vpc, nil)
			return closing(d, err)
		}, nil},
		"disk.OpenAs": {func(*testing.T) error {
			d, _, err := disk.OpenAs(bytes.NewReader(fixed), int64(len(fixed)), vpc, nil)
			return closing(d, err)
		}, nil},
		"vhd.Format.Open": {func(*testing.T) error {
			d, err := vhd.Format.Open(bytes.NewReader(fixed), int64(len(fixed)), nil)
			return closing(d, err)
		}, nil},
		"vhd.Format.Create": {func(*testing.T) error {
			d, err := vhd.Format.Create(newMemFile(nil), 0, nil)
			return closing(d, err)
		}, nil},
		"vhd.Format.CheckOptions": {func(*testing.T) error { return vhd.Format.CheckOptions(nil) }, nil},
		"raw.Format.Open": {func(*testing.T) error {
			d, err := raw.Format.Open(bytes.NewReader(fixed), int64(len(fixed)), nil)
			return closing(d, err)
		}, nil},
		"raw.Format.Create": {func(*testing.T) error {
			d, err := raw.Format.Create(newMemFile(nil), 0, nil)
			return closing(d, err)
		}, nil},
		"raw.Format.CheckOptions": {func(*testing.T) error { return raw.Format.CheckOptions(nil) }, nil},
		"convert.Copy":            {func(*testing.T) error { return convert.Copy(ctx, target(), source, nil) }, nil},
		"convert.CopyDifference":  {func(*testing.T) error { return convert.CopyDifference(ctx, target(), source, source, nil) }, nil},
		"convert.Compare":         {func(*testing.T) error { _, err := convert.Compare(ctx, source, source, nil); return err }, nil},
		"convert.WriteTo":         {func(*testing.T) error { return convert.WriteTo(ctx, io.Discard, source, nil) }, nil},
		"convert.ReadFrom": {func(*testing.T) error {
			_, err := convert.ReadFrom(ctx, target().(convert.GrowingTarget), bytes.NewReader(fixed), nil, nil)
			return err
		}, nil},
	} {
		t.Run(what, func(t *testing.T) {
			if err := c.call(t); !errors.Is(err, c.want) {
				t.Errorf("%v; want %v", err, c.want)
			}
		})
	}
}

// closing closes a disk that was opened without an error.
func closing(d disk.Disk, err error) error {
	if err != nil {
		return err
	}
	return d.Close()
}

// Extents returns an error for an invalid range of a disk of any type. Past the end of the disk
// it yields nothing.
func TestExtentsOfNoRange(t *testing.T) {
	_, fixed := parentDisk(1)
	c := craft{size: 16 * kib, blocks: []block{{0, 8, nil, pattern(4*kib, 1)}}}
	dynamic := c.bytes()
	part, err := disk.NewSection(openBytes(t, fixed, nil), 4*kib, 8*kib)
	must(t, err)
	for name, d := range map[string]disk.Disk{
		"fixed": openBytes(t, fixed, nil), "dynamic": openBytes(t, dynamic, nil),
		"raw": raw.Open(bytes.NewReader(fixed), 16*kib), "section": part,
		"concat":           disk.NewConcat(openBytes(t, fixed, nil), openBytes(t, dynamic, nil)),
		"concat of no one": disk.NewConcat(),
	} {
		for _, r := range [][2]int64{{-1, 512}, {0, -1}, {512, -512}, {math.MinInt64, math.MaxInt64}, {-512, 1024}, {d.Size() + 1, -1}} {
			n, failed := 0, false
			for _, err := range d.Extents(r[0], r[1]) {
				n, failed = n+1, failed || err != nil
			}
			if n != 1 || !failed {
				t.Errorf("%s: Extents(%d, %d) yields %d times, failed is %t; want one error", name, r[0], r[1], n, failed)
			}
		}
		for _, r := range [][2]int64{{d.Size(), 512}, {d.Size() + 512, math.MaxInt64}, {0, 0}, {d.Size(), 0}, {math.MaxInt64, math.MaxInt64}} {
			for e, err := range d.Extents(r[0], r[1]) {
				t.Errorf("%s: Extents(%d, %d) yields %+v, %v; want nothing", name, r[0], r[1], e, err)
			}
		}
		total := int64(0)
		for e, err := range d.Extents(min(512, d.Size()), math.MaxInt64) {
			must(t, err)
			total += e.Len
		}
		if want := max(0, d.Size()-512); total != want {
			t.Errorf("%s: the extents from byte 512 on have %d bytes, want %d", name, total, want)
		}
	}
}

// device is a file whose length is fixed.
type device struct{ *memFile }

func (device) FixedLength() bool { return true }

// A device that is too small gives the error of a full file system, and no disk.
func TestFullDevice(t *testing.T) {
	small := func() disk.File { return device{newMemFile(make([]byte, 64*kib))} }
	for name, create := range map[string]func() (disk.Disk, error){
		"raw.Format": func() (disk.Disk, error) { return raw.Format.Create(small(), 128*kib, nil) },
		"vhd.Format": func() (disk.Disk, error) {
			return vhd.Format.Create(small(), 128*kib, disk.Options{"subformat": "fixed", "force_size": "on"})
		},
	} {
		if d, err := create(); d != nil || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v, %v; want no disk and ENOSPC", name, d, err)
		}
	}
	if d, err := raw.Create(small(), 128*kib); d != nil || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("raw.Create: %v, %v; want no disk and ENOSPC", d, err)
	}
	img, err := vhd.CreateIn(small(), &vhd.CreateOptions{Size: 128 * kib, Exact: true, BlockSize: 16 * kib})
	must(t, err)
	if _, err := img.WriteAt(pattern(128*kib, 1), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("WriteAt to a full device: %v; want ENOSPC", err)
	}
	if err := raw.OpenWrite(small(), 64*kib).Resize(t.Context(), 128*kib, nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Resize of a raw disk on a device: %v; want ENOSPC", err)
	}
}

// failingFile is a file that cannot be truncated.
type failingFile struct{ *memFile }

var errNoTruncate = errors.New("no truncate")

func (failingFile) Truncate(int64) error { return errNoTruncate }

// A disk that could not be opened or created is nil, also as an interface.
func TestNoDiskWithAnError(t *testing.T) {
	garbage := bytes.NewReader(make([]byte, 1024))
	writable := disk.OpenOptions{Write: true}
	for name, call := range map[string]func() (disk.Disk, error){
		"vhd.Format.Open":            func() (disk.Disk, error) { return vhd.Format.Open(garbage, 1024, nil) },
		"vhd.Format.Open, read-only": func() (disk.Disk, error) { return vhd.Format.Open(garbage, 1024, &writable) },
		"raw.Format.Open, read-only": func() (disk.Disk, error) { return raw.Format.Open(garbage, 1024, &writable) },
		"raw.Format.Open, bad options": func() (disk.Disk, error) {
			return raw.Format.Open(garbage, 1024, &disk.OpenOptions{Options: disk.Options{"a": "b"}})
		},
		"vhd.Format.Create":            func() (disk.Disk, error) { return vhd.Format.Create(failingFile{newMemFile(nil)}, kib, nil) },
		"raw.Format.Create":            func() (disk.Disk, error) { return raw.Format.Create(failingFile{newMemFile(nil)}, kib, nil) },
		"vhd.Format.Create, too large": func() (disk.Disk, error) { return vhd.Format.Create(newMemFile(nil), math.MaxInt64, nil) },
		"raw.Format.Create, too large": func() (disk.Disk, error) { return raw.Format.Create(newMemFile(nil), math.MaxInt64, nil) },
		"disk.OpenAs": func() (disk.Disk, error) {
			d, _, err := disk.OpenAs(garbage, 1024, disk.Formats{&vhd.Format}, &disk.OpenOptions{Format: "vpc"})
			return d, err
		},
	} {
		if d, err := call(); d != nil || err == nil {
			t.Errorf("%s: %v, %v; want nil and an error", name, d, err)
		}
	}
	if d, err := raw.Create(failingFile{newMemFile(nil)}, kib); d != nil || err == nil {
		t.Errorf("raw.Create: %v, %v; want nil and an error", d, err)
	}
	if d, err := vhd.CreateIn(failingFile{newMemFile(nil)}, nil); d != nil || err == nil {
		t.Errorf("vhd.CreateIn: %v, %v; want nil and an error", d, err)
	}
}

// countedCloser counts how often it is closed.
type countedCloser struct {
	io.ReaderAt
	n int
}

func (c *countedCloser) Close() error { c.n++; return nil }

// Only files that the caller passes for closing are closed, each once.
func TestWhoCloses(t *testing.T) {
	_, fixed := parentDisk(1)
	size := int64(len(fixed))
	for name, open := range map[string]func(r io.ReaderAt, c io.Closer) (disk.Disk, error){
		"NewImage": func(r io.ReaderAt, c io.Closer) (disk.Disk, error) {
			return vhd.NewImage(r, size, &vhd.OpenOptions{Closer: c})
		},
		"vhd.Format.Open": func(r io.ReaderAt, c io.Closer) (disk.Disk, error) {
			return vhd.Format.Open(r, size, &disk.OpenOptions{Closer: c})
		},
		"raw.Format.Open": func(r io.ReaderAt, c io.Closer) (disk.Disk, error) {
			return raw.Format.Open(r, size, &disk.OpenOptions{Closer: c})
		},
		"disk.OpenAs": func(r io.ReaderAt, c io.Closer) (disk.Disk, error) {
			d, _, err := disk.OpenAs(r, size, disk.Formats{&vhd.Format}, &disk.OpenOptions{Closer: c})
			return d, err
		},
	} {
		for _, owned := range []bool{false, true} {
			r := &countedCloser{ReaderAt: bytes.NewReader(fixed)}
			var c io.Closer
			want := 0
			if owned {
				c, want = r, 1
			}
			d, err := open(r, c)
			must(t, err)
			must(t, d.Close())
			if r.n != want {
				t.Errorf("%s, given to close %t: closed %d times", name, owned, r.n)
			}
		}
	}
	bad := &countedCloser{ReaderAt: bytes.NewReader(make([]byte, 1024))}
	if _, err := vhd.NewImage(bad, 1024, &vhd.OpenOptions{Closer: bad}); err == nil || bad.n != 0 {
		t.Errorf("NewImage of garbage: %v, closed %d times; want an error, and the caller to close", err, bad.n)
	}
}
