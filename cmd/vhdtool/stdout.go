package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/vhdtool/vhdtool/pkg/convert"
)

// dataOut is standard output for a disk's bytes, which do no good to a terminal.
func (c *cli) dataOut() (io.Writer, error) {
	if isTerminal(c.stdout) {
		return nil, &hintError{errors.New("standard output is a terminal; it is not given a disk"), "redirect it to a file or into a pipe"}
	}
	return c.stdout, nil
}

// toStdout writes a new target to standard output, from its first byte to its
// last.
func (v *conversion) toStdout(ctx context.Context, in *input) error {
	w, err := v.dataOut()
	if err != nil {
		return err
	}
	if err := checkOptions(v.format, v.options); err != nil {
		return err
	}
	if err := checkValues(v.format, v.options); err != nil {
		return err
	}
	switch {
	case in.disk != nil && v.format.stream != nil:
		err = v.format.stream(ctx, w, in.disk, v.options)
	case in.disk != nil:
		err = convert.WriteTo(ctx, w, in.disk, &v.copy)
	default:
		return v.streamThrough(ctx, w, in)
	}
	return v.copyError(in.name(), stdoutName, creationError(v.format, err))
}

// streamThrough passes a stream on, with what the format puts behind it.
func (v *conversion) streamThrough(ctx context.Context, w io.Writer, in *input) error {
	if v.format.streamEnd != nil {
		// Say what cannot be done before anything is written.
		if err := v.format.streamEnd(io.Discard, 0, v.options); err != nil {
			return &hintError{
				fmt.Errorf("%s: %w", stdoutName, err),
				"write to a file, or read from one, or make a fixed disk with -o subformat=fixed",
			}
		}
	}
	out := bufio.NewWriterSize(w, 1<<20)
	n, err := convert.CopyStream(ctx, out, in.stream, in.trailer())
	if err == nil && v.format.streamEnd != nil {
		err = v.format.streamEnd(out, n, v.options)
	}
	if err == nil {
		err = out.Flush()
	}
	return v.copyError(in.name(), stdoutName, creationError(v.format, err))
}
