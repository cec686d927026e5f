// Package source opens what a command reads: a disk, or a stream, which is the bytes of a
// raw disk that can only be read in order.
//
// Everything a command asks of its reading is wrapped around the source here, once, so
// that no way of copying can lose it: [Error] names the file that could not be read,
// [Losses] collects what was replaced with zeros, and a [Throttle] limits the rate.
package source

import (
	"errors"
	"io"
	"math"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Source is a disk or a stream. It is for one goroutine, except that its Disk can be read
// by many.
type Source struct {
	Disk   disk.Disk // nil for a stream
	Stream io.Reader // nil for a disk

	// Trailer reports whether the last 512 bytes of the stream, which follow before
	// others, are a footer and not part of the disk. Nil: they never are.
	Trailer func(b []byte, before int64) bool

	Name    string       // for messages
	File    string       // the file's name; "" if it has none that can be opened
	Format  *disk.Format // of the image; of a stream always the raw format's
	Parents []string     // the files of the open parents, nearest first
	Losses  *Losses      // what was lost; nil unless salvaging

	// Length is how many bytes of the disk the file has: fewer than Size if the last
	// sector of a raw file is not whole. It is 0 for a stream.
	Length int64

	// SectorSize is the logical sector size that the image records, in bytes. It is 0 if it
	// records none, and the largest one of several images.
	SectorSize int64

	closer io.Closer
}

// Options say how a source is read. The zero value reads it as it is.
type Options struct {
	// Salvage replaces sectors that cannot be read with zeros, and collects them in
	// Source.Losses. A stream cannot skip what it cannot read, so it fails as before.
	Salvage bool
	// Throttle, if set, limits how fast data is read. Holes do not count.
	Throttle *Throttle
}

// Size is the disk's size in bytes; -1 for a stream, whose size is not known.
func (s *Source) Size() int64 {
	if s.Disk == nil {
		return -1
	}
	return s.Disk.Size()
}

// Close closes the files of the source.
func (s *Source) Close() error {
	if s.closer == nil {
		return nil
	}
	return s.closer.Close()
}

// Join returns the disks of several sources as one source, read as the options say. The
// only source may be a stream. Closing the result closes all of them.
func Join(all []*Source, o *Options) *Source {
	joined := *all[0]
	if len(all) > 1 {
		disks := make([]disk.Disk, len(all))
		joined.Name, joined.Parents, joined.Length = "", nil, 0
		for i, s := range all {
			if i > 0 {
				joined.Name += ", "
			}
			joined.Name += s.Name
			joined.Parents = append(joined.Parents, s.Parents...)
			joined.Length += s.Length
			joined.SectorSize = max(joined.SectorSize, s.SectorSize)
			disks[i] = s.Disk
		}
		joined.Disk = disk.NewConcat(disks...)
		joined.closer = joined.Disk
	}
	if joined.Disk == nil {
		if o.Throttle != nil {
			joined.Stream = &throttledStream{joined.Stream, o.Throttle}
		}
		return &joined
	}
	if o.Salvage {
		joined.Losses = &Losses{}
		start := int64(0)
		for _, s := range all {
			if known, ok := unnamed(s.Disk).(disk.Salvaged); ok {
				joined.Losses.add(start, known.Lost())
			}
			start += s.Disk.Size()
		}
	}
	if o.Salvage || o.Throttle != nil {
		joined.Disk = &reader{Disk: joined.Disk, losses: joined.Losses, throttle: o.Throttle}
	}
	return &joined
}

// Section returns the part of a source that starts skip bytes after its start and has
// count bytes, or fewer if the source ends before; a count below 0 means all. The bytes
// of a stream before it are read. Closing the section does nothing.
func (s *Source) Section(skip, count int64) (*Source, error) {
	if count < 0 {
		count = math.MaxInt64
	}
	part := *s
	part.closer = nil
	if s.Disk == nil {
		if _, err := io.CopyN(io.Discard, s.Stream, skip); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		part.Stream, part.Trailer = io.LimitReader(s.Stream, count), nil
		return &part, nil
	}
	skip = min(skip, s.Disk.Size())
	d, err := disk.NewSection(s.Disk, skip, min(count, s.Disk.Size()-skip))
	if err != nil {
		return nil, err
	}
	part.Disk, part.Length = d, d.Size()
	return &part, nil
}
