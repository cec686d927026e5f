//go:build unix

package main

import (
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// endingSignals ask the program to end.
	endingSignals = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}
	// quitSignals do so, too. By default they end a Go program with the stacks of its
	// goroutines and status 2, which check and compare give another meaning.
	quitSignals = []os.Signal{syscall.SIGQUIT}
	// progressSignals ask for a line with the progress.
	progressSignals = []os.Signal{syscall.SIGUSR1}
)

// endedBy ends the program by a signal. Where a signal cannot do that, it returns the
// status that shells give a program which it has ended.
func (s *signals) endedBy(sig os.Signal) int {
	number, ok := sig.(syscall.Signal)
	if !ok {
		return exitInterrupted
	}
	// The default action does not end the first process of a container. That of SIGQUIT is
	// not the system's in a Go program.
	if number != syscall.SIGQUIT && os.Getpid() != 1 {
		signal.Reset(sig)
		if syscall.Kill(os.Getpid(), number) == nil {
			time.Sleep(time.Second) // it comes at once
		}
	}
	return 128 + int(number)
}

// isBrokenPipe reports whether nobody reads a pipe any more.
func isBrokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }

// keepPipeErrors makes a write to a broken pipe return an error. A signal that is ignored
// instead would be ignored by child processes, too.
func keepPipeErrors() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// endedByPipe ends the program as SIGPIPE ends others. Go acts on that signal only after a
// write to stdout, so stdout becomes a pipe that nobody reads.
func endedByPipe() int {
	signal.Reset(syscall.SIGPIPE)
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		if unix.Dup2(int(w.Fd()), int(os.Stdout.Fd())) == nil {
			_, _ = os.Stdout.Write([]byte{0})
		}
	}
	return 128 + int(syscall.SIGPIPE)
}
