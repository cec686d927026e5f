package main

import (
	"errors"
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/convert"
)

// Exit statuses that any command may have, besides its own.
const (
	// exitOutputLost means that stdout could not be written. It is EX_IOERR of BSD, and
	// differs from each status with which a command answers a question.
	exitOutputLost = 74
	// exitInterrupted is the status of an interrupted command where no signal ends a
	// program.
	exitInterrupted = 130
)

// lostOutput returns the error of a command that ended with err and could not write to
// stdout because of lost, which may be nil. A command whose answer is lost has failed,
// whatever the answer is.
func lostOutput(err, lost error) error {
	if lost == nil {
		return err
	}
	var status *statusError
	var op *convert.OpError
	switch {
	case errors.Is(err, lost) && errors.As(err, &op): // it says where in the disk
		return &statusError{exitOutputLost, err}
	case err == nil, errors.Is(err, lost), errors.As(err, &status) && status.err == nil:
		return &statusError{exitOutputLost, fmt.Errorf("%s: %w", stdoutName, withoutPath(lost))}
	}
	return err
}
