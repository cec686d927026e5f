package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"

	"github.com/vhdtool/vhdtool/internal/decompress"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// pipeName is what stands for standard input or output.
const pipeName = "-"

// What they are called in messages.
const (
	stdinName  = "standard input"
	stdoutName = "standard output"
)

// isPipe reports whether a name stands for standard input or output. qemu-img
// knows no such name.
func (c *cli) isPipe(name string) bool { return name == pipeName && !c.likeQEMU }

// input is what a command copies: a disk, or the bytes of a raw disk that can
// only be read in order.
type input struct {
	disk    disk.Disk // nil for a stream
	stream  io.Reader
	probed  bool     // no format was given for the stream
	names   []string // of the files, none for standard input
	formats []string // of the sources
	// warnings are about disks whose size or whose parents are in doubt.
	warnings []warning
	bases    []string // of their parents
	closer   func() error
}

// size is the disk's size, or -1 if it is not known.
func (in *input) size() int64 {
	if in.disk == nil {
		return -1
	}
	return in.disk.Size()
}

// name is what the source is called in messages.
func (in *input) name() string { return cmp.Or(strings.Join(in.names, ", "), stdinName) }

func (in *input) close() { _ = in.closer() }

// trailer recognises the footer of a fixed VHD at the end of a stream, unless
// the stream was said to be raw.
func (in *input) trailer() func([]byte, int64) bool {
	if !in.probed {
		return nil
	}
	return func(b []byte, before int64) bool { return vhd.IsFixedFooter(b, before) }
}

// openInputs opens the sources as one disk, or the only one as a stream.
func (c *cli) openInputs(ctx context.Context, flags *sourceFlags, args []string) (*input, error) {
	var disks []disk.Disk
	var names, bases, kinds []string
	var warnings []warning
	fail := func(err error) (*input, error) {
		_ = disk.NewConcat(disks...).Close()
		return nil, err
	}
	for _, arg := range args {
		in, err := c.openInput(ctx, flags, arg)
		if err != nil {
			return fail(err)
		}
		if in.disk == nil {
			if len(args) == 1 {
				return in, nil
			}
			in.close()
			return fail(fmt.Errorf("%s: a pipe or compressed data cannot be one of several sources", arg))
		}
		disks = append(disks, in.disk)
		names = append(names, in.names...)
		bases = append(bases, in.bases...)
		kinds = append(kinds, in.formats...)
		warnings = append(warnings, in.warnings...)
	}
	all := disks[0]
	if len(disks) > 1 {
		all = disk.NewConcat(disks...)
	}
	return &input{disk: all, names: names, bases: bases, formats: kinds, warnings: warnings, closer: all.Close}, nil
}

// openInput opens one source.
func (c *cli) openInput(ctx context.Context, flags *sourceFlags, arg string) (*input, error) {
	if c.isPipe(arg) {
		return c.openStdin(ctx, flags)
	}
	ref, err := flags.resolve(arg)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(ref.name)
	if err == nil && st.Mode()&fs.ModeNamedPipe != 0 {
		f, err := openFIFO(ctx, ref.name, os.O_RDONLY)
		if err != nil {
			return nil, c.openError(ref, err)
		}
		in, err := newStream(ctx, f, ref.name, ref.options.Format)
		if err == nil {
			in.names = []string{ref.name}
		}
		return in, err
	}
	if err == nil && st.Mode().IsRegular() && ref.options.Format == "" && !c.likeQEMU {
		if in, err := c.openCompressed(ctx, ref); in != nil || err != nil {
			return in, err
		}
	}
	d, f, err := c.open(ref, false)
	if err != nil {
		return nil, err
	}
	in := &input{disk: d, names: []string{ref.name}, formats: []string{f.Name}, bases: fileNames(d, ref.name)[1:], closer: d.Close}
	if f.sizeInDoubt != nil {
		if doubt := f.sizeInDoubt(d); doubt != "" {
			in.warnings = []warning{{text: ref.name + ": " + doubt}}
		}
	}
	in.warnings = append(in.warnings, parentWarnings(d, ref.name)...)
	return in, nil
}

