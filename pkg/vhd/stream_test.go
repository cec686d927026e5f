package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// streamOptions are those of a dynamic image of ten 4 KiB blocks.
func streamOptions() *vhd.CreateOptions {
	return &vhd.CreateOptions{Size: 10 * 4 * kib, Exact: true, BlockSize: 4 * kib, UniqueID: someID, Time: someTime}
}

// Invalid arguments are refused before a byte is written.
func TestStreamMisuse(t *testing.T) {
	parent := raw.Open(newMemFile(make([]byte, 40*kib)), 40*kib)
	with := func(edit func(o *vhd.CreateOptions)) *vhd.CreateOptions {
		o := streamOptions()
		edit(o)
		return o
	}
	fixedOptions := with(func(o *vhd.CreateOptions) { o.Type, o.BlockSize = vhd.Fixed, 0 })
	for _, c := range []struct {
		name   string
		o      *vhd.CreateOptions
		blocks []int64
		want   string // part of the error
		is     error  // error that it wraps, or nil
	}{
		{"doubled block", streamOptions(), []int64{1, 2, 2, 3}, "block 2 is listed twice", nil},
		{"descending blocks", streamOptions(), []int64{1, 5, 4}, "block 4 is listed after block 5", nil},
		{"doubled block, apart", streamOptions(), []int64{1, 5, 1}, "block 1 is listed after block 5", nil},
		{"negative block", streamOptions(), []int64{-1}, "block -1: the disk has 10 blocks", nil},
		{"block beyond the disk", streamOptions(), []int64{0, 10}, "block 10: the disk has 10 blocks", nil},
		{"block of an empty disk", nil, []int64{0}, "block 0: the disk has 0 blocks", nil},
		{"block of a fixed disk", fixedOptions, []int64{0}, "a fixed disk has none", nil},
		{"parent", with(func(o *vhd.CreateOptions) { o.Parent = parent }), nil, "differencing", vhd.ErrUnsupported},
		{"parent of a fixed disk", &vhd.CreateOptions{Type: vhd.Fixed, Parent: parent}, nil, "differencing", vhd.ErrUnsupported},
		{"differencing without a parent", &vhd.CreateOptions{Type: vhd.Differencing}, nil, "differencing", vhd.ErrUnsupported},
		{"negative size", &vhd.CreateOptions{Size: -1}, nil, "negative", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			progress := func(done, total int64) { t.Errorf("progress is %d of %d", done, total) }
			err := vhd.WriteStream(context.Background(), &out, c.o, bytes.NewReader(make([]byte, 40*kib)), c.blocks, progress)
			if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v, want an error with %q that wraps %v", err, c.want, c.is)
			}
			if out.Len() > 0 {
				t.Errorf("%d bytes were written", out.Len())
			}
		})
	}
}

// The end of a fixed disk is written only for a fixed disk.
func TestFixedEndMisuse(t *testing.T) {
	parent := raw.Open(newMemFile(make([]byte, 4*kib)), 4*kib)
	for name, o := range map[string]*vhd.CreateOptions{
		"nil options": nil, "dynamic": {Size: 4 * kib}, "parent": {Parent: parent}, "parent of a fixed disk": {Type: vhd.Fixed, Size: 4 * kib, Parent: parent},
	} {
		var out bytes.Buffer
		if err := vhd.WriteFixedEnd(&out, o); !errors.Is(err, vhd.ErrUnsupported) || out.Len() > 0 {
			t.Errorf("%s: %v, and %d bytes were written; want ErrUnsupported and none", name, err, out.Len())
		}
	}
}

