package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/gpt"
	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/internal/target"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
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
	salvage         salvageFlags
	args            []string
}

func (c *cli) newConvertCmd() *cobra.Command {
	var o convertOptions
	cmd := &cobra.Command{
		Use:   "convert [-f FORMAT] [-O FORMAT] [-o OPTIONS] SOURCE... TARGET",
		Short: "Copy an image to another format",
		Long: `Copy the disk in SOURCE (several are put one after the other) to a new TARGET.
Holes and zeros stay holes. TARGET takes its name when it is complete; until
then, and if anything fails, an older file of that name stays as it is.

SOURCE may be - for standard input, and TARGET - for standard output. Data that
is compressed (gzip, bzip2, zstd, xz) is decompressed, unless -f is given.

A differencing VHD is read with its parents, so that TARGET has it all. With
-B PARENT, TARGET is a differencing VHD that keeps only what differs from the
disk in PARENT. If that is larger, zeros follow what SOURCE has.

The target's format is the one named with -O, else what its suffix says (.vhd,
.vpc, .avhd), else raw.` + salvageHelp,
		Example: "  vhdtool convert disk.raw disk.vhd\n" +
			"  vhdtool convert -O vpc -o subformat=fixed,force_size disk.raw disk.vhd\n" +
			"  vhdtool convert disk.vhd disk.raw\n" +
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
	fl.StringVarP(&o.format, "target-format", "O", "", "format of the target")
	fl.StringArrayVarP(&o.options, "options", "o", nil, "options of the target's format, as key=value,...; help lists them")
	fl.StringVarP(&o.sparse, "sparse-size", "S", "4k", "shortest run of zeros that becomes a hole; 0 allocates all")
	fl.StringVarP(&o.cache, "target-cache", "t", "unsafe", "cache mode of the target; all but unsafe flush it at the end")
	fl.StringVarP(&o.sourceCache, "source-cache", "T", "writeback", "cache mode of the source, accepted for compatibility")
	fl.StringVarP(&o.workers, "parallel", "m", "", "requests at a time, 1 to 16 (default: one for each processor)")
	fl.BoolP("oob-writes", "W", false, "accepted for compatibility: the order of writes does not matter")
	fl.BoolVarP(&o.offload, "copy-range-offloading", "C", false, "accepted for compatibility: what the file system can do is used anyway")
	o.snapshot.add(cmd)
	fl.BoolVar(&o.bitmaps, "bitmaps", false, "accepted to be refused: no format here has dirty bitmaps")
	fl.BoolVar(&o.skipBitmaps, "skip-broken-bitmaps", false, "accepted with --bitmaps")
	_ = fl.MarkHidden("bitmaps")
	_ = fl.MarkHidden("skip-broken-bitmaps")
	o.backing.add(cmd, "B")
	fl.BoolVar(&o.targetImageOpts, "target-image-opts", false, "with -n: the target is given as a list of options")
	fl.StringVarP(&o.rate, "rate-limit", "r", "", "read at most this many bytes of data a second; holes do not count")
	fl.BoolVarP(&o.progress, "progress", "p", false, "print the progress in per cent")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but errors")
	fl.BoolVarP(&o.noCreate, "no-create", "n", false, "write into an existing target, in place")
	fl.BoolVar(&o.targetIsZero, "target-is-zero", false, "with -n: the target reads as zeros")
	fl.BoolVarP(&o.compress, "compress", "c", false, "compress the data, in a qcow2 image")
	o.salvage.add(cmd, "replace what cannot be read with zeros instead of failing")
	o.target.add(cmd, "target-format")
	addAlias(cmd, "backing", "", "b")                     // from qemu 11 on
	addAlias(cmd, "options", "target-format-options", "") // from qemu 11 on
	addAlias(cmd, "options", "target-options", "")        // in the help of qemu 10
	addAlias(cmd, "snapshot", "source-snapshot", "")      // in the help of qemu 10
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
		case o.salvage.on:
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
	if err := o.salvage.check(); err != nil {
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
	target   string
	format   *format
	backing  *backingFlags     // of a target with a parent; nil if it has none
	parents  disk.ParentSearch // where those of the target's parent are
	named    string            // format as given, for a target that exists
	given    disk.Options      // of the target's format, as the user set them
	options  disk.Options      // with those of the product below them
	copy     convert.Options
	flush    bool
	quiet    bool
	existing bool // the target exists, and is written in place

	imageOpts bool // the target is given as options
	wanted    targetFlags
}

func (c *cli) runConvert(ctx context.Context, o *convertOptions) (err error) {
	to := ""
	if n := len(o.args); n > 0 {
		to = fileName(o.args[n-1])
	}
	f, err := c.outputFormat(c.backedFormat(&o.backing, o.target.formatName(o.format)), to)
	if err != nil {
		return err
	}
	opts, err := c.parseCreateOptions(f, o.options)
	if opts.help {
		c.printOptionHelp(f, to != "")
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
		cli: c, target: to, format: f, named: o.format,
		given: opts.set, options: newImageOptions(f, o.target.product, opts.set),
		quiet: o.quiet, wanted: o.target, imageOpts: o.targetImageOpts, existing: o.noCreate,
		parents: disk.ParentSearch{Dirs: o.source.parents.Dirs, Trust: o.source.parents.Trust},
	}
	if v.copy, v.flush, err = o.copyOptions(); err != nil {
		return err
	}
	o.source.salvage = o.salvage.on && !c.likeQEMU // qemu-img opens no damaged image
	sourceOptions := &source.Options{Salvage: o.salvage.on, Throttle: source.NewThrottle(ctx, o.bytesPerSecond, c.pause)}
	in, err := c.openInputs(ctx, &o.source, o.args[:len(o.args)-1], sourceOptions)
	if err != nil {
		return err
	}
	if in, err = c.openSnapshot(ctx, in, &o.snapshot, &o.source, sourceOptions, o.args[:len(o.args)-1]); err != nil {
		return err
	}
	defer in.Close()
	if err := o.salvage.checkSource(in.Source); err != nil {
		return err
	}
	if o.backing.file == "" && o.backing.format != "" {
		return qemuErrorf("Backing file format not supported for file format '%s'", f.Name)
	}
	if o.bitmaps {
		return qemuErrorf("Source lacks bitmap support")
	}
	if o.compress {
		if f != &qcow2Format || o.noCreate {
			return qemuErrorf("Compression not supported for this file format")
		}
		v.options[qcow2Compress] = "on"
	}
	if !o.quiet {
		for _, w := range in.warnings {
			c.warn(w)
		}
	}
	for _, name := range in.files {
		if err := c.refuseSource(name, to, f); err != nil {
			return err
		}
	}
	if err := refuseBases(in.Parents, to); err != nil {
		return err
	}
	if o.backing.file != "" {
		v.backing = &o.backing
	}
	v.copy.Workers = workers(v.copy.Workers)
	progress := c.newProgress(o.progress, o.quiet, c.isStdout(to), 1)
	if !c.isStream(to) || f.stream == nil {
		asCopied(progress, in.Disk, v.copy.Allocate)
	}
	v.copy.Progress = progress.update
	err = v.run(ctx, in)
	progress.finish(err == nil)
	if err != nil {
		return err
	}
	return c.reportLost(&o.salvage, in.Name, in.Size(), in.Losses.Ranges(), o.quiet)
}

// run makes the target and copies the source to it.
func (v *conversion) run(ctx context.Context, in *input) error {
	t, err := v.newTarget(ctx, in)
	if err != nil {
		return err
	}
	if err := t.Copy(ctx, in.Source, &v.copy); err != nil {
		t.Discard()
		return v.copyError(v.target, creationError(v.format, err))
	}
	if in.Size() < 0 { // it is known only now
		if err := v.wanted.promise(v.format, t.Size(), v.given); err != nil {
			t.Discard()
			return conversionError(streamName(v.target), v.format, err)
		}
	}
	warn, err := v.prepareWarnings(in, t)
	if err != nil {
		t.Discard()
		return v.copyError(v.target, err)
	}
	if err := t.Commit(v.flush); err != nil {
		return fmt.Errorf("%s: %w", streamName(v.target), withoutPath(err))
	}
	if !v.quiet {
		warn()
	}
	return nil
}

// newTarget starts the target. The caller completes or discards it.
func (v *conversion) newTarget(ctx context.Context, in *input) (t target.Target, err error) {
	switch {
	case v.backing != nil:
		t, err = v.newChild(in)
	case v.isStream(v.target):
		t, err = v.newStream(ctx, in)
	case v.existing:
		t, err = v.openExisting(in)
	default:
		t, err = v.newFile(in)
	}
	if err != nil {
		return nil, err // not t: a nil pointer is not a nil Target
	}
	return t, nil
}

// newFile starts a target in a new file, or in a device.
func (v *conversion) newFile(in *input) (*target.File, error) {
	if err := checkOptions(v.format, v.given); err != nil {
		return nil, err
	}
	if err := v.wanted.promise(v.format, in.Size(), v.given); err != nil {
		return nil, conversionError(v.target, v.format, err)
	}
	t, err := v.createOutput(v.target, v.format, in.Size(), v.options)
	if err != nil {
		return nil, conversionError(v.target, v.format, err)
	}
	if err := v.format.applyFileOptions(t, v.given, in.Size() >= 0); err != nil {
		t.Discard()
		return nil, conversionError(v.target, v.format, err)
	}
	return t, nil
}

// openExisting opens a target that is written in place.
func (v *conversion) openExisting(in *input) (*target.Existing, error) {
	flags := sourceFlags{format: v.named, imageOpts: v.imageOpts}
	if err := flags.check(); err != nil {
		return nil, err
	}
	ref, err := flags.resolve(v.target)
	if err != nil {
		return nil, err
	}
	d, _, err := v.open(ref, true)
	if err != nil {
		return nil, err
	}
	if d.Size() < in.Size() {
		d.Close()
		return nil, qemuErrorf("output file is smaller than input file")
	}
	return &target.Existing{Disk: d}, nil
}

// prepareWarnings looks at a target that is about to be complete, and returns a function
// that prints what is to be said of it afterwards.
func (v *conversion) prepareWarnings(in *input, t target.Target) (func(), error) {
	var guest disk.Disk = in.Disk
	size := t.Size()
	switch t := t.(type) {
	case *target.Child:
		return func() { v.warnApart(v.target) }, nil
	case *target.Stream:
		var err error
		if size, err = v.format.virtualSize(size, v.options); err != nil {
			return nil, err
		}
	case *target.File:
		if guest == nil {
			guest = t.Disk
		}
	case *target.Existing:
		guest = nil
	}
	if guest == nil {
		return func() {}, nil
	}
	backup, ok := gpt.BackupLBA(guest)
	return func() {
		if ok {
			v.warnGPT(streamName(v.target), backup, in.Size(), size)
		}
	}, nil
}

// warnGPT says so when padding has moved the end of a disk of size bytes away
// from the backup of its partition table. A size of -1 is not known.
func (v *conversion) warnGPT(name string, backup, size, now int64) {
	end := (backup + 1) * disk.SectorSize
	if v.likeQEMU || end >= now || size >= 0 && end != size {
		return
	}
	v.message("warning: %s: the disk ends %s after the backup of its GPT, which belongs in the last sector", name, humanSize(now-end))
	fmt.Fprintln(v.stderr, "hint: in the running system, or on the raw disk made as large before, 'sgdisk -e' or 'sfdisk --relocate gpt-bak-std' moves it there")
}

// conversionError is an error of making the target.
func conversionError(target string, f *format, err error) error {
	return qemuErrorf("%s: error while converting %s: %w", target, f.Name, err)
}

// copyError is an error of the copying itself. It names the file that it is about: the
// target, unless a source could not be read. qemu-img names none.
func (c *cli) copyError(name string, err error) error {
	if err == nil {
		return nil
	}
	var refused *target.StreamError
	if errors.As(err, &refused) {
		return &hintError{
			fmt.Errorf("%s: %w", streamName(name), refused.Err),
			"write to a file, or read from one, or make a fixed disk with -o subformat=fixed",
		}
	}
	what, off, cause := "", int64(0), err
	name = streamName(name)
	var op *convert.OpError
	if errors.As(err, &op) {
		what, off, cause = op.Op, op.Off, op.Err
	}
	var read *source.Error
	if errors.As(err, &read) {
		what, name, cause = cmp.Or(what, "reading"), read.Name, read.Err
		if op == nil || !c.likeQEMU {
			off = read.Off
		}
	}
	cause = withoutPath(cause)
	switch {
	case what == "":
		return fmt.Errorf("%s: %w", name, cause)
	case c.likeQEMU:
		return qemuErrorf("error while %s at byte %d: %w", what, off, cause)
	}
	return fmt.Errorf("%s: error while %s at byte %d: %w", name, what, off, cause)
}
