package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"sync"
)

// signals handles the signals to the running command. The zero value leaves each signal its default
// action. All methods may be called concurrently.
//
// The first ending signal cancels the context of a command that has called stop. The command cleans
// up, and exit ends the program by that signal, as callers of an interrupted program expect. A
// second signal ends it at once.
type signals struct {
	mu       sync.Mutex
	listened chan os.Signal // nil: nothing listens
	cancel   context.CancelFunc
	answer   func()
	received os.Signal // the first ending signal; nil for none
}

// stop returns a context that the first signal cancels. Listening needs a thread, so commands that
// only read and print do not call it.
func (s *signals) stop(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel = cancel
	s.listen()
	return ctx
}

// answerWith makes each progress signal call f.
func (s *signals) answerWith(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
	s.listen()
}

// listen starts to listen for the signals that the command handles. Ignored signals stay ignored:
// nohup, and shells in the background, ignore some.
func (s *signals) listen() {
	wanted := slices.Clone(progressSignals)
	if s.cancel != nil {
		wanted = append(wanted, endingSignals...)
	}
	wanted = append(wanted, quitSignals...)
	wanted = slices.DeleteFunc(wanted, signal.Ignored)
	if len(wanted) == 0 { // Notify without signals listens for all
		return
	}
	if s.listened == nil {
		s.listened = make(chan os.Signal, 4)
		go func() {
			for sig := range s.listened {
				s.act(sig)
			}
		}()
	}
	signal.Notify(s.listened, wanted...)
}

func (s *signals) act(sig os.Signal) {
	s.mu.Lock()
	answer, cancel := s.answer, s.cancel
	asked := slices.Contains(progressSignals, sig)
	if !asked && s.received == nil {
		s.received = sig
	}
	s.mu.Unlock()
	switch {
	case asked && answer != nil:
		answer()
	case asked:
	case cancel == nil:
		os.Exit(s.endedBy(sig))
	default:
		signal.Reset(append(slices.Clone(endingSignals), quitSignals...)...)
		cancel()
	}
}

// exit returns the exit status of the program. If a signal came, it ends the program by that signal
// where it can.
func (s *signals) exit(status int) int {
	s.mu.Lock()
	sig := s.received
	s.mu.Unlock()
	if sig == nil {
		return status
	}
	return s.endedBy(sig)
}

// untilSignal returns a context for a command that must clean up or complete. A signal cancels it,
// and a broken pipe makes writes fail.
func (c *cli) untilSignal(ctx context.Context) context.Context {
	keepPipeErrors()
	ctx = c.signals.stop(ctx)
	if out, ok := c.stdout.(*standardOutput); ok {
		out.ctx = ctx
	}
	return ctx
}
