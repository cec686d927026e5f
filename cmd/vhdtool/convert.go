package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/gpt"
	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

type convertOptions struct {
	source      sourceFlags
	target      targetFlags
	format      string
	options     []string
	sparse      string
	sparseGiven bool
	cache       string
	sourceCache string
	workers     string
	rate        string

	bytesPerSecond int64 // of rate

	progress     bool
	quiet        bool
	noCreate     bool
	targetIsZero bool
	compress     bool
	offload      bool
	backing      backingFlags
	snapshot     snapshotFlag
	bitmaps      bool
	skipBitmaps  bool

	targetImageOpts bool
	salvage         bool
	args            []string
}

func (c *cli) newConvertCmd() *cobra.Command {
	var o convertOptions
	cmd := &cobra.Command{
		Use:   "convert [-f FORMAT] [-O FORMAT] [-o OPTIONS] [--for PRODUCT] SOURCE... TARGET",
		Short: "Convert disk images between formats",
		Long: `convert copies the disk in SOURCE to a new file TARGET. Several sources
are concatenated. Holes and blocks of zeros are not stored. The source
format is detected from the contents. The target format is the one after
-O, or the one of TARGET's suffix (.vhd, .vpc, .avhd), or raw.

The size of a VHD is rounded up to the next disk geometry, unless -o force_size
is set. Most products of --for set it. --for PRODUCT chooses all options that a
product needs.

TARGET is written to a temporary file that is renamed when complete. If the
command fails or is interrupted, an existing TARGET is untouched. With -n,
convert overwrites an existing image in place.

SOURCE may be - for standard input, and TARGET may be - for standard output.
Compressed sources (gzip, bzip2, zstd, xz) are decompressed, unless -f is given.
Targets are not compressed; pipe them to a compressor.

Differencing images are read through their parents, so TARGET is complete. With
-B PARENT, TARGET is a differencing VHD that stores only the differences from
PARENT. If PARENT is larger, zeros follow the data of SOURCE.`,
		Example: "  vhdtool convert --for azure disk.raw disk.vhd\n" +
			"  vhdtool convert -o force_size disk.raw disk.vhd\n" +
			"  vhdtool convert disk.vhd disk.raw\n" +
			"  vhdtool convert -O vpc disk.raw - | gzip >disk.vhd.gz\n" +
			"  vhdtool convert -B base.vhd disk.raw child.vhd",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			o.sparseGiven = cmd.Flags().Changed("sparse-size")
			if err := o.snapshot.check(cmd); err != nil {
				return err
			}
			return c.runConvert(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "source-format")
	fl := cmd.Flags()
	fl.StringVarP(&o.format, "target-format", "O", "", "`FORMAT` of the target: vpc (or vhd), or raw")
	fl.StringArrayVarP(&o.options, "options", "o", nil, "`OPTIONS` of the target's format, as key=value,...; '-o help' lists them")
	fl.StringVarP(&o.sparse, "sparse-size", "S", "4k", "do not store runs of zeros of at least `SIZE`; 0 allocates the whole target")
	fl.StringVarP(&o.cache, "target-cache", "t", "unsafe", "cache `MODE` of the target; all modes but unsafe flush it at the end")
	fl.StringVarP(&o.sourceCache, "source-cache", "T", "writeback", "cache `MODE` of the source, accepted for compatibility")
	fl.StringVarP(&o.workers, "parallel", "m", "", "copy `N` chunks at a time, 1 to 16 (default: the number of processors)")
	fl.BoolP("oob-writes", "W", false, "accepted for compatibility")
	fl.BoolVarP(&o.offload, "copy-range-offloading", "C", false, "accepted for compatibility: the file system's features are always used")
	o.snapshot.add(cmd)
	fl.BoolVar(&o.bitmaps, "bitmaps", false, "refused: no format here has dirty bitmaps")
	fl.BoolVar(&o.skipBitmaps, "skip-broken-bitmaps", false, "accepted with --bitmaps")
	_ = fl.MarkHidden("bitmaps")
	_ = fl.MarkHidden("skip-broken-bitmaps")
	o.backing.add(cmd, "B")
	fl.BoolVar(&o.targetImageOpts, "target-image-opts", false, "with -n: TARGET is a list of options, such as driver=vpc,file.filename=F")
	fl.StringVarP(&o.rate, "rate-limit", "r", "", "copy at most `SIZE` per second")
	fl.BoolVarP(&o.progress, "progress", "p", false, "print the progress in per cent")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print only errors")
	fl.BoolVarP(&o.noCreate, "no-create", "n", false, "overwrite an existing target in place")
	fl.BoolVar(&o.targetIsZero, "target-is-zero", false, "with -n: the target reads as zeros, so zeros are not written")
	fl.BoolVarP(&o.compress, "compress", "c", false, "refused: no format here compresses")
	fl.BoolVar(&o.salvage, "salvage", false, "replace unreadable sectors with zeros instead of failing")
	o.target.add(cmd, "target-format")
	addAlias(cmd, "backing", "", "b")                     // from qemu 11 on
	addAlias(cmd, "options", "target-format-options", "") // from qemu 11 on
	addAlias(cmd, "options", "target-options", "")        // in the help of qemu 10
	addAlias(cmd, "snapshot", "source-snapshot", "")      // in the help of qemu 10
	markIgnored(cmd, "oob-writes", "copy-range-offloading", "source-cache")
	return cmd
}

// cacheMode says whether what is written must be durable at the end, and whether qemu
// has such a mode.
func cacheMode(name string) (flush, known bool) {
	switch name {
	case "none", "off", "directsync", "writeback", "writethrough":
		return true, true
	case "unsafe":
		return false, true
	}
	return false, false
}

// maxSparseSize is the largest -S that qemu-img takes.
const maxSparseSize = 16 << 20

// copyOptions reads the flags that say how to copy.
func (o *convertOptions) copyOptions() (co convert.Options, flush bool, err error) {
	n, err := sizearg.Parse(o.sparse)
	if err != nil {
		return co, false, sizeError("buffer size for sparse output", o.sparse, err)
	}
	if n%disk.SectorSize != 0 || n > maxSparseSize {
		return co, false, qemuErrorf("Invalid buffer size for sparse output specified. Valid sizes are multiples of %d up to %d. "+
			"Select 0 to disable sparse detection (fully allocates output).", disk.SectorSize, maxSparseSize)
	}
	co.SparseSize, co.Allocate = n, n == 0
	if o.workers != "" {
		m, err := sizearg.Parse(o.workers)
		if err != nil || m < 1 || m > maxWorkers {
			return co, false, numberError("number of coroutines", o.workers, "Invalid number of coroutines. Allowed number of coroutines is between 1 and 16", err == nil, 1, maxWorkers)
		}
		co.Workers = int(m)
	}
	flush, ok := cacheMode(o.cache)
	if !ok {
		return co, false, qemuErrorf("Invalid cache option: %s", o.cache)
	}
	if _, ok := cacheMode(o.sourceCache); !ok {
		return co, false, qemuErrorf("Invalid source cache option: %s", o.sourceCache)
	}
	if o.targetIsZero && !o.noCreate {
		return co, false, qemuErrorf("--target-is-zero requires use of -n flag")
	}
	co.TargetIsZero = o.targetIsZero
	if o.noCreate && len(o.options) > 0 {
		return co, false, qemuErrorf("-o has no effect when skipping image creation")
	}
	if o.targetImageOpts && !o.noCreate {
		return co, false, qemuErrorf("--target-image-opts requires use of -n flag")
	}
	if o.offload {
		switch {
		case o.sparseGiven:
			return co, false, qemuErrorf("Cannot enable copy offloading when -S is used")
		case o.compress:
			return co, false, qemuErrorf("Cannot enable copy offloading when -c is used")
		case o.salvage:
			return co, false, qemuErrorf("Cannot use copy offloading in salvaging mode")
		}
	}
	if o.skipBitmaps && !o.bitmaps {
		return co, false, qemuErrorf("Use of --skip-broken-bitmaps requires --bitmaps")
	}
	if o.noCreate && o.target != (targetFlags{}) {
		return co, false, errors.New("--for and --align have no effect when skipping image creation")
	}
	if o.backing.file != "" && o.noCreate {
		return co, false, errors.New("-B has no effect when skipping image creation")
	}
	if o.bytesPerSecond, err = parseRate(o.rate); err != nil {
		return co, false, err
	}
	return co, flush, o.source.check()
}

// parseRate reads a rate limit in bytes a second; 0 is none.
func parseRate(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	rate, err := sizearg.Parse(s)
	if err != nil {
		return 0, sizeError("rate limit", s, err)
	}
	return rate, nil
}

// conversion is a convert command whose flags are understood.
type conversion struct {
	*cli
	target  string
	format  *format
	parents disk.ParentSearch // where those of the target's parent are
	named   string            // format as given, for a target that exists
	given   disk.Options      // of the target's format, as the user set them
	options disk.Options      // with those of the product below them
	copy    convert.Options
	flush   bool
	quiet   bool

	exact     bool // a pipe gets the bytes of a raw disk only, not whole sectors
	imageOpts bool // the target is given as options
	wanted    targetFlags
}

func (c *cli) runConvert(ctx context.Context, o *convertOptions) (err error) {
	target := ""
	if n := len(o.args); n > 0 {
		target = fileName(o.args[n-1])
	}
	f, err := c.outputFormat(c.backedFormat(&o.backing, o.target.formatName(o.format)), target)
	if err != nil {
		return err
	}
	opts, err := c.parseCreateOptions(f, o.options)
	if opts.help {
		c.printOptionHelp(f, target != "")
		return nil
	}
	if len(o.args) < 2 {
		return qemuErrorf("Must specify image file name")
	}
	if err == nil {
		err = o.target.apply(f, opts.set)
	}
	if err != nil {
		return err
	}
	v := conversion{
		cli: c, target: target, format: f, named: o.format,
		given: opts.set, options: newImageOptions(f, o.target.product, opts.set),
		quiet: o.quiet, wanted: o.target, imageOpts: o.targetImageOpts,
		parents: disk.ParentSearch{Dirs: o.source.parents.Dirs, Trust: o.source.parents.Trust},
	}
	if v.copy, v.flush, err = o.copyOptions(); err != nil {
		return err
	}
	in, err := c.openInputs(ctx, &o.source, o.args[:len(o.args)-1])
	if err != nil {
		return err
	}
	defer in.close()
	if len(in.formats) > 1 && o.snapshot.given {
		return qemuErrorf("No support for concatenating multiple snapshot")
	}
	if len(in.formats) > 0 {
		if err := o.snapshot.load(in.formats[0]); err != nil {
			return err
		}
	}
	if o.backing.file == "" && o.backing.format != "" {
		return qemuErrorf("Backing file format not supported for file format '%s'", f.Name)
	}
	if o.bitmaps {
		return qemuErrorf("Source lacks bitmap support")
	}
	if o.compress {
		return qemuErrorf("Compression not supported for this file format")
	}
	if !o.quiet {
		for _, w := range in.warnings {
			c.warn(w)
		}
	}
	for _, name := range in.names {
		if err := c.refuseSource(name, target, f); err != nil {
			return err
		}
	}
	if err := refuseBases(in.bases, target); err != nil {
		return err
	}
	if o.salvage {
		v.copy.Salvage = func(off, n int64, err error) {
			c.message("warning: error while reading at byte %d, %s replaced with zeros: %v", off, humanSize(n), err)
		}
	}
	v.copy.Workers = workers(v.copy.Workers)
	toStream := c.isStream(target)
	progress := c.newProgress(o.progress, o.quiet, c.isStdout(target), 1)
	asCopied(progress, in.disk, v.copy.Allocate)
	v.copy.Progress = limitRate(ctx, o.bytesPerSecond, progress.update)
	defer func() { progress.finish(err == nil) }()
	switch {
	case o.backing.file != "":
		return v.toChild(ctx, in, &o.backing)
	case toStream:
		return v.toStream(ctx, in)
	case o.noCreate:
		return v.inPlace(ctx, in)
	}
	return v.toFile(ctx, in)
}

// toFile makes a new target.
func (v *conversion) toFile(ctx context.Context, in *input) error {
	if err := checkOptions(v.format, v.given); err != nil {
		return err
	}
	if err := v.wanted.promise(v.format, in.size(), v.given); err != nil {
		return conversionError(v.target, v.format, err)
	}
	out, err := v.createOutput(v.target, v.format, in.size(), v.options)
	if err != nil {
		return conversionError(v.target, v.format, err)
	}
	if err := out.applyFileOptions(v.given, in.size() >= 0); err != nil {
		out.discard()
		return conversionError(v.target, v.format, err)
	}
	if in.stream != nil {
		_, err = convert.ReadFrom(ctx, out.disk.(convert.GrowingTarget), in.stream, in.trailer(), &v.copy)
	} else {
		err = convert.Copy(ctx, out.disk, in.disk, &v.copy)
	}
	if err != nil {
		out.discard()
		return v.copyError(in.name(), v.target, creationError(v.format, err))
	}
	if in.size() < 0 { // it is known only now
		if err := v.wanted.promise(v.format, out.disk.Size(), v.given); err != nil {
			out.discard()
			return conversionError(v.target, v.format, err)
		}
	}
	var guest disk.Disk = out.disk
	if in.disk != nil {
		guest = in.disk
	}
	backup, hasGPT := gpt.BackupLBA(guest)
	if err := out.commit(v.flush); err != nil {
		return fmt.Errorf("%s: %w", v.target, withoutPath(err))
	}
	if v.quiet {
		return nil
	}
	if hasGPT {
		v.warnGPT(v.target, backup, in.size(), out.disk.Size())
	}
	return nil
}

// inPlace writes into a target that exists.
func (v *conversion) inPlace(ctx context.Context, in *input) error {
	flags := sourceFlags{format: v.named, imageOpts: v.imageOpts}
	if err := flags.check(); err != nil {
		return err
	}
	ref, err := flags.resolve(v.target)
	if err != nil {
		return err
	}
	d, _, err := v.open(ref, true)
	if err != nil {
		return err
	}
	if d.Size() < in.size() {
		d.Close()
		return qemuErrorf("output file is smaller than input file")
	}
	n := in.size()
	if in.stream != nil {
		n, err = convert.ReadFrom(ctx, existing{d.(convert.Target)}, in.stream, in.trailer(), &v.copy)
	} else {
		err = convert.Copy(ctx, d.(convert.Target), in.disk, &v.copy)
	}
	if r, ok := d.(*raw.Disk); ok && err == nil {
		err = r.ClearTrailingFooter(n)
	}
	if err == nil && v.flush {
		err = makeDurable(d)
	}
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return v.copyError(in.name(), v.target, err)
}

// warnGPT says so when padding has moved the end of a disk of size bytes away
// from the backup of its partition table. A size of -1 is not known.
func (v *conversion) warnGPT(name string, backup, size, now int64) {
	end := (backup + 1) * disk.SectorSize
	if v.likeQEMU || end >= now || size >= 0 && end != size {
		return
	}
	v.message("warning: %s: the disk ends %s after the backup of its GPT, which belongs in the last sector", name, humanSize(now-end))
	fmt.Fprintln(v.stderr, "hint: "+v.gptRemedy())
}

// conversionError is an error of making the target.
func conversionError(target string, f *format, err error) error {
	return qemuErrorf("%s: error while converting %s: %w", target, f.Name, err)
}

// copyError is an error of the copying itself. qemu-img does not say of which
// file it speaks.
func (c *cli) copyError(source, target string, err error) error {
	var op *convert.OpError
	if errors.As(err, &op) {
		name := target
		if op.Op == "reading" {
			name = source
		}
		reason := withoutPath(op.Err)
		if c.likeQEMU {
			return qemuErrorf("error while %s at byte %d: %w", op.Op, op.Off, reason)
		}
		return fmt.Errorf("%s: error while %s at byte %d: %w", name, op.Op, op.Off, reason)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", target, withoutPath(err))
	}
	return nil
}