// Nil options are the zero value: an empty dynamic disk.
func TestStreamNilOptions(t *testing.T) {
	var out bytes.Buffer
	if err := vhd.WriteStream(context.Background(), &out, nil, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	if img := openBytes(t, out.Bytes(), nil); img.Size() != 0 || img.Type() != vhd.Dynamic {
		t.Errorf("a %v disk of %d bytes, want a dynamic one of 0", img.Type(), img.Size())
	}
}

// largestRead is a source that records the longest read.
type largestRead struct {
	io.ReaderAt
	n int
}

func (r *largestRead) ReadAt(p []byte, off int64) (int, error) {
	r.n = max(r.n, len(p))
	return r.ReaderAt.ReadAt(p, off)
}

// The context is checked at least once per 1 MiB, and progress ends with the whole file. A
// cancelled stream ends with the context's error, and no byte follows.
func TestStreamProgressAndCancel(t *testing.T) {
	const size = 6*mib + 512
	disk := pattern(size, 1)
	for name, o := range map[string]vhd.CreateOptions{
		"dynamic":      {Size: size, Exact: true},
		"small blocks": {Size: size, Exact: true, BlockSize: 64 * kib},
		"fixed":        {Size: size, Exact: true, Type: vhd.Fixed},
	} {
		t.Run(name, func(t *testing.T) {
			o.UniqueID, o.Time = someID, someTime
			var blocks []int64
			n, _, err := o.BlockLayout()
			must(t, err)
			for b := range n {
				if b%4 != 1 { // leave out some
					blocks = append(blocks, b)
				}
			}
			var whole bytes.Buffer
			src := &largestRead{ReaderAt: bytes.NewReader(disk)}
			var moments []int64
			must(t, vhd.WriteStream(context.Background(), &whole, &o, src, blocks, func(done, total int64) {
				if done != int64(whole.Len()) || len(moments) > 0 && done-moments[len(moments)-1] > mib {
					t.Fatalf("progress %d after %v, with %d bytes written", done, moments, whole.Len())
				}
				if length, err := o.FileLength(int64(len(blocks))); total != length || err != nil {
					t.Fatalf("a total of %d, want %d, the length of the file; %v", total, length, err)
				}
				moments = append(moments, done)
			}))
			if moments[len(moments)-1] != int64(whole.Len()) || src.n > mib {
				t.Errorf("the last progress is %d of %d bytes; the longest read has %d", moments[len(moments)-1], whole.Len(), src.n)
			}
			for i, at := range moments[:len(moments)-1] {
				if len(moments) > 40 && i%7 != 0 {
					continue
				}
				ctx, cancel := context.WithCancel(context.Background())
				var out bytes.Buffer
				err := vhd.WriteStream(ctx, &out, &o, bytes.NewReader(disk), blocks, func(done, _ int64) {
					if done == at {
						cancel()
					}
				})
				cancel()
				if !errors.Is(err, context.Canceled) || int64(out.Len()) != at {
					t.Fatalf("cancelled after %d bytes: %v, and %d bytes", at, err, out.Len())
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out bytes.Buffer
	if err := vhd.WriteStream(ctx, &out, streamOptions(), nil, nil, nil); !errors.Is(err, context.Canceled) || out.Len() > 0 {
		t.Errorf("with a context that is done: %v, and %d bytes", err, out.Len())
	}
}

// The stream equals the file that CreateIn makes, and reads as the source.
func TestStreamIsTheFile(t *testing.T) {
	o := streamOptions()
	disk := pattern(40*kib, 3)
	clear(disk[8*kib : 20*kib])
	var out bytes.Buffer
	must(t, vhd.WriteStream(context.Background(), &out, o, bytes.NewReader(disk), []int64{0, 1, 5, 6, 7, 8, 9}, nil))
	m := newMemFile(nil)
	img, err := vhd.CreateIn(m, o)
	must(t, err)
	for b := range 10 {
		if b < 2 || b > 4 {
			write(t, img, disk[b*4*kib:][:4*kib], int64(b*4*kib))
		}
	}
	must(t, img.Close())
	sameBytes(t, "file", out.Bytes(), m.bytes())
	sameBytes(t, "contents", readAll(t, openBytes(t, out.Bytes(), nil)), disk)
}
