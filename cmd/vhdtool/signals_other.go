//go:build !unix

package main

import "os"

var (
	endingSignals   = []os.Signal{os.Interrupt}
	quitSignals     []os.Signal
	progressSignals []os.Signal
)

// endedBy returns the status of an interrupted command. No signal ends a program here.
func (s *signals) endedBy(os.Signal) int { return exitInterrupted }

// isBrokenPipe reports nothing: a broken pipe is an error like others.
func isBrokenPipe(error) bool { return false }

func keepPipeErrors() {}

func endedByPipe() int { return 1 }
