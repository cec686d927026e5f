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
	// quitSignals end the program, too. By default they print the stacks of a Go program and exit
	// 2, which check and compare use for other results.
	quitSignals = []os.Signal{syscall.SIGQUIT}
	// progressSignals ask for a line of progress.
	progressSignals = []os.Signal{syscall.SIGUSR1}
)

// endedBy ends the program by a signal. If that fails, it returns the status that shells report for
// a program ended by the signal.
func (s *signals) endedBy(sig os.Signal) int {
	number, ok := sig.(syscall.Signal)
	if !ok {
		return exitInterrupted
	}
	// The default action does not end the first process of a container. In a Go program, SIGQUIT
	// does not have the system's default action.
	if number != syscall.SIGQUIT && os.Getpid() != 1 {
		signal.Reset(sig)
		if syscall.Kill(os.Getpid(), number) == nil {
			time.Sleep(time.Second) // it comes at once
		}
	}
	return 128 + int(number)
}

// isBrokenPipe reports whether a pipe has no reader any more.
func isBrokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }

// keepPipeErrors makes a write to a broken pipe return an error. Ignoring SIGPIPE would do so too,
// but child processes inherit that.
func keepPipeErrors() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// endedByPipe ends the program by SIGPIPE. Go acts on that signal only after a write to stdout, so
// stdout becomes a pipe without a reader.
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
