package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize/english"

	"github.com/vhdtool/vhdtool/internal/atomicfile"
	"github.com/vhdtool/vhdtool/internal/picture"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// filePart is a part of an image's file, as pictures show it.
type filePart struct {
	off, n int64
	kind   picture.Kind
	place  int64 // offset of data on the disk
}

// pictureWriter writes a picture into a file; it is chosen by the suffix.
func pictureWriter(name string) (func(*picture.Picture, io.Writer) error, error) {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".svg":
		return (*picture.Picture).SVG, nil
	case ".png":
		return (*picture.Picture).PNG, nil
	}
	return nil, usagef("A picture is .svg or .png, not '%s'", name)
}

// plot writes the picture of a disk to a new file.
func (c *cli) plot(p *picture.Picture, name string) error {
	write, err := pictureWriter(name)
	if err != nil {
		return err
	}
	f, err := atomicfile.Create(name)
	if err != nil {
		return c.createError(name, err)
	}
	if err := write(p, f); err != nil {
		f.Discard()
		return fmt.Errorf("%s: %w", name, withoutPath(err))
	}
	return f.Commit(false)
}

// drawDisk draws a disk and its file.
func drawDisk(ctx context.Context, ref imageRef, d disk.Disk, f *format) (*picture.Picture, error) {
	st, err := os.Stat(ref.name)
	if err != nil {
		return nil, err
	}
	strip := picture.NewStrip("Disk", d.Size(), d.Size())
	for e, err := range d.Extents(0, d.Size()) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		strip.Add(e.Off, e.Len, extentKind(e), e.Off)
	}
	length, err := fileLength(ref.name, st)
	if err != nil {
		return nil, err
	}
	file, err := drawFile(ctx, d, f, length)
	if err != nil {
		return nil, err
	}
	title := ref.name + ": " + f.Name
	if d, ok := d.(disk.Describer); ok && d.Subformat() != "" {
		title += ", " + d.Subformat()
	}
	return &picture.Picture{Title: title, Strips: []*picture.Strip{strip, file}}, nil
}

// extentKind returns the picture's kind for an extent.
func extentKind(e disk.Extent) picture.Kind {
	switch e.State {
	case disk.Data:
		return picture.InheritedFrom(e.Depth)
	case disk.Zero:
		return picture.Zero
	}
	return picture.Hole
}

// drawFile draws the file, and counts the runs of its data. The data of a run is also consecutive
// on the disk.
func drawFile(ctx context.Context, d disk.Disk, f *format, length int64) (*picture.Strip, error) {
	parts := plainParts(d, length)
	if f.fileParts != nil {
		parts = f.fileParts(d, length)
	}
	strip := picture.NewStrip("File", length, d.Size())
	strip.ByPlace = true
	runs, next := 0, int64(-1)
	for p, err := range parts {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		strip.Add(p.off, p.n, p.kind, p.place)
		if p.kind == picture.Data {
			if p.place != next {
				runs++
			}
			next = p.place + p.n
		}
	}
	if runs > 0 {
		strip.Note = "data in " + english.Plural(runs, "run", "")
	}
	return strip, nil
}

// plainParts returns the parts of a file that starts with the bytes of the disk.
func plainParts(d disk.Disk, length int64) iter.Seq2[filePart, error] {
	return func(yield func(filePart, error) bool) {
		for e, err := range d.Extents(0, min(d.Size(), length)) {
			p := filePart{e.Off, e.Len, extentKind(e), e.Off}
			if p.kind == picture.Zero { // allocated, but a hole in the file
				p.kind = picture.Hole
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}
