package target

import (
	"bufio"
	"context"
	"io"

	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Stream is an output that is written sequentially.
type Stream struct {
	W io.WriteCloser
	// Image writes an image of a disk. Nil: the image is the bytes of the disk, and then End.
	Image func(ctx context.Context, w io.Writer, d disk.Disk, o *convert.Options) error
	// End writes the end of an image after the n bytes of its disk. Nil: there is none. End with
	// [io.Discard] and 0 returns an error if it cannot.
	End func(w io.Writer, n int64) error

	size int64
}

// Copy implements [Target]. It writes nothing if the format cannot be streamed from a stream.
func (t *Stream) Copy(ctx context.Context, src *source.Source, o *convert.Options) error {
	t.size = src.Size()
	switch {
	case src.Disk == nil:
		return t.passOn(ctx, src, o)
	case t.Image != nil:
		return t.Image(ctx, t.W, src.Disk, o)
	}
	if err := convert.WriteTo(ctx, t.W, src.Disk, o); err != nil {
		return err
	}
	return t.end(t.W, t.size)
}

// passOn copies a stream.
func (t *Stream) passOn(ctx context.Context, src *source.Source, o *convert.Options) error {
	if err := t.end(io.Discard, 0); err != nil {
		return &StreamError{err}
	}
	out := bufio.NewWriterSize(t.W, 1<<20)
	n, err := convert.CopyStream(ctx, out, src.Stream, src.Trailer, o)
	t.size = n
	if err == nil {
		err = t.end(out, n)
	}
	if err == nil {
		err = out.Flush()
	}
	return err
}

func (t *Stream) end(w io.Writer, n int64) error {
	if t.End == nil {
		return nil
	}
	return t.End(w, n)
}

// StreamError reports an image that cannot be written to a stream from a stream.
type StreamError struct{ Err error }

func (e *StreamError) Error() string { return e.Err.Error() }

func (e *StreamError) Unwrap() error { return e.Err }

// Size implements [Target]. It is the size of the source.
func (t *Stream) Size() int64 { return t.size }

// Commit implements [Target]. A stream is not flushed.
func (t *Stream) Commit(bool) error { return t.W.Close() }

// Discard implements [Target].
func (t *Stream) Discard() { _ = t.W.Close() }
