//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyProgress has the signal that asks for the progress sent to the channel.
func notifyProgress(asked chan<- os.Signal) { signal.Notify(asked, syscall.SIGUSR1) }
