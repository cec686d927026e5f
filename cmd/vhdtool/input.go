package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// pipeName is the name of standard input or output on the command line.
const pipeName = "-"

// Their names in messages.
const (
	stdinName  = "standard input"
	stdoutName = "standard output"
)

// isPipe reports whether a name means standard input or output. qemu-img has no such name.
func (c *cli) isPipe(name string) bool { return name == pipeName && !c.likeQEMU }

// input is the source of a command: all named sources as one.
type input struct {
	*source.Source
	files   []string // of the sources; empty for standard input
	formats []string // of the sources
	// warnings are doubts about the size of a disk, or about its parents.
	warnings []warning
}

// openInputs opens the sources: several as one disk, a single one also as a stream.
func (c *cli) openInputs(ctx context.Context, flags *sourceFlags, args []string, o *source.Options) (*input, error) {
	var all []*source.Source
	var in input
	fail := func(err error) (*input, error) {
		for _, s := range all {
			_ = s.Close()
		}
		return nil, err
	}
	for _, arg := range args {
		s, warnings, err := c.openSource(ctx, flags, arg)
		if err != nil {
			return fail(err)
		}
		all = append(all, s)
		if s.Disk == nil && len(args) > 1 {
			return fail(fmt.Errorf("%s: a pipe or compressed data cannot be one of several sources", arg))
		}
		in.formats = append(in.formats, s.Format.Name)
		in.warnings = append(in.warnings, warnings...)
		if s.File != "" {
			in.files = append(in.files, s.File)
		}
	}
	in.Source = source.Join(all, o)
	return &in, nil
}

// openInputDisk opens an image that can be read at any offset.
func (c *cli) openInputDisk(ctx context.Context, flags *sourceFlags, salvage *salvageFlags, arg string) (*input, error) {
	own := *flags
	own.seekable, own.salvage = true, salvage.on
	in, err := c.openInputs(ctx, &own, []string{arg}, &source.Options{Salvage: salvage.on})
	if err == nil && in.Disk == nil {
		in.Close()
		err = fmt.Errorf("%s: a stream cannot be read at any offset; write it to a file first", in.Name)
	}
	return in, err
}

// openSource opens one source.
func (c *cli) openSource(ctx context.Context, flags *sourceFlags, arg string) (*source.Source, []warning, error) {
	if c.isPipe(arg) {
		s, err := c.openStdin(ctx, flags)
		return s, nil, err
	}
	ref, err := flags.resolve(arg)
	if err != nil {
		return nil, nil, err
	}
	o := c.sourceOptions(ref)
	o.Compressed = o.Compressed && !flags.verbatim
	if flags.seekable {
		o.OpenFIFO, o.Compressed = nil, false
		if o.Refuse != nil {
			o.Refuse = refuseStream
		}
	}
	o.Image.Lock = ref.lock(false)
	s, err := source.Open(ctx, ref.name, o)
	if err != nil {
		return nil, nil, c.openError(ref, streamHint(knownDriver(err, ref)))
	}
	d := s.Image()
	if d == nil {
		return s, nil, nil
	}
	if s.Format == rawFormat.Format && ref.options.Format == "" {
		if err := c.doubtRaw(ref); err != nil {
			s.Close()
			return nil, nil, err
		}
	}
	var warnings []warning
	if f := formatOf(s.Format); f.sizeInDoubt != nil {
		if doubt := f.sizeInDoubt(d); doubt != "" {
			warnings = []warning{{text: ref.name + ": " + doubt}}
		}
	}
	return s, append(warnings, parentWarnings(d, ref.name)...), nil
}

// sourceOptions returns the options for a source of the command line.
func (c *cli) sourceOptions(ref imageRef) *source.OpenOptions {
	return &source.OpenOptions{
		Formats: formats, Image: ref.options, Compressed: !c.likeQEMU, Refuse: c.refuseNoDisk(),
		OpenFIFO: func(ctx context.Context, name string) (*os.File, error) { return openFIFO(ctx, name, os.O_RDONLY) },
		Interruptible: func(ctx context.Context, r io.Reader) io.Reader {
			return newInterruptible(ctx, r)
		},
	}
}

// openStdin opens standard input. A redirected file is opened as a disk, anything else as a stream.
func (c *cli) openStdin(ctx context.Context, flags *sourceFlags) (*source.Source, error) {
	if mayBeClosed(c.stdin) {
		return nil, fmt.Errorf("%s is closed", stdinName)
	}
	if isTerminal(c.stdin) {
		return nil, fmt.Errorf("%s is a terminal; a disk is expected from a pipe or a file", stdinName)
	}
	if err := flags.check(); err != nil {
		return nil, err
	}
	ref := imageRef{name: stdinName, strict: flags.strict, options: disk.OpenOptions{Format: flags.format, Salvage: flags.salvage}}
	s, err := source.Standard(ctx, c.stdin, stdinName, c.sourceOptions(ref))
	if err != nil {
		return nil, c.openError(ref, streamHint(err))
	}
	if s.Image() != nil && s.Format == rawFormat.Format && flags.format == "" {
		if err := c.doubtRawFile(ref, c.stdin, s.Length); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// streamHint returns a hint about a stream that cannot be read in order.
func streamHint(err error) error {
	if errors.Is(err, source.ErrDynamicStream) {
		return &hintError{err, "write it to a file first; -f raw reads its bytes unchanged"}
	}
	return err
}
