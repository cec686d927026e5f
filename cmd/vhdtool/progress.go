package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// progress shows how far a long command is.
type progress interface {
	// update is called by one goroutine at a time.
	update(done, total int64)
	// finish is called once, at the end.
	finish(complete bool)
}

// newProgress chooses how to show it. If asked for, in per cent, on stdout as
// qemu-img does, unless that has the data; step is how much it grows. Else, on
// a terminal, as a bar once it takes a while. SIGUSR1 asks for a line in any
// case.
func (c *cli) newProgress(percent, quiet, dataOnStdout bool, step float64) progress {
	var shown progress = noProgress{}
	switch {
	case quiet:
	case percent && dataOnStdout:
		return newPercentProgress(c.stderr, step)
	case percent:
		return newPercentProgress(c.stdout, step)
	case !c.likeQEMU && isTerminal(c.stderr):
		shown = &barProgress{w: c.stderr, start: time.Now()}
	}
	return newAskedProgress(shown, c.stderr)
}

// asCopied has a percentage printed where qemu-img convert prints it, if p is one. src is nil
// for a stream; all says that holes are copied, too.
func asCopied(p progress, src disk.Disk, all bool) {
	if p, ok := p.(*percentProgress); ok && src != nil {
		p.marks = progressMarks(src, all, disk.SectorSize, p.step)
		p.again = true
	}
}

// asCompared has a percentage printed where qemu-img compare prints it, if p is one.
func asCompared(p progress, d disk.Disk) {
	if p, ok := p.(*percentProgress); ok {
		p.marks = progressMarks(d, true, 1, p.step)
	}
}

// limitRate returns next as a function that makes who calls it wait until so
// many bytes a second are not exceeded; a rate of 0 is no limit.
func limitRate(ctx context.Context, rate int64, next func(done, total int64)) func(done, total int64) {
	if rate <= 0 {
		return next
	}
	start := time.Now()
	return func(done, total int64) {
		next(done, total)
		due := start.Add(time.Duration(float64(done) / float64(rate) * float64(time.Second)))
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
		}
	}
}

// isTerminal reports whether an output is shown to somebody.
func isTerminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

type noProgress struct{}

func (noProgress) update(int64, int64) {}
func (noProgress) finish(bool)         {}

// askedProgress prints a line when SIGUSR1 comes, as qemu-img does, and passes
// on what it is told.
type askedProgress struct {
	progress
	asked chan os.Signal
	over  chan struct{}

	mu          sync.Mutex
	done, total int64
}

func newAskedProgress(next progress, w io.Writer) *askedProgress {
	p := &askedProgress{progress: next, asked: make(chan os.Signal, 1), over: make(chan struct{})}
	notifyProgress(p.asked)
	go func() {
		for {
			select {
			case <-p.over:
				return
			case <-p.asked:
				p.print(w)
			}
		}
	}()
	return p
}

func (p *askedProgress) print(w io.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.total <= 0 {
		fmt.Fprintf(w, "    (%s)\n", humanize.IBytes(uint64(p.done)))
		return
	}
	fmt.Fprintf(w, "    (%3.2f/100%%)\n", 100*float64(p.done)/float64(p.total))
}

func (p *askedProgress) update(done, total int64) {
	p.mu.Lock()
	p.done, p.total = done, total
	p.mu.Unlock()
	p.progress.update(done, total)
}

func (p *askedProgress) finish(complete bool) {
	signal.Stop(p.asked)
	close(p.over)
	p.progress.finish(complete)
}

// barDelay is how long a command may take before a bar is worth showing, and
// barPause how long one is shown as it is.
const (
	barDelay = time.Second
	barPause = 100 * time.Millisecond
)

// barProgress shows a bar with the rate and the time left. The bar is drawn by
// hand because the libraries that draw one slow down the start of every command
// more than all other packages together.
type barProgress struct {
	w     io.Writer
	start time.Time
	drawn time.Time // zero until the delay is over
	width int       // of what was drawn

	done, total int64
}

func (p *barProgress) update(done, total int64) {
	p.done, p.total = done, total
	now := time.Now()
	if p.drawn.IsZero() {
		if now.Sub(p.start) < barDelay || done == total {
			return
		}
	} else if now.Sub(p.drawn) < barPause {
		return
	}
	p.drawn = now
	p.draw(now, "\r")
}

