package main

import (
	"fmt"
	"io"
	"time"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// percentProgress is qemu-img's -p: a percentage that overwrites itself whenever it has grown by a
// step. If the total is unknown, it is an amount.
type percentProgress struct {
	w       io.Writer
	step    float64
	next    float64
	marks   []progressMark // offsets at which to print; nil: at each step
	again   bool           // print the end twice
	printed time.Time      // time of the last amount
}

// amountPause is the shortest time between two amounts.
const amountPause = 100 * time.Millisecond

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
		if now := time.Now(); done > 0 && now.Sub(p.printed) >= amountPause {
			p.printed = now
			fmt.Fprintf(p.w, "%-17s\r", progressText(done, total))
		}
		return
	}
	if percent := 100 * float64(done) / float64(total); percent >= p.next {
		p.print(percent)
	}
}

// finish ends the line. After an interruption the last percentage stays.
func (p *percentProgress) finish(complete bool) {
	if complete && (p.next <= 100 || p.again) {
		p.print(100)
	}
	fmt.Fprintln(p.w)
}

// progressMark is an offset of the source, and the percentage to print when all bytes before it are
// copied.
type progressMark struct {
	off     int64
	percent float64
}

// progressChunk is the number of bytes that qemu-img copies at a time.
const progressChunk = 2 << 20

// progressMarks returns the marks of a pass over the data of src, or with all over all bytes. They
// do not depend on the number of workers. Data is counted in whole units of bytes. If the extents
// are not known, there are no marks.
func progressMarks(src disk.Disk, all bool, unit int64, step float64) []progressMark {
	// runs calls f for each counted run, and reports whether the extents are known.
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
