package main

import (
	"fmt"
	"io"
)

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
	p.next = percent + p.step
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
