package main

import (
	"context"
	"io"
	"os"
)

// interruptible is a reader that stops waiting for data when a context is done.
// The read that waited goes on in the background, and its data is lost.
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

// openFIFO opens a named pipe, which waits for its other end.
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
