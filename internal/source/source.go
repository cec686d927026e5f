// Package source opens the sources of commands. A source is a disk, or a stream: the bytes of a raw
// disk that can only be read in order.
//
// The options of reading are implemented here, once for every way of copying. [Error] names the
// file that could not be read, [Losses] collects the ranges replaced by zeros, and a [Throttle]
// limits the rate.
package source

import (
	"errors"
	"io"
	"math"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Source is a disk or a stream. It is for one goroutine, but its Disk can be read concurrently.
type Source struct {
	Disk   disk.Disk // nil for a stream
	Stream io.Reader // nil for a disk

	// Trailer reports whether the last 512 bytes of the stream are a footer and not part of the
	// disk. before is the number of bytes before them. Nil: they never are.
	Trailer func(b []byte, before int64) bool

	Name    string       // for messages
	File    string       // the file's name; "" if it has none that can be opened
	Format  *disk.Format // of the image; of a stream always the raw format's
	Parents []string     // the files of the open parents, nearest first
	Losses  *Losses      // the lost ranges; nil without salvaging

	// Length is the number of bytes of the disk that are in the file. It is less than Size if the
	// last sector of a raw file is incomplete. It is 0 for a stream.
	Length int64

	// SectorSize is the logical sector size that the image records, in bytes. It is 0 if it
	// records none, and the largest one of several images.
	SectorSize int64

	closer io.Closer
}

// Options say how to read a source. The zero value reads it unchanged.
type Options struct {
	// Salvage replaces unreadable sectors by zeros, and collects them in Source.Losses. It has no
	// effect on a stream, which cannot skip unreadable data.
	Salvage bool
	// Throttle, if set, limits the rate of reading. Holes do not count.
	Throttle *Throttle
}

// Size is the disk's size in bytes, or -1 for a stream.
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

// Join joins the disks of several sources to one source, which is read with the options. A stream
// must be the only source. Closing the result closes all of them.
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
			if image, ok := unnamed(s.Disk).(disk.Salvaged); ok {
				joined.Losses.images = append(joined.Losses.images, lossyImage{image, start})
			}
			start += s.Disk.Size()
		}
		joined.Losses.addKnown()
	}
	if o.Salvage || o.Throttle != nil {
		joined.Disk = &reader{Disk: joined.Disk, losses: joined.Losses, throttle: o.Throttle}
	}
	return &joined
}

// Section returns the part of a source that starts at byte skip and has count bytes, or fewer if
// the source ends before. A count below 0 means all. In a stream, the bytes before the part are
// read. Closing the section does nothing.
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
