package queue_test

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"orchestrate/internal/queue"
)

// partly is a store that does not search all at first.
type partly struct {
	queue.Store
	whole queue.Time
}

func (p partly) Due(ctx context.Context, routes []string) ([]queue.Due, error) {
	if p.Now() < p.whole {
		return []queue.Due{{Route: routes[0], Due: p.whole, Partly: true}}, nil
	}
	return p.Store.Due(ctx, routes)
}

// TestOnceWaitsForAWholeSearch: a worker that runs once does not leave a job
// behind that a search of a part did not meet.
func TestOnceWaitsForAWholeSearch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	synctest.Test(t, func(t *testing.T) {
		ran := 0
		r := route("r", func(context.Context, *queue.Task) (queue.Result, error) { ran++; return queue.Result{}, nil })
		s := openStore(t, path)
		q := newQueue(t, partly{s, s.Now().Add(3 * time.Second)}, r)
		receive(t, q, "d")
		if err := q.Work(t.Context(), queue.WorkerOptions{Once: true}); err != nil || ran != 1 {
			t.Errorf("it ended with %v after %d runs, want 1", err, ran)
		}
	})
}
