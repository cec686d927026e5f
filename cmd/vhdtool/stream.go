package main

import (
	"context"
	"io"

	"github.com/vhdtool/vhdtool/internal/target"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// newStream opens a target that is written sequentially.
func (v *conversion) newStream(ctx context.Context, in *input) (*target.Stream, error) {
	if err := checkOptions(v.format, v.given); err != nil {
		return nil, err
	}
	if err := checkValues(v.format, v.options); err != nil {
		return nil, err
	}
	w, err := v.openStream(ctx, v.target)
	if err != nil {
		return nil, err
	}
	if err := v.wanted.promise(v.format, in.Size(), v.given); err != nil {
		w.Close()
		return nil, conversionError(streamName(v.target), v.format, err)
	}
	return v.format.streamTo(w, v.options), nil
}

// streamTo returns a target that writes an image of the format to w.
func (f *format) streamTo(w io.WriteCloser, o disk.Options) *target.Stream {
	t := &target.Stream{W: w}
	if f.stream != nil {
		t.Image = func(ctx context.Context, w io.Writer, d disk.Disk, co *convert.Options) error {
			return f.stream(ctx, w, d, o, co)
		}
	}
	if f.streamEnd != nil {
		t.End = func(w io.Writer, n int64) error { return f.streamEnd(w, n, o) }
	}
	return t
}