// openCompressed opens a file as a stream if it is compressed; it returns nil
// if it is not.
func (c *cli) openCompressed(ctx context.Context, ref imageRef) (*input, error) {
	f, err := os.Open(ref.name)
	if err != nil {
		return nil, c.openError(ref, err)
	}
	var magic [decompress.MagicSize]byte
	n, _ := f.ReadAt(magic[:], 0)
	if decompress.Format(magic[:n]) == "" {
		f.Close()
		return nil, nil
	}
	in, err := newStream(ctx, f, ref.name, "")
	if err == nil {
		in.names = []string{ref.name}
	}
	return in, err
}

// openStdin opens standard input: a file that it was redirected from as a
// disk, anything else as a stream.
func (c *cli) openStdin(ctx context.Context, flags *sourceFlags) (*input, error) {
	const name = stdinName
	if isTerminal(c.stdin) {
		return nil, fmt.Errorf("%s is a terminal; a disk is expected from a pipe or a file", name)
	}
	if err := flags.check(); err != nil {
		return nil, err
	}
	st, err := c.stdin.Stat()
	if err != nil {
		return nil, err
	}
	pos, err := c.stdin.Seek(0, io.SeekCurrent)
	if err != nil || pos != 0 || !st.Mode().IsRegular() {
		return newStream(ctx, c.stdin, name, flags.format)
	}
	if flags.format == "" {
		var magic [decompress.MagicSize]byte
		n, _ := c.stdin.ReadAt(magic[:], 0)
		if decompress.Format(magic[:n]) != "" {
			return newStream(ctx, c.stdin, name, "")
		}
	}
	ref := imageRef{name: name, options: disk.OpenOptions{Format: flags.format}}
	d, f, err := disk.OpenAs(c.stdin, st.Size(), formats, &ref.options)
	if err != nil {
		return nil, c.openError(ref, err)
	}
	if f == rawFormat.Format && flags.format == "" {
		head, err := headOf(d)
		if err == nil {
			err = refuseNoDisk(head, "")
		}
		if err != nil {
			d.Close()
			return nil, c.openError(ref, err)
		}
	}
	return &input{disk: d, formats: []string{f.Name}, closer: d.Close}, nil
}

// newStream takes a file as a raw disk that is read in order. Unless a format
// was given, compressed data is decompressed.
func newStream(ctx context.Context, f *os.File, name, format string) (*input, error) {
	fail := func(err error) (*input, error) {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	switch format {
	case "", rawFormat.Name:
	default:
		return fail(fmt.Errorf("format %s cannot be read from a pipe, only raw", format))
	}
	in := newInterruptible(ctx, f)
	if format != "" {
		return &input{stream: in, formats: []string{rawFormat.Name}, closer: f.Close}, nil
	}
	data, _, err := decompress.NewReader(in)
	if err != nil {
		return fail(err)
	}
	r := bufio.NewReaderSize(data, 1<<16)
	head, err := r.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return fail(err)
	}
	file := name
	if name == stdinName {
		file = ""
	}
	if err := refuseNoDisk(head, file); err != nil {
		return fail(err)
	}
	if err := formatOfStream(head); err != nil {
		return fail(err)
	}
	// The decompressor is not closed: it might wait for data that never comes.
	return &input{stream: r, probed: true, formats: []string{rawFormat.Name}, closer: f.Close}, nil
}

// formatOfStream refuses a stream that starts like an image which cannot be
// read in order.
func formatOfStream(head []byte) error {
	if vhd.IsFooter(head) {
		return &hintError{
			errors.New("a dynamic VHD cannot be read from a pipe or from compressed data, only a raw disk or a fixed VHD"),
			"write it to a file first; -f raw takes its bytes as they are",
		}
	}
	_, err := formats.Probe(head0(head), int64(len(head)))
	return err
}

// head0 is the start of a stream as a file of its own.
type head0 []byte

func (h head0) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(h)) {
		return 0, io.EOF
	}
	n := copy(p, h[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// existing is a target of a fixed size for a stream.
type existing struct{ convert.Target }

// Resize refuses sizes that the target does not have.
func (e existing) Resize(_ context.Context, size int64, _ disk.Progress) error {
	if size > e.Size() {
		return fmt.Errorf("the target ends at byte %d, and there is more to write", e.Size())
	}
	return nil
}

// section of a stream: count bytes after skip bytes; a count below 0 means all.
func streamSection(r io.Reader, skip, count int64) (io.Reader, error) {
	if _, err := io.CopyN(io.Discard, r, skip); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if count < 0 {
		count = math.MaxInt64
	}
	return io.LimitReader(r, count), nil
}
