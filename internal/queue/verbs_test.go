package queue_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orchestrate/internal/queue"
)

// seeded is a queue with n events whose jobs for route r are dead.
func seeded(t *testing.T, n int) (*queue.Queue, []int64) {
	t.Helper()
	s := openStore(t, filepath.Join(t.TempDir(), "q.db"))
	q := sized(s, queue.Sizes{Concurrency: 50, BatchSize: 50}, route("r", func(context.Context, *queue.Task) (queue.Result, error) {
		return queue.Result{}, queue.Permanent("broken")
	}))
	var ids []int64
	for i := range n {
		ids = append(ids, receive(t, q, fmt.Sprintf("d%03d", i)))
	}
	if err := q.Work(t.Context(), queue.WorkerOptions{Once: true}); err != nil {
		t.Fatal(err)
	}
	return q, ids
}

func TestRetryRefusals(t *testing.T) {
	q, ids := seeded(t, 1)
	ctx := t.Context()
	_, err := q.Retry(ctx, 999, queue.RetryOptions{})
	wantError(t, err, queue.ErrNotFound, "999")
	if n, err := q.Retry(ctx, ids[0], queue.RetryOptions{DryRun: true}); n != 1 || err != nil {
		t.Errorf("dry run: got %d, %v; want 1", n, err)
	}
	if n, err := q.Retry(ctx, ids[0], queue.RetryOptions{}); n != 1 || err != nil {
		t.Errorf("got %d, %v; want 1: the dry run must have moved nothing", n, err)
	}
	_, err = q.Retry(ctx, ids[0], queue.RetryOptions{})
	wantError(t, err, queue.ErrRefused, "r is pending")
	_, err = q.Retry(ctx, ids[0], queue.RetryOptions{Route: "nope"})
	wantError(t, err, queue.ErrUnknownRoute, `"nope": the configuration has r`)
}

func TestForceRunsCompletedAgain(t *testing.T) {
	runs := 0
	q := newQueue(t, openStore(t, filepath.Join(t.TempDir(), "q.db")), route("r", func(context.Context, *queue.Task) (queue.Result, error) {
		runs++
		return queue.Result{}, nil
	}))
	id := receive(t, q, "d")
	once := queue.WorkerOptions{Once: true}
	if err := q.Work(t.Context(), once); err != nil {
		t.Fatal(err)
	}
	_, err := q.Retry(t.Context(), id, queue.RetryOptions{})
	wantError(t, err, queue.ErrRefused, "--force")
	if _, err := q.Retry(t.Context(), id, queue.RetryOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := q.Work(t.Context(), once); err != nil || runs != 2 {
		t.Errorf("ran %d times, %v; want 2", runs, err)
	}
}

func TestRetryStartsARouteThatTheEventLacks(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "q.db"))
	id := receive(t, newQueue(t, s, route("first", succeeds)), "d")
	q := newQueue(t, s, route("first", succeeds), route("later", succeeds))
	if n, err := q.Retry(t.Context(), id, queue.RetryOptions{Route: "later"}); n != 1 || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
	if err := q.Work(t.Context(), queue.WorkerOptions{Once: true}); err != nil {
		t.Fatal(err)
	}
	d, err := q.Show(t.Context(), id)
	if err != nil || len(d.Attempts) != 2 || d.Status != queue.StatusCompleted {
		t.Errorf("got %+v, %v; want both routes done", d, err)
	}
}

// TestRequeueIsASnapshot: a job that dies again while the verb still walks is
// not fed again.
func TestRequeueIsASnapshot(t *testing.T) {
	q, _ := seeded(t, 450)
	chunks := 0
	b, err := q.RequeueDead(t.Context(), queue.Filter{}, queue.BulkOptions{Progress: func(queue.Bulk) {
		chunks++
		if err := q.Work(t.Context(), queue.WorkerOptions{Once: true}); err != nil {
			t.Error(err)
		}
	}})
	if err != nil || b != (queue.Bulk{Matched: 450, Changed: 450}) || chunks != 3 {
		t.Errorf("got %+v in %d chunks, %v; want 450 in 3", b, chunks, err)
	}
}

func TestBulkVerbsKeepToLimitAndFilter(t *testing.T) {
	q, ids := seeded(t, 10)
	b, err := q.RequeueDead(t.Context(), queue.Filter{IDs: ids[:4]}, queue.BulkOptions{Limit: 3})
	if err != nil || b.Changed != 3 {
		t.Errorf("requeue: got %+v, %v; want 3", b, err)
	}
	b, err = q.Cancel(t.Context(), queue.Filter{Route: "r"}, "cancelled by ops", queue.BulkOptions{})
	if err != nil || b.Changed != 3 {
		t.Errorf("cancel: got %+v, %v; want the 3 that are pending", b, err)
	}
	d, err := q.Show(t.Context(), ids[0])
	if err != nil || d.Jobs[0].ErrorMessage != "cancelled by ops" {
		t.Errorf("got %+v, %v", d.Jobs, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.RequeueDead(ctx, queue.Filter{}, queue.BulkOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("after a Ctrl-C: got %v, want context.Canceled", err)
	}
}

func TestResolve(t *testing.T) {
	q, ids := seeded(t, 12)
	ctx := t.Context()
	for ref, want := range map[string]int64{fmt.Sprint(ids[2]): ids[2], "d005": ids[5], "d011": ids[11]} {
		if got, err := q.Resolve(ctx, ref); got != want || err != nil {
			t.Errorf("%s: got %d, %v; want %d", ref, got, err, want)
		}
	}
	for ref, want := range map[string]error{"99999": queue.ErrNotFound, "x": queue.ErrNotFound, "": queue.ErrNotFound, "d00": queue.ErrAmbiguous} {
		_, err := q.Resolve(ctx, ref)
		wantError(t, err, want, ref)
	}
}

func TestEachPages(t *testing.T) {
	q, ids := seeded(t, 7)
	for _, test := range []struct {
		limit, want int
		more        bool
	}{{0, 7, false}, {7, 7, false}, {3, 3, true}, {100, 7, false}} {
		var got []int64
		more, err := q.Each(t.Context(), queue.Filter{}, test.limit, func(e *queue.Event) error {
			got = append(got, e.ID)
			return nil
		})
		if err != nil || len(got) != test.want || more != test.more || got[0] != ids[6] {
			t.Errorf("limit %d: got %v, more %v, %v", test.limit, got, more, err)
		}
	}
}

func TestCleanupInBatches(t *testing.T) {
	q, _ := seeded(t, 45)
	o := queue.CleanupOptions{Before: queue.Now().Add(time.Minute), Batch: 10}
	res, err := q.Cleanup(t.Context(), o, nil)
	if err != nil || res.Changed != 0 || res.Dead != 45 {
		t.Errorf("dead letters not named: got %+v, %v", res, err)
	}
	batches := 0
	o.IncludeDead = true
	res, err = q.Cleanup(t.Context(), o, func(queue.CleanupResult) { batches++ })
	if err != nil || res.Purged != 45 || batches < 5 {
		t.Errorf("got %+v in %d batches, %v; want 45 purged in 5", res, batches, err)
	}
}

func wantError(t *testing.T, err, want error, part string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), part) {
		t.Errorf("got error %v, want %v with %q", err, want, part)
	}
}
