package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
)

// standardOutput is stdout. After a failed write, all later ones return its error. A write that
// waits for the reader of a pipe ends with the context of the command.
type standardOutput struct {
	f    *os.File
	line *statusLine // erased before writes

	ctx   context.Context // nil: a signal ends the program
	start sync.Once
	pipe  io.Writer // f if it is a pipe and ctx is set

	mu  sync.Mutex
	err error
}

// Write implements [io.Writer].
func (o *standardOutput) Write(p []byte) (n int, err error) {
	o.start.Do(o.prepare)
	if err := o.failed(); err != nil {
		return 0, err
	}
	if o.pipe != nil {
		n, err = o.pipe.Write(p)
	} else {
		if n, err = o.line.writeOver(o.f, printableOn(o.f, p)); err == nil {
			n = len(p)
		}
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		o.fail(err)
	}
	return n, err
}

// prepare examines the file before the first write.
func (o *standardOutput) prepare() {
	if o.ctx == nil {
		return
	}
	if st, err := o.f.Stat(); err == nil && st.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		o.pipe = newInterruptibleWriter(o.ctx, o.f)
	}
}

// Fd returns the file's number.
func (o *standardOutput) Fd() uintptr { return o.f.Fd() }

// fail records an error.
func (o *standardOutput) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
}

// failed returns the error of the first failed write, or nil.
func (o *standardOutput) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}
