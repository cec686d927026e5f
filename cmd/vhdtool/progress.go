package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/vhdtool/vhdtool/internal/sizearg"
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
	f, ok := w.(*os.File)
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
		fmt.Fprintf(w, "    (%s)\n", sizearg.Format(p.done))
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

// barDelay is how long a command may take before a bar is worth showing.
const barDelay = time.Second

// barProgress shows a bar with the rate and the time left.
type barProgress struct {
	w     io.Writer
	start time.Time
	bars  *mpb.Progress // nil until the delay is over
	bar   *mpb.Bar
}

func (p *barProgress) update(done, total int64) {
	if p.bars == nil {
		if time.Since(p.start) < barDelay || done == total {
			return
		}
		p.show(total)
	}
	p.bar.SetCurrent(done)
}

// show draws the bar for the first time. The size of a stream is not known.
func (p *barProgress) show(total int64) {
	p.bars = mpb.New(mpb.WithOutput(p.w), mpb.WithWidth(48))
	rate := decor.NewAverageSpeed(decor.SizeB1024(0), " % .1f ", p.start)
	if total <= 0 {
		p.bar = p.bars.New(0, mpb.SpinnerStyle().PositionLeft(), mpb.BarWidth(2), mpb.AppendDecorators(decor.CurrentKibiByte("% .1f "), rate))
		return
	}
	p.bar = p.bars.AddBar(total,
		mpb.PrependDecorators(decor.NewPercentage("%d ")),
		mpb.AppendDecorators(rate, decor.NewAverageETA(decor.ET_STYLE_GO, p.start, nil, decor.WCSyncWidth), decor.Name(" left")))
}

func (p *barProgress) finish(complete bool) {
	if p.bars == nil {
		return
	}
	if complete {
		p.bar.SetTotal(-1, true)
	} else {
		p.bar.Abort(false)
	}
	p.bars.Wait()
}

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
