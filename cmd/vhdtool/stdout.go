package main

import (
	"bufio"
	"context"
	"errors"
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
	n, err := o.f.Write(p)
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

// dataOut is standard output for a disk's bytes, which do no good to a terminal.
func (c *cli) dataOut(ctx context.Context) (io.Writer, error) {
	if isTerminal(c.stdout) {
		return nil, &hintError{errors.New("standard output is a terminal; it is not given a disk"), "redirect it to a file or into a pipe"}
	}
	return contextWriter{ctx, c.stdout}, nil
}

// contextWriter writes until a context is done.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

// toStdout writes a new target to standard output, from its first byte to its
// last.
func (v *conversion) toStdout(ctx context.Context, in *input) error {
	w, err := v.dataOut(ctx)
	if err != nil {
		return err
	}
	if err := checkOptions(v.format, v.given); err != nil {
		return err
	}
	if err := checkValues(v.format, v.options); err != nil {
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
	if err == nil && in.disk == nil {
		err = v.wanted.promise(v.format, size, v.given)
	}
	if err == nil && !v.quiet {
		err = v.warnOf(in.disk, size)
	}
	return v.copyError(in.name(), stdoutName, creationError(v.format, err))
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
		v.warnGPT(stdoutName, backup, size, now)
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
