package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// orphan is data in the file that no BAT entry refers to.
type orphan struct {
	Offset     int64   `json:"offset"`
	Length     int64   `json:"length"`           // bytes of data
	Blocks     []int64 `json:"blocks,omitempty"` // the blocks that it may be
	Written    int64   `json:"written-sectors"`  // sectors that its bitmap marks
	Unreadable int64   `json:"unreadable,omitempty"`
	File       string  `json:"file"`
}

// writeOrphans writes each orphan of the image to a new file in the directory of
// --orphans, and lists them.
func (k *checking) writeOrphans(ctx context.Context, counts *checkCounts, size int64) error {
	if err := os.Mkdir(k.o.orphans, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
		return pathFirst(err)
	}
	found := false
	for o, err := range vhd.Orphans(ctx, k.file, size) {
		if _, format := errors.AsType[*vhd.FormatError](err); format {
			return nil // the findings report the error
		}
		if err != nil {
			return k.openError(k.ref, err)
		}
		found = true
		x, err := k.writeOrphan(ctx, &o)
		if err != nil {
			return pathFirst(err)
		}
		if k.talks() {
			fmt.Fprintln(k.stdout, x.String())
		}
		if k.o.output == "json" {
			counts.Orphans = append(counts.Orphans, x)
		}
	}
	if !found && k.talks() {
		fmt.Fprintln(k.stdout, "No orphans were found.")
	}
	return nil
}

// orphanChunk is the number of bytes of an orphan to read at a time.
const orphanChunk = 64 << 10

// writeOrphan writes the data of an orphan to a new file. Unreadable sectors become zeros.
func (k *checking) writeOrphan(ctx context.Context, o *disk.Orphan) (orphan, error) {
	x := orphan{Offset: o.Offset, Length: o.Length, Blocks: o.Blocks, File: filepath.Join(k.o.orphans, fmt.Sprintf("block-at-%d.raw", o.Offset))}
	bitmap := make([]byte, o.Bitmap)
	if _, err := readSalvaging(k.file, bitmap, o.Offset); err != nil {
		return x, err
	}
	for i := range o.Length / vhd.SectorSize {
		x.Written += int64(bits.OnesCount8(bitmap[i/8] & (0x80 >> (i % 8))))
	}
	f, err := os.OpenFile(x.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return x, err
	}
	if err = f.Truncate(o.Length); err == nil {
		x.Unreadable, err = k.copyOrphan(ctx, f, o)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = os.Remove(x.File)
	}
	return x, err
}

// copyOrphan copies the data of an orphan to f as a sparse file, and returns the number of
// unreadable bytes.
func (k *checking) copyOrphan(ctx context.Context, f *os.File, o *disk.Orphan) (unreadable int64, err error) {
	buf := make([]byte, orphanChunk)
	for off := int64(0); off < o.Length; off += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return unreadable, err
		}
		buf = buf[:min(int64(len(buf)), o.Length-off)]
		lost, err := readSalvaging(k.file, buf, o.Offset+o.Bitmap+off)
		if err != nil {
			return unreadable, err
		}
		unreadable += lost
		if len(bytes.Trim(buf, "\x00")) == 0 {
			continue
		}
		if _, err := f.WriteAt(buf, off); err != nil {
			return unreadable, err
		}
	}
	return unreadable, nil
}

// readSalvaging fills p from offset off. Unreadable sectors become zeros. It returns the number of
// unreadable bytes.
func readSalvaging(r io.ReaderAt, p []byte, off int64) (lost int64, err error) {
	if n, err := r.ReadAt(p, off); n == len(p) {
		return 0, nil
	} else if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
		return 0, err
	}
	for at := 0; at < len(p); at += vhd.SectorSize {
		sector := p[at:min(len(p), at+vhd.SectorSize)]
		if n, err := r.ReadAt(sector, off+int64(at)); n < len(sector) {
			if errors.Is(err, os.ErrClosed) {
				return 0, err
			}
			clear(sector)
			lost += int64(len(sector))
		}
	}
	return lost, nil
}

// String returns a line about the orphan.
func (x *orphan) String() string {
	whose := "its block is not known"
	switch len(x.Blocks) {
	case 0:
	case 1:
		whose = fmt.Sprintf("by its position it is block %d", x.Blocks[0])
	default:
		whose = "it may be one of the blocks " + joinInts(x.Blocks)
	}
	line := fmt.Sprintf("orphan at offset %d: %s; its bitmap marks %d of %d sectors as written; data in %s",
		x.Offset, whose, x.Written, x.Length/vhd.SectorSize, x.File)
	if x.Unreadable > 0 {
		line += fmt.Sprintf("; %d bytes cannot be read and are zeros", x.Unreadable)
	}
	return line
}

// joinInts returns "1, 2, 3".
func joinInts(n []int64) string {
	var b bytes.Buffer
	for i, v := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprint(&b, v)
	}
	return b.String()
}
