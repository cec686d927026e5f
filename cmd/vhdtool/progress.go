package main

import (
	"fmt"
	"io"
	"sync"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// progress shows how far a command has advanced.
type progress interface {
	// update reports that done of total bytes are complete; a total of 0 or less is
	// unknown. It is called by one goroutine at a time. It may start again from 0 for
	// another pass.
	update(done, total int64)
	// finish ends the display. Later calls do nothing.
	finish(complete bool)
}

// newProgress returns the progress of the command:
//
//   - percent prints a percentage, as qemu-img's -p does, whenever it grew by step. It goes
//     to stdout, or to stderr if dataOnStdout.
//   - Otherwise a terminal shows a bar once the command has run for a second.
//   - quiet shows nothing.
//
// In each case SIGUSR1 prints one line to stderr.
func (c *cli) newProgress(percent, quiet, dataOnStdout bool, step float64) progress {
	var shown progress = noProgress{}
	switch {
	case quiet:
	case percent && dataOnStdout:
		shown = newPercentProgress(c.stderr, step)
	case percent:
		shown = newPercentProgress(c.stdout, step)
	case !c.likeQEMU && c.line.isUsable():
		shown = newBarProgress(c.line)
	}
	p := &askedProgress{shown: shown, w: c.stderr}
	c.signals.answerWith(p.print)
	return p
}

// newDDProgress returns the progress of dd. The operand status=progress shows a line on any stderr,
// and status=none shows nothing.
func (c *cli) newDDProgress(status string) progress {
	p := c.newProgress(false, status == "none", false, 1)
	if asked, ok := p.(*askedProgress); ok && status == "progress" && c.line != nil && !c.line.isUsable() {
		asked.shown = newBarProgress(c.line)
	}
	return p
}

// asCopied prints percentages at the same points as qemu-img convert. src is nil for a stream; all
// means that holes are copied, too. Other kinds of progress are unchanged.
func asCopied(p progress, src disk.Disk, all bool) {
	if p, ok := percentageOf(p); ok && src != nil {
		p.marks = progressMarks(src, all, disk.SectorSize, p.step)
		p.again = true
	}
}

// asCompared prints percentages at the same points as qemu-img compare.
func asCompared(p progress, d disk.Disk) {
	if p, ok := percentageOf(p); ok {
		p.marks = progressMarks(d, true, 1, p.step)
	}
}

func percentageOf(p progress) (*percentProgress, bool) {
	asked, ok := p.(*askedProgress)
	if !ok {
		return nil, false
	}
	percent, ok := asked.shown.(*percentProgress)
	return percent, ok
}

// halves returns the progress functions of two passes over a disk of size bytes. Together they
// count twice the size.
func halves(size int64, progress disk.Progress) (first, second disk.Progress) {
	first = func(done, total int64) { progress(done, 2*size) }
	second = func(done, total int64) {
		if total > 0 {
			progress(size+int64(float64(done)/float64(total)*float64(size)), 2*size)
		}
	}
	return first, second
}

// isTerminal reports whether an output is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

type noProgress struct{}

func (noProgress) update(int64, int64) {}
func (noProgress) finish(bool)         {}

// askedProgress passes progress on, and prints it to w on request.
type askedProgress struct {
	shown progress
	w     io.Writer
	once  sync.Once

	mu          sync.Mutex
	done, total int64
}

func (p *askedProgress) update(done, total int64) {
	p.mu.Lock()
	p.done, p.total = done, total
	p.mu.Unlock()
	p.shown.update(done, total)
}

func (p *askedProgress) finish(complete bool) {
	p.once.Do(func() { p.shown.finish(complete) })
}

// print prints one line.
func (p *askedProgress) print() {
	p.mu.Lock()
	done, total := p.done, p.total
	p.mu.Unlock()
	fmt.Fprintln(p.w, progressText(done, total))
}

// progressText returns the progress as qemu-img prints it, or the amount if the total is unknown.
func progressText(done, total int64) string {
	if total <= 0 {
		return fmt.Sprintf("    (%s)", humanize.IBytes(uint64(done)))
	}
	return fmt.Sprintf("    (%3.2f/100%%)", 100*float64(done)/float64(total))
}
