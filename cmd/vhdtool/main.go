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

// runMain is main with an exit status.
func runMain() int {
	signal.Ignore(syscall.SIGPIPE) // a closed pipe is a write error, and cleaned up after
	c := newCLI(os.Args[0])
	if c.likeQEMU {
		var err error
		if c.qemu, err = qemuVersionFromEnv(); err != nil {
			c.report(err)
			return 1
		}
	}
	return c.execute(context.Background(), os.Args[1:])
}

// untilSignal returns a context for a command that has something to clean up:
// the first signal asks it to stop and do so; the second one ends the program at
// once. Listening takes a thread, so commands that only read and print do
// without.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	var signals []os.Signal
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) { // as nohup and shells do for what runs in the background
			signals = append(signals, s)
		}
	}
	if len(signals) == 0 { // none would mean all
		return context.WithCancel(ctx)
	}
	ctx, stop := signal.NotifyContext(ctx, signals...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// newCLI returns the program as called by this path.
func newCLI(arg0 string) *cli {
	name := strings.TrimSuffix(filepath.Base(arg0), ".exe")
	return &cli{
		name: name, likeQEMU: name == "qemu-img",
		stdin: os.Stdin, stdout: &standardOutput{f: os.Stdout}, stderr: os.Stderr,
	}
}
