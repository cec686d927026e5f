package vhd

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
)

// phase determines which calls an image accepts.
type phase int32

const (
	phaseReading  phase = iota // opened for reading
	phaseCreating              // new: no reader recognises the file yet
	phaseWriting               // complete, and changed in place
	phaseFailed                // a change stopped halfway: only Close works
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

// usable returns an error if the image has failed or is closed.
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

// inPlace is writable for a call that needs a complete image; call names it in the error.
func (s *state) inPlace(call string) error {
	if err := s.writable(); err != nil {
		return err
	}
	if s.phase() == phaseCreating {
		return fmt.Errorf("%s a new image: %w", call, ErrUnsupported)
	}
	return nil
}

// fail makes err the error of every later call. err is from a change that stopped halfway.
// Nothing is written afterwards: the file stays as after a crash at this moment.
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

// interrupted is the error of a context that ended a long change while memory and file agree.
type interrupted struct{ error }

func (e interrupted) Unwrap() error { return e.error }

// change runs the steps of a change. If a step fails, memory and file may disagree, and the
// image has failed. A step that the context interrupts does no harm.
func (s *state) change(steps func() error) error {
	err := steps()
	var stopped interrupted
	if err == nil || errors.As(err, &stopped) {
		return err
	}
	return s.fail(err)
}
