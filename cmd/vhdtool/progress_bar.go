package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
)

// barDelay is the run time before the bar appears. barPause is the time between two updates.
const (
	barDelay = time.Second
	barPause = 100 * time.Millisecond
)

// barProgress shows amount, rate and time left on the status line. Updates do not wait for
// progress, and follow the width of the terminal within barPause.
type barProgress struct {
	line *statusLine
	over chan struct{} // closed by finish
	end  sync.WaitGroup

	mu          sync.Mutex
	done, total int64
	rate        rateMeter
}

// newBarProgress starts a bar; finish ends it.
func newBarProgress(line *statusLine) *barProgress {
	p := &barProgress{line: line, over: make(chan struct{})}
	p.rate.add(time.Now(), 0)
	p.end.Go(p.run)
	return p
}

func (p *barProgress) run() {
	select {
	case <-time.After(barDelay):
	case <-p.over:
		return
	}
	pause := barPause
	if p.line.permanent {
		pause = time.Second
	}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		p.draw(time.Now())
		select {
		case <-tick.C:
		case <-p.over:
			return
		}
	}
}

func (p *barProgress) update(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if done < p.done { // another pass
		p.rate = rateMeter{}
	}
	p.done, p.total = done, total
}

// draw shows the current line.
func (p *barProgress) draw(now time.Time) {
	p.mu.Lock()
	p.rate.add(now, p.done)
	done, total, rate := p.done, p.total, p.rate.perSecond()
	p.mu.Unlock()
	p.line.show(func(width int) string { return barLine(done, total, rate, width) })
}

// finish removes the bar.
func (p *barProgress) finish(bool) {
	close(p.over)
	p.end.Wait()
	p.line.erase()
}

// rateWindow is the time over which a rate is measured. It bounds the effect of a hole, which needs
// no time to copy.
const rateWindow = 10 * time.Second

// rateMeter measures the rate in the last rateWindow. The zero value is ready to use.
type rateMeter struct{ samples []rateSample }

type rateSample struct {
	at   time.Time
	done int64
}

// add records the bytes done at a time. Times never decrease.
func (m *rateMeter) add(at time.Time, done int64) {
	m.samples = append(m.samples, rateSample{at, done})
	for len(m.samples) > 2 && at.Sub(m.samples[1].at) >= rateWindow {
		m.samples = m.samples[1:]
	}
}

// perSecond returns the rate in bytes per second, or 0 if it is not known yet.
func (m *rateMeter) perSecond() float64 {
	if len(m.samples) < 2 {
		return 0
	}
	first, last := m.samples[0], m.samples[len(m.samples)-1]
	elapsed := last.at.Sub(first.at).Seconds()
	if elapsed <= 0 {
		return 0
	}
	return float64(last.done-first.done) / elapsed
}

// leastBar and mostBar bound the columns of the bar without its brackets.
const (
	leastBar = 8
	mostBar  = 40
)

// barLine returns the line for a terminal of width columns. The last column stays free. Narrow
// terminals show no bar, and leave out time left, rate and amount, in this order.
func barLine(done, total int64, rate float64, width int) string {
	width = max(1, width-1)
	amount := humanize.IBytes(uint64(max(0, done)))
	speed := humanize.IBytes(uint64(max(0, rate))) + "/s"
	if total <= 0 {
		return joinFitting([]string{amount, speed}, width)
	}
	share := min(1, float64(done)/float64(total))
	percent := fmt.Sprintf("%d%%", int(100*share))
	parts := []string{percent, amount + " of " + humanize.IBytes(uint64(total)), speed}
	if left := timeLeft(total-done, rate); left != "" {
		parts = append(parts, left)
	}
	rest := width - len(strings.Join(parts[1:], "  ")) - len("100% [] ")
	if rest < leastBar {
		return joinFitting(parts, width)
	}
	columns := min(rest, mostBar)
	full := strings.Repeat("=", int(share*float64(columns)))
	if len(full) < columns {
		full += ">"
	}
	bar := fmt.Sprintf("%-4s [%s%s] ", percent, full, strings.Repeat("-", columns-len(full)))
	return bar + strings.Join(parts[1:], "  ")
}

// joinFitting joins the first parts, as many as fit. It cuts the first one if necessary.
func joinFitting(parts []string, width int) string {
	line := parts[0]
	for _, part := range parts[1:] {
		if len(line)+2+len(part) > width {
			break
		}
		line += "  " + part
	}
	return line[:min(len(line), width)]
}

// timeLeft returns the time for the given bytes, as "2m10s left". It is "" if that is not known or
// longer than a year.
func timeLeft(bytes int64, rate float64) string {
	const year = 365 * 24 * time.Hour
	seconds := float64(bytes) / rate
	if rate <= 0 || seconds > year.Seconds() {
		return ""
	}
	d := time.Duration(seconds * float64(time.Second))
	if d < time.Hour {
		return d.Round(time.Second).String() + " left"
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s") + " left"
}
