package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/vhdtool/vhdtool/internal/gpt"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// standardOutput is standard output, which remembers that something could not be
// written to it.
type standardOutput struct {
	f *os.File

	mu  sync.Mutex
	err error
}

func (o *standardOutput) Write(p []byte) (int, error) {
	n, err := writePrintable(o.f, p)
	if err != nil {
		o.mu.Lock()
		o.err = err
		o.mu.Unlock()
	}
	return n, err
}

// Fd is what the file is to the system.
func (o *standardOutput) Fd() uintptr { return o.f.Fd() }

// failed is the error of the last write that failed: a command whose output is lost
// has failed.
func (o *standardOutput) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		return nil
	}
	return fmt.Errorf("standard output: %w", withoutPath(o.err))
}

// toStream writes a new target from its first byte to its last.
func (v *conversion) toStream(ctx context.Context, in *input) (err error) {
	if err := checkOptions(v.format, v.given); err != nil {
		return err
	}
	if err := checkValues(v.format, v.options); err != nil {
		return err
	}
	w, err := v.openStream(ctx, v.target)
	if err != nil {
		return err
	}
	size := in.size()
	if err := v.wanted.promise(v.format, size, v.given); err != nil {
		return conversionError(stdoutName, v.format, err)
	}
	switch {
	case in.disk != nil && v.format.stream != nil:
		err = v.format.stream(ctx, w, in.disk, v.options, v.copy.Allocate)
	case in.disk != nil:
		if err = convert.WriteTo(ctx, w, in.disk, &v.copy); err == nil {
			err = v.end(w, size)
		}
	default:
		size, err = v.streamThrough(ctx, w, in)
	}
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil && in.disk == nil {
		err = v.wanted.promise(v.format, size, v.given)
	}
	if err == nil && !v.quiet {
		err = v.warnOf(in.disk, size)
	}
	return v.copyError(in.name(), streamName(v.target), creationError(v.format, err))
}

// warnOf says what is wrong with a target of so many bytes that has gone out;
// src is nil if it came from a pipe.
func (v *conversion) warnOf(src disk.Disk, size int64) error {
	now, err := v.format.virtualSize(size, v.options)
	if err != nil {
		return err
	}
	if src == nil {
		return nil
	}
	if backup, ok := gpt.BackupLBA(src); ok {
		v.warnGPT(streamName(v.target), backup, size, now)
	}
	return nil
}

// end writes what the format puts behind the bytes of a disk.
func (v *conversion) end(w io.Writer, size int64) error {
	if v.format.streamEnd == nil || v.exact && v.format == &rawFormat {
		return nil
	}
	return v.format.streamEnd(w, size, v.options)
}

// streamThrough passes a stream on, with what the format puts behind it.
func (v *conversion) streamThrough(ctx context.Context, w io.Writer, in *input) (int64, error) {
	if v.format.streamEnd != nil {
		// Say what cannot be done before anything is written.
		if err := v.format.streamEnd(io.Discard, 0, v.options); err != nil {
			return 0, &hintError{
				err,
				"write to a file, or read from one, or make a fixed disk with -o subformat=fixed",
			}
		}
	}
	out := bufio.NewWriterSize(w, 1<<20)
	n, err := convert.CopyStream(ctx, out, in.stream, in.trailer())
	if err == nil {
		err = v.end(out, n)
	}
	if err == nil {
		err = out.Flush()
	}
	return n, err
}
