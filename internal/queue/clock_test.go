package queue_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"orchestrate/internal/queue"
)

// ahead is a store whose clock is an hour ahead of this machine's, as another
// node's view of a server may be.
type ahead struct{ queue.Store }

const hour = time.Hour

func (a ahead) Now() queue.Time { return a.Store.Now().Add(hour) }

// TestTimesAreTheStores: a node whose own clock is an hour behind starts what is
// due, waits as long as it should, and writes no time of its own.
func TestTimesAreTheStores(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	synctest.Test(t, func(t *testing.T) {
		s := ahead{openStore(t, path)}
		var starts []time.Time
		r := route("r", func(context.Context, *queue.Task) (queue.Result, error) {
			if starts = append(starts, time.Now()); len(starts) < 3 {
				return queue.Result{}, errors.New("not yet")
			}
			return queue.Result{}, nil
		})
		routes := []queue.Route{r}
		q := queue.New(s, &queue.Config{Routes: routes, Matcher: always(routes), Hash: "test"}, slog.New(slog.DiscardHandler))
		earliest := s.Now()
		id := receive(t, q, "d")
		stop := start(t, q, queue.WorkerOptions{})
		<-time.After(8 * time.Second)
		synctest.Wait()
		workers, err := s.Workers(t.Context())
		if err != nil || len(workers) != 1 {
			t.Fatalf("workers = %v, %v", workers, err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		d, err := q.Show(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if len(starts) != 3 || starts[1].Sub(starts[0]) < time.Second || starts[2].Sub(starts[1]) < 2*time.Second {
			t.Fatalf("starts = %v, want three, 1 s and 2 s apart", starts)
		}
		times := map[string]queue.Time{
			"event.received_at": d.ReceivedAt, "event.processed_at": d.ProcessedAt, "job.started_at": d.Jobs[0].StartedAt,
			"job.finished_at": d.Jobs[0].FinishedAt, "job.due_at": d.Jobs[0].DueAt, "worker.started_at": workers[0].StartedAt,
			"worker.heartbeat_at": workers[0].HeartbeatAt,
		}
		for _, a := range d.Attempts {
			times["attempt.started_at"], times["attempt.finished_at"] = a.StartedAt, a.FinishedAt
		}
		for name, at := range times {
			if at < earliest {
				t.Errorf("%s = %s, want not before %s", name, at, earliest)
			}
		}
	})
}

// set is a store whose clock is set while it is used.
type set struct {
	queue.Store
	by atomic.Int64 // a time.Duration
}

func (s *set) Now() queue.Time { return s.Store.Now().Add(time.Duration(s.by.Load())) }

// TestClockIsSet: whatever the clock is set to, and whenever, what was received
// is started, a retry comes neither before its wait nor long after it, and no
// lease is lost.
func TestClockIsSet(t *testing.T) {
	const day = 24 * time.Hour
	for _, step := range []time.Duration{time.Hour, -time.Hour, 2 * day, 10 * 365 * day, -10 * 365 * day, 5 * time.Second} {
		t.Run(step.String(), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "q.db")
			synctest.Test(t, func(t *testing.T) { clockIsSet(t, &set{Store: openStore(t, path)}, step) })
		})
	}
}

func clockIsSet(t *testing.T, s *set, step time.Duration) {
	const held = 30 * time.Second
	var mu sync.Mutex
	starts := map[string][]time.Time{}
	r := route("r", func(ctx context.Context, task *queue.Task) (queue.Result, error) {
		id := task.Event.DeliveryID
		mu.Lock()
		starts[id] = append(starts[id], time.Now())
		n := len(starts[id])
		mu.Unlock()
		switch {
		case id == "long":
			select {
			case <-time.After(held):
			case <-ctx.Done():
				return queue.Result{}, context.Cause(ctx)
			}
		case id == "away" && n < 3:
			return queue.Result{}, &queue.UnavailableError{Err: errors.New("503"), RetryAfter: 30 * time.Second}
		case id == "flaky" && n < 2:
			return queue.Result{}, errors.New("no")
		}
		return queue.Result{}, nil
	})
	r.Retry.Base = 20 * time.Second
	q := newQueue(t, s, r)
	sizes := queue.Sizes{Concurrency: 3}
	first, second := sized(s, sizes, r), sized(s, sizes, r)
	stops := []func() error{start(t, first, queue.WorkerOptions{}), start(t, second, queue.WorkerOptions{})}
	begun := time.Now()
	ids := map[string]int64{"long": receive(t, q, "long"), "away": receive(t, q, "away"), "flaky": receive(t, q, "flaky")}
	pass(11 * time.Second) // all have begun, and two wait
	ids["waiting"] = receive(t, q, "waiting")
	s.by.Store(int64(step))
	set := time.Now()
	pass(2 * time.Minute)
	for _, stop := range stops {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	for name, id := range ids {
		if e := show(t, q, id); e.Status != queue.StatusCompleted {
			t.Errorf("%s is %s, due at %s, now is %s", name, e.Status, e.NextRetryAt, q.Now())
		}
	}
	if n := len(starts["long"]); n != 1 {
		t.Errorf("the long handler was started %d times, want once", n)
	}
	if n := len(starts["waiting"]); n != 1 || starts["waiting"][0].Sub(set) > 6*time.Second {
		t.Errorf("what waited was started %d times, or late: %v", n, starts["waiting"])
	}
	for name, wait := range map[string]time.Duration{"flaky": 20 * time.Second, "away": 30 * time.Second} {
		at, want := starts[name], map[string]int{"flaky": 2, "away": 3}[name]
		if len(at) != want {
			t.Errorf("%s was started at %v, want %d times", name, at, want)
			continue
		}
		early := min(max(step, 0), 6*time.Second) // by a step that is shorter than what is left of the wait
		late := 20 * time.Second                  // the wait is counted from when the step was noticed, by one poll
		if got := at[1].Sub(at[0]); got < wait-early || step > time.Minute && got < wait || got > wait+late {
			t.Errorf("%s was tried again after %s, want %s; the clock was set after %s", name, got, wait, set.Sub(begun))
		}
	}
}

// TestClockIsSetInAnOutage, while a job runs: the outage is neither ended by that
// nor longer.
func TestClockIsSetInAnOutage(t *testing.T) {
	const years = 10 * 365 * 24 * time.Hour
	for _, step := range []time.Duration{years, time.Hour, -years} {
		path := filepath.Join(t.TempDir(), "q.db")
		synctest.Test(t, func(t *testing.T) {
			s := &set{Store: openStore(t, path)}
			n := 0
			r := route("r", func(context.Context, *queue.Task) (queue.Result, error) {
				if n++; n == 2 {
					s.by.Store(int64(step))
				}
				return queue.Result{}, &queue.UnavailableError{Err: errors.New("503"), RetryAfter: 6 * time.Minute}
			})
			r.Retry.Unavailable.For = 10 * time.Minute
			q := newQueue(t, s, r)
			id := receive(t, q, "d")
			stop := start(t, q, queue.WorkerOptions{})
			pass(7 * time.Minute)
			d := show(t, q, id)
			if lasts := q.Now().Sub(d.Jobs[0].UnavailableSince).Round(time.Minute); n != 2 || d.Status != queue.StatusFailed || lasts != 7*time.Minute {
				t.Errorf("set by %s: it is %s after %d attempts, in an outage of %s; want failed after 2, 7m0s", step, d.Status, n, lasts)
			}
			pass(6 * time.Minute)
			if d := show(t, q, id); n != 3 || d.Status != queue.StatusDeadLetter {
				t.Errorf("set by %s: it is %s after %d attempts, want dead_letter after 3", step, d.Status, n)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOneLearnsLater that the clock was set, as with PostgreSQL, where each process
// reads it once a minute: what another has stored by the new clock stays as it is.
func TestOneLearnsLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, path)
		n := 0
		r := route("r", func(context.Context, *queue.Task) (queue.Result, error) {
			if n++; n == 1 {
				return queue.Result{}, errors.New("no")
			}
			return queue.Result{}, nil
		})
		r.Retry.Base = 20 * time.Second
		later := &set{Store: s}
		stopLater := start(t, newQueue(t, later, r), queue.WorkerOptions{})
		pass(2 * time.Minute)
		q := newQueue(t, ahead{s}, r)
		stop := start(t, q, queue.WorkerOptions{})
		pass(time.Second)
		id := receive(t, q, "d")
		pass(2 * time.Second)
		if d := show(t, q, id); d.Status != queue.StatusFailed {
			t.Fatalf("it is %s, want failed", d.Status)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		pass(30 * time.Second) // it is due
		later.by.Store(int64(hour))
		pass(10 * time.Second)
		if d := show(t, q, id); d.Status != queue.StatusCompleted {
			t.Errorf("it is %s, due at %s, now is %s", d.Status, d.NextRetryAt, q.Now())
		}
		if err := stopLater(); err != nil {
			t.Error(err)
		}
	})
}

// TestStampedAheadBeforeTheStart: what was stored while the clock was years ahead
// is not left to wait for them by whoever starts when it is right, also by a
// worker that runs once.
func TestStampedAheadBeforeTheStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	synctest.Test(t, func(t *testing.T) {
		s := &set{Store: openStore(t, path)}
		q := newQueue(t, s, route("r", succeeds))
		s.by.Store(int64(10 * 365 * 24 * time.Hour))
		id := receive(t, q, "d")
		s.by.Store(0)
		if err := q.Work(t.Context(), queue.WorkerOptions{Once: true}); err != nil {
			t.Fatal(err)
		}
		if e := show(t, q, id); e.Status != queue.StatusCompleted {
			t.Errorf("it is %s, want completed", e.Status)
		}
	})
}

func show(t *testing.T, q *queue.Queue, id int64) *queue.Detail {
	t.Helper()
	d, err := q.Show(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
