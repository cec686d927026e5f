package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/vhdtool/vhdtool/internal/decompress"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// ErrDynamicStream reports a stream that is a dynamic VHD, which cannot be read in order.
var ErrDynamicStream = errors.New("a dynamic VHD cannot be read from a pipe or from compressed data, only a raw disk or a fixed VHD")

// OpenOptions say how to open a source.
type OpenOptions struct {
	Formats disk.Formats
	Image   disk.OpenOptions // of an image; a stream uses only the format
	// Compressed detects compressed files, which are streams, and decompresses streams, if
	// the format is not given. Without it a stream is the bytes of a raw disk.
	Compressed bool
	// Refuse is called with the first bytes of a raw disk, at most a sector, if no format is
	// given. It returns an error if the named file is no disk. The file of a pipe is "". If
	// Refuse is nil, any bytes are a raw disk.
	Refuse func(head []byte, file string) error
	// OpenFIFO opens a named pipe for reading, and waits until it has a writer or the
	// context is done. Nil: a pipe is refused.
	OpenFIFO func(ctx context.Context, name string) (*os.File, error)
	// Interruptible returns a reader of the stream r whose calls return when the context
	// is done.
	Interruptible func(ctx context.Context, r io.Reader) io.Reader
}

// Open opens the named file, which is an image, a named pipe or compressed data. A pipe and
// compressed data are streams of a raw disk or a fixed VHD. The errors do not name the
// file, except for an *[fs.PathError].
func Open(ctx context.Context, name string, o *OpenOptions) (*Source, error) {
	st, err := os.Stat(name)
	switch {
	case err == nil && st.Mode()&fs.ModeNamedPipe != 0 && o.OpenFIFO != nil:
		f, err := o.OpenFIFO(ctx, name)
		if err != nil {
			return nil, err
		}
		return stream(ctx, f, name, name, o)
	case err == nil && st.Mode().IsRegular() && o.Compressed && o.Image.Format == "":
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		if isCompressed(f) {
			return stream(ctx, f, name, name, o)
		}
		f.Close()
	}
	d, f, err := disk.Open(name, o.Formats, &o.Image)
	if err != nil {
		return nil, err
	}
	if err := o.checkRaw(d, f, name); err != nil {
		d.Close()
		return nil, err
	}
	s := newDisk(d, f, name)
	s.File = name
	return s, nil
}

// Standard opens an open file, such as standard input, that messages call name. A regular
// file at its start is an image, unless it is compressed; everything else is a stream.
// Closing the source closes a stream's file.
func Standard(ctx context.Context, f *os.File, name string, o *OpenOptions) (*Source, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	pos, err := f.Seek(0, io.SeekCurrent)
	if err != nil || pos != 0 || !st.Mode().IsRegular() || o.Image.Format == "" && o.Compressed && isCompressed(f) {
		return stream(ctx, f, name, "", o)
	}
	image := o.Image
	image.Write, image.Lock, image.Closer = false, nil, nil
	d, format, err := disk.OpenAs(f, st.Size(), o.Formats, &image)
	if err != nil {
		return nil, err
	}
	if err := o.checkRaw(d, format, ""); err != nil {
		d.Close()
		return nil, err
	}
	return newDisk(d, format, name), nil
}

// checkRaw calls Refuse for a disk that is raw only because no format was detected.
func (o *OpenOptions) checkRaw(d disk.Disk, f *disk.Format, file string) error {
	if o.Refuse == nil || f != &raw.Format || o.Image.Format != "" {
		return nil
	}
	head := make([]byte, min(d.Size(), disk.SectorSize))
	if _, err := d.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return o.Refuse(head, file)
}

// newDisk returns a source for an open disk.
func newDisk(d disk.Disk, f *disk.Format, name string) *Source {
	s := Source{Name: name, Format: f, Length: d.Size(), closer: d}
	if r, ok := d.(*raw.Disk); ok {
		s.Length = r.Length()
	}
	if x, ok := d.(disk.SectorSizer); ok {
		s.SectorSize = x.LogicalSectorSize()
	}
	s.Disk, s.Parents = Named(d, name), parentFiles(d)
	return &s
}

// Image is the disk as its format opened it, for format-specific methods. It is nil for a stream,
// and for several images.
func (s *Source) Image() disk.Disk {
	if n, ok := s.Disk.(*named); ok {
		return n.Disk
	}
	return nil
}

// isCompressed reports whether a file starts like compressed data.
func isCompressed(r io.ReaderAt) bool {
	var magic [decompress.MagicSize]byte
	n, _ := r.ReadAt(magic[:], 0)
	return decompress.Format(magic[:n]) != ""
}

// stream returns the bytes of a file as a stream. Unless a format was given, compressed
// data is decompressed, and a fixed VHD is recognised. After an error the file is closed.
func stream(ctx context.Context, f *os.File, name, file string, o *OpenOptions) (*Source, error) {
	fail := func(err error) (*Source, error) {
		f.Close()
		return nil, err
	}
	s := Source{Name: name, File: file, Format: &raw.Format, closer: f}
	in := o.Interruptible(ctx, f)
	switch {
	case o.Image.Format == raw.Format.Name, o.Image.Format == "" && !o.Compressed:
		s.Stream = &namedStream{r: in, name: name}
		return &s, nil
	case o.Image.Format != "":
		return fail(fmt.Errorf("format %s cannot be read from a pipe, only raw", o.Image.Format))
	}
	data, _, err := decompress.NewReader(in)
	if err != nil {
		return fail(err)
	}
	r := bufio.NewReaderSize(data, 1<<16)
	head, err := r.Peek(disk.SectorSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return fail(err)
	}
	if o.Refuse != nil {
		if err := o.Refuse(head, file); err != nil {
			return fail(err)
		}
	}
	if vhd.IsFooter(head) {
		return fail(ErrDynamicStream)
	}
	format, err := o.Formats.Probe(streamHead(head), int64(len(head)))
	if err == nil && format.Name != raw.Format.Name {
		err = fmt.Errorf("format %s cannot be read from a pipe or from compressed data; write it to a file first", format.Name)
	}
	if err != nil {
		return fail(err)
	}
	// Closing the decompressor could wait for data forever.
	s.Stream, s.Trailer = &namedStream{r: r, name: name}, vhd.IsFixedFooter
	return &s, nil
}

// streamHead is the start of a stream as a file of its own.
type streamHead []byte

// ReadAt implements [io.ReaderAt].
func (h streamHead) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(h)) {
		return 0, io.EOF
	}
	n := copy(p, h[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
