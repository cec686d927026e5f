package source

import (
	"context"
	"sync"
	"time"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Throttle limits the number of bytes read per second, over everything that is read through it. It
// is safe for concurrent use.
type Throttle struct {
	ctx   context.Context
	rate  int64 // bytes per second
	pause func(context.Context, time.Duration)

	mu    sync.Mutex
	start time.Time // of the first read; zero before
	bytes int64     // read since then
}

// NewThrottle returns a Throttle to rate bytes per second, or nil if rate is 0. It waits by calling
// pause, which returns after the duration or when its context is done. A nil pause sleeps.
func NewThrottle(ctx context.Context, rate int64, pause func(context.Context, time.Duration)) *Throttle {
	if rate <= 0 {
		return nil
	}
	if pause == nil {
		pause = sleep
	}
	return &Throttle{ctx: ctx, rate: rate, pause: pause}
}

// Wait returns when n more bytes are due. When the context is done it returns its error.
func (t *Throttle) Wait(n int64) error {
	t.mu.Lock()
	if t.start.IsZero() {
		t.start = time.Now()
	}
	t.bytes += n
	due := t.start.Add(time.Duration(float64(t.bytes) / float64(t.rate) * float64(time.Second)))
	t.mu.Unlock()
	if d := time.Until(due); d > 0 {
		t.pause(t.ctx, d)
	}
	return t.ctx.Err()
}

// Disk returns a disk that is read through the throttle. Closing it closes d.
func (t *Throttle) Disk(d disk.Disk) disk.Disk { return &reader{Disk: d, throttle: t} }

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
