package convert

import (
	"context"
	"iter"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// maxWorkers bounds the memory that many processors would take.
const maxWorkers = 16

// workersFor is how many workers there are if so many are asked for; 0 means as many
// as there are processors.
func workersFor(asked int) int {
	if asked > 0 {
		return asked
	}
	return min(runtime.GOMAXPROCS(0), maxWorkers)
}

// inParallel has so many workers deal with the pieces of a plan. Who wants the next piece goes on with the plan itself:
// to wake another goroutine for it takes as long as to copy some hundred KiB. After
// an error, of which work is to return the first one, the pieces end.
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

// queue lets pieces of work have something in their order. The pieces have numbers
// from 0 on.
type queue struct {
	mu      sync.Mutex
	turn    int64                   // all pieces before this one are done
	done    map[int64]bool          // those behind it that are
	waiting map[int64]chan struct{} // closed when it is their turn
}

func newQueue() *queue {
	return &queue{done: map[int64]bool{}, waiting: map[int64]chan struct{}{}}
}

// wait returns when all pieces before n are done.
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

// finish notes that piece n is done. It need not have waited.
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
