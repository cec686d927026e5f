package vhd

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
)

// phase says what can be done with an image.
type phase int32

const (
	phaseReading  phase = iota // opened for reading
	phaseCreating              // new: no reader recognises the file yet
	phaseWriting               // complete, and changed in place
	phaseFailed                // a change stopped halfway: only Close is left
	phaseClosed
)

// state is the phase of an image and, in phaseFailed, the reason. It is safe for
// concurrent use. The zero value is phaseReading.
type state struct {
	current atomic.Int32
	reason  atomic.Pointer[error]
}

func (s *state) phase() phase { return phase(s.current.Load()) }

func (s *state) set(p phase) { s.current.Store(int32(p)) }

// usable returns the error of every call to an image that has failed or is closed.
func (s *state) usable() error {
	switch s.phase() {
	case phaseFailed:
		return *s.reason.Load()
	case phaseClosed:
		return fs.ErrClosed
	}
	return nil
}

// writable is usable for a call that changes the image.
func (s *state) writable() error {
	if s.phase() == phaseReading {
		return ErrReadOnly
	}
	return s.usable()
}

// inPlace is writable for a call that needs a complete image; what says which call
// that is.
func (s *state) inPlace(what string) error {
	if err := s.writable(); err != nil {
		return err
	}
	if s.phase() == phaseCreating {
		return fmt.Errorf("%s a new image: %w", what, ErrUnsupported)
	}
	return nil
}

// fail makes err, of a change that stopped halfway, the error of every later call.
// From here on nothing is written: the file stays as a crash at this moment would
// leave it.
func (s *state) fail(err error) error {
	if errors.Is(err, ErrFailed) {
		return err
	}
	err = fmt.Errorf("%w; %w", err, ErrFailed)
	if s.reason.CompareAndSwap(nil, &err) {
		s.set(phaseFailed)
	}
	return err
}

// interrupted is the end of a long change, by its context, at a moment at which
// memory and file agree.
type interrupted struct{ error }

func (e interrupted) Unwrap() error { return e.error }

// change runs the steps of a change of which memory and file may disagree once a
// step fails: then the image has failed. A step that the context interrupts does
// no harm.
func (s *state) change(steps func() error) error {
	err := steps()
	var stopped interrupted
	if err == nil || errors.As(err, &stopped) {
		return err
	}
	return s.fail(err)
}
