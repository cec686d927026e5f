package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/internal/target"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

type ddOptions struct {
	source  sourceFlags
	salvage salvageFlags
	format  string
	args    []string
}

func (c *cli) newDDCmd() *cobra.Command {
	var o ddOptions
	cmd := &cobra.Command{
		Use:   "dd [-f FORMAT] [-O FORMAT] [bs=N] [count=N] [skip=N] [seek=N] [conv=notrunc] [status=LEVEL] [if=FILE] [of=FILE]",
		Short: "Copy part of a disk",
		Long: `dd copies blocks from the disk in the image if= to the disk in the image
of=. It copies count blocks of bs bytes (default 512), starting skip
blocks into the input, to seek blocks into the output. The operands are
those of dd(1), but they count bytes of the disks, not of the files.

of= becomes a new image, just large enough for the copied data. With conv=notrunc,
an existing output is written in place and keeps the rest of its contents.

Without if=, dd reads standard input. Without of=, it writes standard output.

The last line on standard error reports the amount copied and the rate. With
status=progress, a line before it shows the progress, even if standard error is
no terminal. status=noxfer omits the last line, and status=none the progress bar
on a terminal, too.` + salvageHelp,
		Example: "  vhdtool dd if=disk.vhd of=mbr.raw count=1\n" +
			"  vhdtool dd if=mbr.raw of=disk.vhd conv=notrunc",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runDD(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	o.source.addForce(cmd)
	o.salvage.add(cmd, "replace unreadable data with zeros instead of failing")
	cmd.Flags().StringVarP(&o.format, "output-format", "O", "", "`FORMAT` of the output: vpc (or vhd), or raw")
	_ = cmd.RegisterFlagCompletionFunc("output-format", completeFormats)
	return cmd
}

// ddOperands are the operands of dd. Counts are in blocks of bs bytes.
type ddOperands struct {
	input, output     string
	bs                int64
	count, skip, seek int64
	hasCount          bool
	notrunc           bool
	status            string // none, noxfer, progress or ""

	copied   int64 // bytes, once the copy is complete
	progress progress
}

func parseDDOperands(args []string) (o ddOperands, err error) {
	o.bs = 512
	for _, arg := range args {
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return o, qemuErrorf("unrecognized operand %s", arg)
		}
		number := func(to *int64) error {
			n, err := sizearg.Parse(value)
			if err != nil {
				return sizeError(key, value, err)
			}
			*to = n
			return nil
		}
		switch key {
		case "if":
			o.input = value
		case "of":
			o.output = value
		case "bs":
			err = number(&o.bs)
			if err == nil && (o.bs < 1 || o.bs > math.MaxInt32) {
				err = qemuErrorf("Invalid bs specified. Must be between 1 and %d.", math.MaxInt32)
			}
		case "count":
			o.hasCount = true
			err = number(&o.count)
		case "skip":
			err = number(&o.skip)
		case "seek":
			err = number(&o.seek)
		case "conv":
			if value != "notrunc" {
				err = fmt.Errorf("invalid conversion: %s (only notrunc is supported)", value)
			}
			o.notrunc = true
		case "status":
			if value != "none" && value != "noxfer" && value != "progress" {
				err = fmt.Errorf("invalid status: %s (want none, noxfer or progress)", value)
			}
			o.status = value
		default:
			err = qemuErrorf("unrecognized operand %s", key)
		}
		if err != nil {
			return o, err
		}
	}
	o.count = min(o.count, math.MaxInt64/o.bs)
	for _, n := range []int64{o.skip, o.seek} {
		if n > math.MaxInt64/o.bs {
			return o, fmt.Errorf("%s blocks of %s are more than a disk can have", humanize.Comma(n), humanSize(o.bs))
		}
	}
	return o, nil
}

func (c *cli) runDD(ctx context.Context, o *ddOptions) (err error) {
	args, err := parseDDOperands(o.args)
	if err != nil {
		return err
	}
	if c.likeQEMU && args.status != "" {
		return qemuErrorf("unrecognized operand status")
	}
	start, copied := time.Now(), false
	args.progress = c.newDDProgress(args.status)
	defer func() {
		args.progress.finish(copied)
		if copied && !c.likeQEMU && (args.status == "" || args.status == "progress") {
			fmt.Fprintln(c.stderr, copiedLine(args.copied, time.Since(start)))
		}
	}()
	if err := c.ddPipes(&args); err != nil {
		return err
	}
	if err := o.source.check(); err != nil {
		return err
	}
	if err := o.salvage.check(); err != nil {
		return err
	}
	f, err := c.outputFormat(o.format, args.output)
	if err != nil {
		if c.likeQEMU {
			return qemuErrorf("Unknown file format")
		}
		return err
	}
	in, err := c.openDDInput(ctx, o, &args, f)
	if err != nil {
		return err
	}
	defer in.Close()
	part, err := c.ddPart(&args, in)
	if err != nil {
		return err
	}
	t, flush, err := c.newDDTarget(ctx, o, &args, f, part)
	if err != nil {
		return err
	}
	if err := t.Copy(ctx, part, &convert.Options{Progress: args.progress.update}); err != nil {
		t.Discard()
		return c.copyError(args.output, creationError(f, err))
	}
	if err := t.Commit(flush); err != nil {
		return fmt.Errorf("%s: %w", streamName(args.output), withoutPath(err))
	}
	copied = true
	return c.reportLost(&o.salvage, in.Name, in.Size(), in.Losses.Ranges(), false)
}

// openDDInput opens the input, which must differ from the output.
func (c *cli) openDDInput(ctx context.Context, o *ddOptions, args *ddOperands, f *format) (*input, error) {
	flags := o.source
	flags.verbatim, flags.salvage = true, o.salvage.on
	if c.isPipe(args.input) {
		flags.format = cmp.Or(flags.format, rawFormat.Name)
	}
	in, err := c.openInputs(ctx, &flags, []string{args.input}, &source.Options{Salvage: o.salvage.on})
	if err != nil {
		return nil, err
	}
	if err := o.salvage.checkSource(in.Source); err != nil {
		in.Close()
		return nil, err
	}
	for _, w := range in.warnings {
		c.warn(w)
	}
	if in.File != "" {
		if err := c.refuseSource(in.File, args.output, f); err != nil {
			in.Close()
			return nil, err
		}
	}
	if err := refuseBases(in.Parents, args.output); err != nil {
		in.Close()
		return nil, err
	}
	return in, nil
}

// ddPart returns the part of the input that the operands select. The padding of the last sector is
// not part of it.
func (c *cli) ddPart(args *ddOperands, in *input) (*source.Source, error) {
	skip, count := args.skip*args.bs, int64(-1)
	if args.hasCount {
		count = args.count * args.bs
	}
	if in.Disk != nil {
		if skip > in.Size() {
			c.message("%s: cannot skip to specified offset", in.Name)
		}
		rest := max(0, in.Length-skip)
		if count < 0 || count > rest {
			count = rest
		}
		args.copied = count
	}
	part, err := in.Section(skip, count)
	if err != nil {
		return nil, c.copyError(args.output, err)
	}
	if part.Stream != nil {
		part.Stream = &countedReader{part.Stream, &args.copied}
	}
	return part, nil
}

// newDDTarget starts the output: a stream, an existing image, or a new one. flush reports whether
// it must be durable when it is complete.
func (c *cli) newDDTarget(ctx context.Context, o *ddOptions, args *ddOperands, f *format, part *source.Source) (t target.Target, flush bool, err error) {
	options := newImageOptions(f, "", nil)
	if c.isStream(args.output) {
		w, err := c.openStream(ctx, args.output)
		if err != nil {
			return nil, false, err
		}
		t := f.streamTo(w, options)
		if f == &rawFormat {
			t.End = nil // a pipe gets the copied bytes without padding to whole sectors
		}
		return t, false, nil
	}
	seek := args.seek * args.bs
	if args.notrunc && exists(args.output) {
		d, _, err := c.open(imageRef{name: args.output, options: disk.OpenOptions{
			Format: o.format, Parents: o.source.parents, Force: o.source.force,
		}}, true)
		if err != nil {
			return nil, false, err
		}
		if n := part.Size(); n >= 0 && (seek > d.Size() || n > d.Size()-seek) {
			d.Close()
			return nil, false, fmt.Errorf("%s: %s at offset %d do not fit a disk of %s; nothing was written", args.output, humanSize(n), seek, humanSize(d.Size()))
		}
		return &target.Existing{Disk: d, Seek: seek}, true, nil
	}
	size := part.Size()
	if size > math.MaxInt64-seek {
		return nil, false, fmt.Errorf("%s: %s after offset %d are more than a disk can have", args.output, humanSize(size), seek)
	}
	if size >= 0 {
		size += seek
	}
	out, err := c.createOutput(args.output, f, size, options)
	if err != nil {
		return nil, false, fmt.Errorf("%s: error while creating output image: %w", args.output, err)
	}
	out.Seek = seek
	return out, false, nil
}

// copiedLine returns dd(1)'s last line for n bytes copied in the given time.
func copiedLine(n int64, elapsed time.Duration) string {
	rate := float64(n) / max(elapsed.Seconds(), 1e-9)
	return fmt.Sprintf("%s copied, %.3g s, %s/s", humanSize(n), elapsed.Seconds(), humanize.IBytes(uint64(rate)))
}

// ddPipes fills in standard input and output for missing operands.
func (c *cli) ddPipes(args *ddOperands) error {
	if c.likeQEMU && (args.input == "" || args.output == "") {
		return qemuErrorf("Must specify both input and output files")
	}
	args.input = cmp.Or(args.input, pipeName)
	args.output = cmp.Or(args.output, pipeName)
	return nil
}

// countedReader adds the bytes read from a stream to n.
type countedReader struct {
	io.Reader
	n *int64
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	*r.n += int64(n)
	return n, err
}

// zeroReader reads zeros without end.
type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
