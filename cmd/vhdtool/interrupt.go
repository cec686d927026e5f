package main

import (
	"context"
	"io"
	"os"
	"sync"
)

// interruptible is a reader that stops waiting for data when a context is done. The pending read
// continues in the background, and its data is lost.
type interruptible struct {
	ctx    context.Context
	chunks <-chan readResult
	free   chan<- []byte
	buf    []byte // of the chunk being passed on
	rest   []byte
	err    error
}

type readResult struct {
	buf []byte
	n   int
	err error
}

func newInterruptible(ctx context.Context, r io.Reader) *interruptible {
	const size, count = 256 << 10, 2
	chunks, free := make(chan readResult), make(chan []byte, count)
	for range count {
		free <- make([]byte, size)
	}
	go func() {
		for buf := range free {
			n, err := r.Read(buf)
			select {
			case chunks <- readResult{buf, n, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return &interruptible{ctx: ctx, chunks: chunks, free: free}
}

// Read implements [io.Reader].
func (r *interruptible) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if r.buf != nil {
			r.free <- r.buf
			r.buf = nil
		}
		select {
		case c := <-r.chunks:
			r.buf, r.rest, r.err = c.buf, c.buf[:c.n], c.err
		case <-r.ctx.Done():
			r.err = r.ctx.Err()
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// interruptibleWriter is a writer that stops waiting for its reader when a context is done. It may
// be used concurrently.
type interruptibleWriter struct {
	ctx context.Context
	w   io.Writer

	mu      sync.Mutex
	pending chan []byte
	results chan writeResult
	err     error
}

type writeResult struct {
	n   int
	err error
}

// newInterruptibleWriter returns a writer to w. After an error of the context, w may still read the
// bytes of the last Write, so they must not change.
func newInterruptibleWriter(ctx context.Context, w io.Writer) *interruptibleWriter {
	return &interruptibleWriter{ctx: ctx, w: w}
}

// Write implements [io.Writer].
func (w *interruptibleWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = w.ctx.Err()
	}
	if w.err != nil {
		return 0, w.err
	}
	if w.pending == nil {
		w.pending, w.results = make(chan []byte), make(chan writeResult, 1)
		go func() {
			for p := range w.pending {
				n, err := w.w.Write(p)
				w.results <- writeResult{n, err}
			}
		}()
	}
	w.pending <- p
	select {
	case r := <-w.results:
		return r.n, r.err
	case <-w.ctx.Done():
		w.err = w.ctx.Err()
		return 0, w.err
	}
}

// openFIFO opens a named pipe. It waits until the other end is opened, or ctx is done.
func openFIFO(ctx context.Context, name string, flag int) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	opened := make(chan result, 1)
	go func() {
		f, err := os.OpenFile(name, flag, 0)
		opened <- result{f, err}
	}()
	select {
	case r := <-opened:
		return r.f, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
