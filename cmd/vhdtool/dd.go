package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

type ddOptions struct {
	source sourceFlags
	format string
	args   []string
}

func (c *cli) newDDCmd() *cobra.Command {
	var o ddOptions
	cmd := &cobra.Command{
		Use:   "dd [-f FORMAT] [-O FORMAT] [bs=N] [count=N] [skip=N] [seek=N] [conv=notrunc] [if=FILE] [of=FILE]",
		Short: "Copy part of a disk",
		Long: `dd copies blocks from the disk in the image if= to the disk in the image
of=. It copies count blocks of bs bytes (default 512), starting skip
blocks into the input, to seek blocks into the output. The operands are
those of dd(1), but they count bytes of the disks, not of the files.

of= becomes a new image that is as large as the copied data needs. With
conv=notrunc, an existing output is written in place and keeps the rest of its
contents.

Without if=, dd reads standard input. Without of=, it writes standard output.
The last line on standard error reports the amount copied and the rate.`,
		Example: "  vhdtool dd if=disk.vhd of=mbr.raw count=1\n" +
			"  vhdtool dd if=mbr.raw of=disk.vhd conv=notrunc",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runDD(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	o.source.addForce(cmd)
	cmd.Flags().StringVarP(&o.format, "output-format", "O", "", "`FORMAT` of the output: vpc (or vhd), or raw")
	_ = cmd.RegisterFlagCompletionFunc("output-format", completeFormats)
	return cmd
}

// ddOperands are the operands of dd, counts in blocks of bs bytes.
type ddOperands struct {
	input, output     string
	bs                int64
	count, skip, seek int64
	hasCount          bool
	notrunc           bool

	copied int64 // bytes, once the copy is complete
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
	start := time.Now()
	defer func() {
		if err == nil && !c.likeQEMU {
			fmt.Fprintln(c.stderr, copiedLine(args.copied, time.Since(start)))
		}
	}()
	if err := c.ddPipes(&args); err != nil {
		return err
	}
	if err := o.source.check(); err != nil {
		return err
	}
	f, err := c.outputFormat(o.format, args.output)
	if err != nil {
		if c.likeQEMU {
			return qemuErrorf("Unknown file format")
		}
		return err
	}
	if c.isPipe(args.input) {
		return c.ddFromStream(ctx, o, &args, f)
	}
	ref, err := o.source.resolve(args.input)
	if err != nil {
		return err
	}
	src, _, err := c.open(ref, false)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := c.refuseSource(ref.name, args.output, f); err != nil {
		return err
	}
	if err := refuseBases(fileNames(src, ref.name)[1:], args.output); err != nil {
		return err
	}
	return c.ddFromDisk(ctx, o, &args, f, src, ref.name)
}

// copiedLine is the last line of dd(1) for n bytes that took so long.
func copiedLine(n int64, elapsed time.Duration) string {
	rate := float64(n) / max(elapsed.Seconds(), 1e-9)
	return fmt.Sprintf("%s copied, %.3g s, %s/s", humanSize(n), elapsed.Seconds(), humanize.IBytes(uint64(rate)))
}

// ddFromDisk copies the part of a disk that the operands name.
func (c *cli) ddFromDisk(ctx context.Context, o *ddOptions, args *ddOperands, f *format, src disk.Disk, name string) error {
	skip := args.skip * args.bs
	if skip > src.Size() {
		c.message("%s: cannot skip to specified offset", name)
		skip = src.Size()
	}
	n := src.Size() - skip
	if r, ok := src.(*raw.Disk); ok { // what rounds it up to a sector is not copied over anything
		n = max(0, r.Length()-skip)
	}
	if args.hasCount {
		n = min(n, args.count*args.bs)
	}
	args.copied = n
	part, err := disk.NewSection(src, skip, n)
	if err != nil {
		return err
	}
	return c.ddPart(ctx, o, args, f, part)
}

// ddPipes puts standard input and output where an operand is missing.
func (c *cli) ddPipes(args *ddOperands) error {
	if c.likeQEMU && (args.input == "" || args.output == "") {
		return qemuErrorf("Must specify both input and output files")
	}
	args.input = cmp.Or(args.input, pipeName)
	args.output = cmp.Or(args.output, pipeName)
	return nil
}

// ddPart copies a part of a disk to where the operands say.
func (c *cli) ddPart(ctx context.Context, o *ddOptions, args *ddOperands, f *format, part *disk.Section) error {
	if c.isStream(args.output) {
		v := conversion{cli: c, target: args.output, format: f, options: newImageOptions(f, "", nil), exact: true, quiet: true}
		return v.toStream(ctx, &input{disk: part, names: []string{args.input}})
	}
	seek := args.seek * args.bs
	if args.notrunc {
		d, err := c.ddExisting(args, o)
		if d != nil || err != nil {
			if err != nil {
				return err
			}
			if seek > d.Size() || part.Size() > d.Size()-seek {
				d.Close()
				return fmt.Errorf("%s: %s at offset %d do not fit a disk of %s; nothing was written", args.output, humanSize(part.Size()), seek, humanSize(d.Size()))
			}
			err := c.copyTo(ctx, d.(convert.Target), seek, part, args)
			if err == nil {
				err = makeDurable(d)
			}
			if cerr := d.Close(); err == nil && cerr != nil {
				err = fmt.Errorf("%s: %w", args.output, cerr)
			}
			return err
		}
	}
	if part.Size() > math.MaxInt64-seek {
		return fmt.Errorf("%s: %s after offset %d are more than a disk can have", args.output, humanSize(part.Size()), seek)
	}
	out, err := c.createOutput(args.output, f, seek+part.Size(), newImageOptions(f, "", nil))
	if err != nil {
		return fmt.Errorf("%s: error while creating output image: %w", args.output, err)
	}
	if err := c.copyTo(ctx, out.disk, seek, part, args); err != nil {
		out.discard()
		return err
	}
	if err := out.commit(false); err != nil {
		return fmt.Errorf("%s: %w", args.output, withoutPath(err))
	}
	return nil
}

// ddExisting opens the output to be written in place. It returns nil if there is
// none.
func (c *cli) ddExisting(args *ddOperands, o *ddOptions) (disk.Disk, error) {
	if _, err := os.Stat(args.output); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	d, _, err := c.open(imageRef{name: args.output, options: disk.OpenOptions{
		Format: o.format, Parents: o.source.parents, Force: o.source.force,
	}}, true)
	return d, err
}

// copyTo copies to the part of a disk that starts at seek.
func (c *cli) copyTo(ctx context.Context, dst convert.Target, seek int64, part *disk.Section, args *ddOperands) error {
	at, err := disk.NewSection(dst, seek, part.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", args.output, err)
	}
	return c.copyError(args.input, args.output, convert.Copy(ctx, at, part, nil))
}

// ddFromStream copies standard input.
func (c *cli) ddFromStream(ctx context.Context, o *ddOptions, args *ddOperands, f *format) error {
	flags := o.source
	flags.format = cmp.Or(flags.format, rawFormat.Name) // dd decompresses nothing
	in, err := c.openStdin(ctx, &flags)
	if err != nil {
		return err
	}
	defer in.close()
	if in.disk != nil { // redirected from a file
		return c.ddFromDisk(ctx, o, args, f, in.disk, stdinName)
	}
	count := int64(-1)
	if args.hasCount {
		count = args.count * args.bs
	}
	if in.stream, err = streamSection(in.stream, args.skip*args.bs, count); err != nil {
		return fmt.Errorf("%s: %w", stdinName, err)
	}
	in.stream = &countedReader{in.stream, &args.copied}
	v := conversion{
		cli: c, target: args.output, format: f, named: o.format, options: newImageOptions(f, "", nil), exact: true, quiet: true,
	}
	if c.isStream(args.output) {
		return v.toStream(ctx, in)
	}
	seek := args.seek * args.bs
	if args.notrunc {
		d, err := c.ddExisting(args, o)
		if err != nil {
			return err
		}
		if d != nil {
			at, err := disk.NewSection(d, min(seek, d.Size()), max(d.Size()-seek, 0))
			if err == nil {
				_, err = convert.ReadFrom(ctx, existing{at}, in.stream, nil, nil)
			}
			if err == nil {
				err = makeDurable(d)
			}
			if cerr := d.Close(); err == nil {
				err = cerr
			}
			return c.copyError(in.name(), args.output, err)
		}
	}
	in.stream = io.MultiReader(io.LimitReader(zeroReader{}, seek), in.stream)
	return v.toFile(ctx, in)
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

// zeroReader is zeros without end.
type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