// draw writes the line over the one before, ended by a new line or, if another
// is to follow, a return.
func (p *barProgress) draw(now time.Time, end string) {
	line := barLine(p.done, p.total, now.Sub(p.start))
	fmt.Fprintf(p.w, "%-*s%s", p.width, line, end)
	p.width = len(line)
}

// barLine is the bar after some time. The total of a stream is not known, and
// then it is only how much is done.
func barLine(done, total int64, elapsed time.Duration) string {
	rate := float64(done) / max(elapsed.Seconds(), 1e-9)
	speed := humanize.IBytes(uint64(rate)) + "/s"
	if total <= 0 {
		return humanize.IBytes(uint64(done)) + " " + speed
	}
	const width = 40
	share := float64(done) / float64(total)
	full := strings.Repeat("=", int(share*width))
	if len(full) < width {
		full += ">"
	}
	line := fmt.Sprintf("%-4s [%s%s] %s ", fmt.Sprintf("%d%%", int(100*share)), full, strings.Repeat("-", width-len(full)), speed)
	if rate > 0 {
		line += timeLeft(time.Duration(float64(total-done) / rate * float64(time.Second)))
	}
	return line
}

// leftMagnitudes are the units of the time left. Each is used up to two of the
// next one, so that a long copy counts down more often than once an hour.
var leftMagnitudes = []humanize.RelTimeMagnitude{
	{D: 2 * time.Second, Format: "%d second %s", DivBy: time.Second},
	{D: 2 * time.Minute, Format: "%d seconds %s", DivBy: time.Second},
	{D: 2 * time.Hour, Format: "%d minutes %s", DivBy: time.Minute},
	{D: 2 * humanize.Day, Format: "%d hours %s", DivBy: time.Hour},
	{D: math.MaxInt64, Format: "%d days %s", DivBy: humanize.Day},
}

// timeLeft returns "6 seconds left" or the like.
func timeLeft(d time.Duration) string {
	d = d.Round(time.Second)
	if d == 0 {
		return "0 seconds left"
	}
	now := time.Time{}
	return humanize.CustomRelTime(now, now.Add(d), "left", "", leftMagnitudes)
}

func (p *barProgress) finish(complete bool) {
	if p.drawn.IsZero() {
		return
	}
	if complete && p.total > 0 {
		p.done = p.total
	}
	p.draw(time.Now(), "\n")
}

// percentProgress prints qemu-img's -p: a percentage that is written over, whenever it grew
// by a step.
type percentProgress struct {
	w     io.Writer
	step  float64
	next  float64
	marks []progressMark // where the percentage is printed; nil: wherever it grew by a step
	again bool           // the end is printed twice
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
	if p.marks != nil {
		for len(p.marks) > 0 && p.marks[0].off <= done {
			p.print(p.marks[0].percent)
			p.marks = p.marks[1:]
		}
		return
	}
	if total <= 0 {
		return
	}
	if percent := 100 * float64(done) / float64(total); percent >= p.next {
		p.print(percent)
	}
}

// finish ends the line. An interrupted one keeps its last percentage.
func (p *percentProgress) finish(complete bool) {
	if complete && (p.next <= 100 || p.again) {
		p.print(100)
	}
	fmt.Fprintln(p.w)
}

// progressMark is an offset of the source, and the percentage printed when all before it is
// copied.
type progressMark struct {
	off     int64
	percent float64
}

// progressChunk is how much qemu-img copies at a time.
const progressChunk = 2 << 20

// progressMarks are the marks of a pass over the data in src, or with all over all of it. They
// do not depend on how many workers there are. Data is counted in whole units of bytes. If it
// cannot be told where the data is, there are no marks.
func progressMarks(src disk.Disk, all bool, unit int64, step float64) []progressMark {
	// runs calls f for each run that is counted, and reports whether all are known.
	runs := func(f func(off, end int64)) bool {
		for e, err := range src.Extents(0, src.Size()) {
			if err != nil {
				return false
			}
			if all || e.State == disk.Data {
				f(e.Off/unit*unit, (e.End()+unit-1)/unit*unit)
			}
		}
		return true
	}
	total := int64(0)
	if !runs(func(off, end int64) { total += end - off }) {
		return nil
	}
	marks := []progressMark{}
	done, printed := int64(0), 0.0
	if !runs(func(off, end int64) {
		for off < end {
			n := min(progressChunk, end-off)
			off, done = off+n, done+n
			if percent := 100 * float64(done) / float64(total); percent-printed > step || done == total {
				marks = append(marks, progressMark{off, percent})
				printed = percent
			}
		}
	}) {
		return nil
	}
	return marks
}
