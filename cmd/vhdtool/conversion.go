package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/vhdtool/vhdtool/internal/gpt"
	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/internal/target"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// conversion is a convert command with parsed flags.
type conversion struct {
	*cli
	target   string
	format   *format
	backing  *backingFlags     // of a target with a parent; nil if it has none
	parents  disk.ParentSearch // search for the parents of the target's parent
	named    string            // format of an existing target, as given
	given    disk.Options      // options of the target's format, as given
	options  disk.Options      // given, over the defaults of the product
	copy     convert.Options
	flush    bool
	quiet    bool
	existing bool // the target exists, and is written in place

	imageOpts bool // the target is given as options
	wanted    targetFlags
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
	if in.Size() < 0 { // a stream has no size
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
	if err := keepSectorSize(in.Source, v.format, v.options); err != nil {
		return nil, err
	}
	switch {
	case v.backing != nil:
		t, err = v.newChild(in)
	case v.isStream(v.target):
		t, err = v.newStream(ctx, in)
	case v.existing:
		t, err = v.openExisting(in)
	default:
		t, err = v.newFile(ctx, in)
	}
	if err != nil {
		return nil, err // not t: that would be a Target that is not nil
	}
	return t, nil
}

// newFile starts a target in a new file or on a device.
func (v *conversion) newFile(ctx context.Context, in *input) (*target.File, error) {
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
	if err := v.format.applyFileOptions(ctx, t, v.given, in.Size() >= 0, nil); err != nil {
		t.Discard()
		return nil, conversionError(v.target, v.format, err)
	}
	return t, nil
}

// openExisting opens an existing target that is written in place.
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

// prepareWarnings examines a target before it is committed. The function that it returns prints the
// warnings afterwards.
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

// warnGPT warns if padding has moved the end of a disk of size bytes away from the backup GPT. A
// size of -1 is unknown.
func (v *conversion) warnGPT(name string, backup, size, now int64) {
	end := (backup + 1) * disk.SectorSize
	if v.likeQEMU || end >= now || size >= 0 && end != size {
		return
	}
	v.message("warning: %s: the disk ends %s after the backup of its GPT, which belongs in the last sector", name, humanSize(now-end))
	fmt.Fprintln(v.stderr, "hint: "+v.gptRemedy())
}

// conversionError wraps an error of creating the target.
func conversionError(target string, f *format, err error) error {
	return qemuErrorf("%s: error while converting %s: %w", target, f.Name, err)
}

// copyError wraps an error of copying. It names the file with the error: a source that could not be
// read, or the target. qemu-img names none.
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
