// Command vhdtool makes, converts, examines and checks VHD images, with the
// command lines of qemu-img.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	os.Exit(runMain())
}

// runMain is main with an exit status. The first signal asks the command to
// stop and clean up; the second one ends the program at once.
func runMain() int {
	var signals []os.Signal
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) { // as nohup and shells do for what runs in the background
			signals = append(signals, s)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	if len(signals) > 0 { // none would mean all
		ctx, stop = signal.NotifyContext(ctx, signals...)
	}
	defer stop()
	context.AfterFunc(ctx, stop)
	signal.Ignore(syscall.SIGPIPE) // a closed pipe is a write error, and cleaned up after

	c := newCLI(os.Args[0])
	return c.execute(ctx, os.Args[1:])
}

// newCLI returns the program as called by this path.
func newCLI(arg0 string) *cli {
	name := strings.TrimSuffix(filepath.Base(arg0), ".exe")
	return &cli{
		name: name, likeQEMU: name == "qemu-img",
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}
}
