package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/internal/source"
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

	bytesPerSecond int64 // of --rate-limit

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
		Use:   "convert [-f FORMAT] [-O FORMAT] [-o OPTIONS] [--for PRODUCT] SOURCE... TARGET",
		Short: "Convert disk images between formats",
		Long: `convert copies the disk in SOURCE to a new file TARGET. Several sources
are concatenated. Holes and blocks of zeros are not stored. The source
format is detected from the contents. Without -O, the suffix of TARGET
selects its format: .vhd, .vpc and .avhd mean VHD, .vhdx and .avhdx mean VHDX,
all others mean raw.

The size of a VHD is rounded up to the next disk geometry, unless -o force_size
is set. Most products of --for set it. --for PRODUCT chooses all options that a
product needs.

TARGET is written to a temporary file that is renamed when complete. If the
command fails or is interrupted, an existing TARGET is untouched. With -n,
convert overwrites an existing image in place.

SOURCE may be - for standard input, and TARGET may be - for standard output.
Compressed sources (gzip, bzip2, zstd, xz) are decompressed, unless -f is given.
Targets are never compressed; pipe them to a compressor.

Differencing images are read through their parents, so TARGET is complete. With
-B PARENT, TARGET is a differencing VHD that stores only the differences from
PARENT. If PARENT is larger, zeros follow the data of SOURCE.` + salvageHelp,
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
	fl.StringVarP(&o.rate, "rate-limit", "r", "", "read at most `SIZE` of data per second; holes do not count")
	fl.BoolVarP(&o.progress, "progress", "p", false, "print the progress in per cent")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print only errors")
	fl.BoolVarP(&o.noCreate, "no-create", "n", false, "overwrite an existing target in place")
	fl.BoolVar(&o.targetIsZero, "target-is-zero", false, "with -n: the target reads as zeros, so zeros are not written")
	fl.BoolVarP(&o.compress, "compress", "c", false, "compress the data, in a qcow2 image")
	o.salvage.add(cmd, "replace unreadable data with zeros instead of failing")
	o.target.add(cmd, "target-format")
	addAlias(cmd, "backing", "", "b")                     // from qemu 11 on
	addAlias(cmd, "options", "target-format-options", "") // from qemu 11 on
	addAlias(cmd, "options", "target-options", "")        // in the help of qemu 10
	addAlias(cmd, "snapshot", "source-snapshot", "")      // in the help of qemu 10
	markIgnored(cmd, "oob-writes", "copy-range-offloading", "source-cache")
	return cmd
}

// cacheMode reports whether the target must be durable at the end, and whether qemu has the mode.
func cacheMode(name string) (flush, known bool) {
	switch name {
	case "none", "off", "directsync", "writeback", "writethrough":
		return true, true
	case "unsafe":
		return false, true
	}
	return false, false
}

// maxSparseSize is the largest -S that qemu-img accepts.
const maxSparseSize = 16 << 20

// copyOptions parses the flags for copying.
func (o *convertOptions) copyOptions() (co convert.Options, flush bool, err error) {
	n, err := sizearg.Parse(o.sparse)
	if err != nil {
		return co, false, sizeError("buffer size for sparse output", o.sparse, err)
	}
	if n%disk.SectorSize != 0 || n > maxSparseSize {
		return co, false, &hintError{qemuErrorf("Invalid buffer size for sparse output specified. Valid sizes are multiples of %d up to %d. "+
			"Select 0 to disable sparse detection (fully allocates output).", disk.SectorSize, maxSparseSize), fmt.Sprintf("found '%s'", o.sparse)}
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
		return co, false, cacheError("cache", o.cache)
	}
	if _, ok := cacheMode(o.sourceCache); !ok {
		return co, false, cacheError("source cache", o.sourceCache)
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

// parseRate parses a rate limit in bytes per second; 0 is no limit.
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
		return &hintError{qemuErrorf("Must specify image file name"), "convert needs a source and a target: 'convert SOURCE TARGET'"}
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
	o.source.strict = o.target.product != ""
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
