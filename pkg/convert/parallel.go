package convert

import (
	"context"
	"iter"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// maxWorkers limits the memory on machines with many processors.
const maxWorkers = 16

// workersFor returns the number of workers for Options.Workers.
func workersFor(requested int) int {
	if requested > 0 {
		return requested
	}
	return min(runtime.GOMAXPROCS(0), maxWorkers)
}

// inParallel runs work in the given number of goroutines, which share the pieces of a plan.
// Each worker advances the plan itself, under a mutex: waking another goroutine costs as much
// as copying some hundred KiB.
//
// After an error the pieces end. inParallel returns the first error that work returns.
func inParallel[P any](ctx context.Context, workers int, plan iter.Seq2[P, error], work func(context.Context, iter.Seq2[P, error]) error) error {
	next, stop := iter.Pull2(plan)
	defer stop()
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	pieces := func(yield func(P, error) bool) {
		for {
			mu.Lock()
			p, err, ok := next()
			mu.Unlock()
			if cerr := ctx.Err(); ok && cerr != nil {
				err = cerr
			}
			if !ok || !yield(p, err) || err != nil {
				return
			}
		}
	}
	for range workers {
		group.Go(func() error { return work(ctx, pieces) })
	}
	return group.Wait()
}

// queue makes the workers do a step in the order of their pieces. Pieces are numbered from 0.
type queue struct {
	mu      sync.Mutex
	turn    int64                   // all pieces before this one are finished
	done    map[int64]bool          // finished pieces after turn
	waiting map[int64]chan struct{} // closed when it is the turn of the piece
}

func newQueue() *queue {
	return &queue{done: map[int64]bool{}, waiting: map[int64]chan struct{}{}}
}

// wait returns when all pieces before n are finished.
func (q *queue) wait(ctx context.Context, n int64) error {
	q.mu.Lock()
	if q.turn == n {
		q.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	q.waiting[n] = turn
	q.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish marks piece n as finished, whether or not it waited.
func (q *queue) finish(n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.done[n] = true
	for q.done[q.turn] {
		delete(q.done, q.turn)
		q.turn++
	}
	if turn, ok := q.waiting[q.turn]; ok {
		delete(q.waiting, q.turn)
		close(turn)
	}
}
