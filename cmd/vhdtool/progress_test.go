package main

import (
	"bytes"
	"testing"
	"time"
)

func TestBarLine(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		done, total int64
		elapsed     time.Duration
		want        string
	}{
		{0, 100 * mib, 2 * time.Second, "0%   [>---------------------------------------] 0 B/s "},
		{25 * mib, 100 * mib, 2 * time.Second, "25%  [==========>-----------------------------] 13 MiB/s 6 seconds left"},
		{99 * mib, 100 * mib, 3 * time.Minute, "99%  [=======================================>] 563 KiB/s 2 seconds left"},
		{100 * mib, 100 * mib, 2 * time.Second, "100% [========================================] 50 MiB/s 0 seconds left"},
		{2040 << 30 / 100, 2040 << 30, time.Minute, "0%   [>---------------------------------------] 348 MiB/s 99 minutes left"},
		{30 * mib, 0, 4 * time.Second, "30 MiB 7.5 MiB/s"}, // a stream
		{0, -1, 0, "0 B 0 B/s"},
	} {
		if got := barLine(c.done, c.total, c.elapsed); got != c.want {
			t.Errorf("%d of %d after %v:\n%q, want\n%q", c.done, c.total, c.elapsed, got, c.want)
		}
	}
}

// TestBar: a bar is drawn over the one before, all of it, and the last one ends
// the line.
func TestBar(t *testing.T) {
	var b bytes.Buffer
	p := &barProgress{w: &b, start: time.Now().Add(-time.Hour)}
	p.update(1, 1000)
	if b.Len() == 0 {
		t.Fatal("nothing is shown after an hour")
	}
	p.drawn = time.Now().Add(time.Hour)
	p.update(2, 1000) // too soon
	p.finish(true)
	lines := bytes.Split(b.Bytes(), []byte("\r"))
	if len(lines) != 2 || !bytes.HasPrefix(lines[0], []byte("0%   [>")) || !bytes.HasPrefix(lines[1], []byte("100% [=")) {
		t.Errorf("%q, want two bars", lines)
	}
	last, ended := bytes.CutSuffix(lines[1], []byte("\n"))
	if !ended || len(last) < len(lines[0]) {
		t.Errorf("%q, want a whole line that covers %q", lines[1], lines[0])
	}
}

// TestNoBar: a command that is done soon shows nothing.
func TestNoBar(t *testing.T) {
	var b bytes.Buffer
	p := &barProgress{w: &b, start: time.Now().Add(time.Hour)}
	p.update(500, 1000)
	p.finish(true)
	if b.Len() > 0 {
		t.Errorf("got %q", b.Bytes())
	}
}
