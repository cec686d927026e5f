package main

import (
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBarLine(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		done, total int64
		rate        float64
		width       int
		want        string
	}{
		{0, 100 * mib, 0, 80, "0%   [>---------------------------------------] 0 B of 100 MiB  0 B/s"},
		{25 * mib, 100 * mib, 12.5 * mib, 80, "25%  [========>--------------------------] 25 MiB of 100 MiB  13 MiB/s  6s left"},
		{25 * mib, 100 * mib, 12.5 * mib, 60, "25%  [===>-----------] 25 MiB of 100 MiB  13 MiB/s  6s left"},
		{25 * mib, 100 * mib, 12.5 * mib, 53, "25%  [==>-----] 25 MiB of 100 MiB  13 MiB/s  6s left"},
		{25 * mib, 100 * mib, 12.5 * mib, 52, "25%  25 MiB of 100 MiB  13 MiB/s  6s left"},
		{25 * mib, 100 * mib, 12.5 * mib, 42, "25%  25 MiB of 100 MiB  13 MiB/s  6s left"},
		{25 * mib, 100 * mib, 12.5 * mib, 41, "25%  25 MiB of 100 MiB  13 MiB/s"},
		{25 * mib, 100 * mib, 12.5 * mib, 20, "25%"},
		{25 * mib, 100 * mib, 12.5 * mib, 3, "25"},
		{100 * mib, 100 * mib, 50 * mib, 200, "100% [========================================] 100 MiB of 100 MiB  50 MiB/s  0s left"},
		{2040 << 30 / 100, 2040 << 30, 348 * mib, 200, "0%   [>---------------------------------------] 20 GiB of 2.0 TiB  348 MiB/s  1h39m left"},
		{1, 1 << 40, 1, 200, "0%   [>---------------------------------------] 1 B of 1.0 TiB  1 B/s"},
		{130 * mib, 260 * mib, mib, 100, "50%  [====================>-------------------] 130 MiB of 260 MiB  1.0 MiB/s  2m10s left"},
		{30 * mib, 0, 7.5 * mib, 80, "30 MiB  7.5 MiB/s"}, // a stream
		{0, -1, 0, 80, "0 B  0 B/s"},
	} {
		if got := barLine(c.done, c.total, c.rate, c.width); got != c.want {
			t.Errorf("%d of %d at %g on %d columns:\n%q, want\n%q", c.done, c.total, c.rate, c.width, got, c.want)
		}
	}
	for width := range 300 {
		for done := int64(1); done < 1<<40; done *= 7 {
			if n := len(barLine(done, 1<<40, float64(done)/3, width)); n > max(1, width-1) {
				t.Fatalf("%d columns on a terminal of %d", n, width)
			}
		}
	}
}

// The rate forgets old data, and a hole does not count for longer.
func TestRate(t *testing.T) {
	var m rateMeter
	start := time.Unix(0, 0)
	m.add(start, 0)
	if got := m.perSecond(); got != 0 {
		t.Errorf("rate at the start: %g", got)
	}
	m.add(start.Add(time.Second), 1<<40)
	if got := m.perSecond(); got != 1<<40 {
		t.Errorf("rate after a second: %g", got)
	}
	for i := range 20 {
		m.add(start.Add(time.Duration(2+i)*time.Second), 1<<40+int64(i+1)*1000)
	}
	if got := m.perSecond(); got != 1000 {
		t.Errorf("rate after 20 s: %g, want 1000", got)
	}
	if len(m.samples) > 12 {
		t.Errorf("%d samples are kept", len(m.samples))
	}
}

// screenOf returns the last line of a terminal after the written bytes.
func screenOf(written string) string {
	line, column := []byte(nil), 0
	for _, b := range []byte(written) {
		switch b {
		case '\r':
			column = 0
		case '\b':
			column--
		case '\n':
			line, column = nil, 0
		default:
			if column == len(line) {
				line = append(line, ' ')
			}
			line[column] = b
			column++
		}
	}
	return strings.TrimRight(string(line), " ")
}

// newTestLine returns a status line on a terminal of *width columns, and a function that
// returns the written text.
func newTestLine(t *testing.T, width *int) (*statusLine, func() string) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &statusLine{f: f, width: func() int { return *width }}, func() string {
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

// TestStatusLine: a shorter line covers the longer one before it, and erase leaves nothing.
func TestStatusLine(t *testing.T) {
	width := 30
	line, written := newTestLine(t, &width)
	show := func(text string, want string) {
		t.Helper()
		line.show(func(int) string { return text })
		if got := screenOf(written()); got != want {
			t.Errorf("the screen shows %q, want %q", got, want)
		}
	}
	show("a long line", "a long line")
	show("short", "short")
	line.erase()
	if got := screenOf(written()); got != "" {
		t.Errorf("after erase the screen shows %q", got)
	}
	show("again", "again")
	before := len(written())
	width = 4
	line.erase()
	if n := strings.Count(written()[before:], " "); n > 3 {
		t.Errorf("erase writes %d blanks on 4 columns", n)
	}
}

// The bar shows the arguments of update, restarts with each pass, and is removed by finish.
func TestBar(t *testing.T) {
	width := 80
	line, written := newTestLine(t, &width)
	p := &barProgress{line: line, over: make(chan struct{})}
	now := time.Unix(0, 0)
	for _, c := range []struct {
		done int64
		want string
	}{
		{0, "0%   [>---------------------------------------] 0 B of 10 KiB  0 B/s"},
		{5120, "50%  [=================>----------------] 5.0 KiB of 10 KiB  5.0 KiB/s  1s left"},
		{5120, "50%  [=================>----------------] 5.0 KiB of 10 KiB  2.5 KiB/s  2s left"},
		{1024, "10%  [====>-----------------------------------] 1.0 KiB of 10 KiB  0 B/s"},
	} {
		p.update(c.done, 10240)
		p.draw(now)
		if got := screenOf(written()); got != c.want {
			t.Errorf("%d:\n%q, want\n%q", c.done, got, c.want)
		}
		now = now.Add(time.Second)
	}
	p.finish(true)
	if got := screenOf(written()); got != "" {
		t.Errorf("after finish the screen shows %q", got)
	}
}

// TestNoBar: a command that ends before barDelay shows nothing, and one that runs longer shows
// a bar.
func TestNoBar(t *testing.T) {
	for after, want := range map[time.Duration]bool{barDelay - 1: false, barDelay + 1: true} {
		synctest.Test(t, func(t *testing.T) {
			width := 80
			line, written := newTestLine(t, &width)
			p := newBarProgress(line)
			p.update(500, 1000)
			time.Sleep(after) // of the bubble's clock
			synctest.Wait()
			p.finish(true)
			if got := written(); (got != "") != want {
				t.Errorf("after %v: %q; want a bar: %v", after, got, want)
			}
		})
	}
}

// TestAmount: the progress of a stream is an amount, which later lines cover.
func TestAmount(t *testing.T) {
	var b strings.Builder
	p := newPercentProgress(&b, 1)
	p.update(1000<<20-1, 0)
	if got := screenOf(b.String()); got != "    (1000 MiB)" {
		t.Errorf("the screen shows %q", got)
	}
	p.finish(true)
	if got, want := b.String(), "    (0.00/100%)\r    (1000 MiB)   \r    (100.00/100%)\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
