//go:build !unix

package main

import "os"

// notifyProgress does nothing: there is no signal to ask with here.
func notifyProgress(chan<- os.Signal) {}
