package main

import (
	"fmt"
	"io"
)

// progress shows how far a long command is.
type progress interface {
	// update is called by one goroutine at a time.
	update(done, total int64)
	// finish is called once, at the end.
	finish(complete bool)
}

// newProgress chooses how to show it: in per cent if asked for, else not at
// all. The percentage goes to stdout, as qemu-img's, unless that has the data;
// step is how much it grows.
func (c *cli) newProgress(percent, quiet, dataOnStdout bool, step float64) progress {
	if percent && !quiet {
		if dataOnStdout {
			return newPercentProgress(c.stderr, step)
		}
		return newPercentProgress(c.stdout, step)
	}
	return noProgress{}
}

type noProgress struct{}

func (noProgress) update(int64, int64) {}
func (noProgress) finish(bool)         {}

// percentProgress prints qemu-img's -p: a percentage that is written over,
// whenever it grew by a step.
type percentProgress struct {
	w    io.Writer
	step float64
	next float64
}

func newPercentProgress(w io.Writer, step float64) *percentProgress {
	p := &percentProgress{w: w, step: step}
	p.print(0)
	return p
}

func (p *percentProgress) print(percent float64) {
	fmt.Fprintf(p.w, "    (%3.2f/100%%)\r", percent)
	p.next = min(percent+p.step, 100)
	if percent == 100 {
		p.next = 101
	}
}

func (p *percentProgress) update(done, total int64) {
	if total <= 0 {
		return
	}
	if percent := 100 * float64(done) / float64(total); percent >= p.next {
		p.print(percent)
	}
}

// finish ends the line. An interrupted one keeps its last percentage.
func (p *percentProgress) finish(complete bool) {
	if complete && p.next <= 100 {
		p.print(100)
	}
	fmt.Fprintln(p.w)
}
