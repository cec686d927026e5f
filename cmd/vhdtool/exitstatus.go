package main

import (
	"errors"
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/convert"
)

// Exit statuses of every command, besides its own.
const (
	// exitOutputLost means that stdout could not be written. It is EX_IOERR of BSD, and differs
	// from every status that answers a question.
	exitOutputLost = 74
	// exitInterrupted is the status of an interrupted command on systems where signals end no
	// program.
	exitInterrupted = 130
)

// lostOutput returns the error of a command that ended with err, after writing to stdout failed
// with lost. lost may be nil. A command whose answer is lost fails, whatever the answer is.
func lostOutput(err, lost error) error {
	if lost == nil {
		return err
	}
	var status *statusError
	var op *convert.OpError
	switch {
	case errors.Is(err, lost) && errors.As(err, &op): // it contains the offset on the disk
		return &statusError{exitOutputLost, err}
	case err == nil, errors.Is(err, lost), errors.As(err, &status) && status.err == nil:
		return &statusError{exitOutputLost, fmt.Errorf("%s: %w", stdoutName, withoutPath(lost))}
	}
	return err
}
