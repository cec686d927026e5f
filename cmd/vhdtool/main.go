// Command vhdtool creates, converts, inspects, checks and repairs VHD images, with the command
// lines of qemu-img.
package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	os.Exit(runMain())
}

// runMain is main, but returns the exit status.
func runMain() int {
	c := newCLI(os.Args[0])
	if c.likeQEMU {
		var err error
		if c.qemu, err = qemuVersionFromEnv(); err != nil {
			c.report(err)
			return 1
		}
	}
	return c.signals.exit(c.execute(context.Background(), os.Args[1:]))
}

// newCLI returns the program for the path that it was called by.
func newCLI(arg0 string) *cli {
	name := strings.TrimSuffix(filepath.Base(arg0), ".exe")
	line := newStatusLine(os.Stderr)
	return &cli{
		name: name, likeQEMU: name == "qemu-img",
		stdin: os.Stdin, stdout: &standardOutput{f: os.Stdout, line: line}, stderr: &messageOutput{os.Stderr, line},
		line: line,
	}
}
