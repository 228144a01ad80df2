package queue_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store"
)

// always lets every route want every event.
type always []queue.Route

func (a always) Match(*queue.Event, *queue.Payload) []queue.Match {
	all := make([]queue.Match, len(a))
	for i, r := range a {
		all[i].Route = r.Name
	}
	return all
}

func (always) Wants(string, *queue.Event, *queue.Payload) (bool, error) { return true, nil }

// handlerFunc is a handler as a function.
type handlerFunc func(context.Context, *queue.Task) (queue.Result, error)

func (f handlerFunc) Handle(ctx context.Context, t *queue.Task) (queue.Result, error) {
	return f(ctx, t)
}

func route(name string, f handlerFunc) queue.Route {
	return queue.Route{Name: name, Handler: f, Retry: queue.DefaultRetry()}
}

// openStore opens a store that is closed with the test.
func openStore(t *testing.T, path string) queue.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{Database: path, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newQueue(t *testing.T, s queue.Store, routes ...queue.Route) *queue.Queue {
	t.Helper()
	return sized(s, queue.Sizes{}, routes...)
}

func sized(s queue.Store, sizes queue.Sizes, routes ...queue.Route) *queue.Queue {
	return queue.New(s, &queue.Config{
		Routes: routes, Matcher: always(routes), RequeueDead: true, Sizes: sizes, Hash: "test",
	}, slog.New(slog.DiscardHandler))
}

func receive(t *testing.T, q *queue.Queue, delivery string) int64 {
	t.Helper()
	body := []byte(`{"action":"opened"}`)
	sum := sha256.Sum256(body)
	r, err := q.Receive(t.Context(), &queue.Event{
		Source: "github", DeliveryID: delivery, EventType: "push", ReceivedAt: q.Now(),
		BodySize: int64(len(body)), BodySHA256: hex.EncodeToString(sum[:]),
	}, &queue.Payload{Headers: map[string]string{"Content-Type": "application/json"}, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	return r.EventID
}

// bench is a queue over a store in a synctest bubble.
type bench struct {
	*queue.Queue
	t      *testing.T
	store  queue.Store
	routes []queue.Route
}

// size gives the queue other sizes.
func (b *bench) size(s queue.Sizes) { b.Queue = sized(b.store, s, b.routes...) }

// inBubble runs fn with a queue whose clock is the bubble's.
func inBubble(t *testing.T, fn func(t *testing.T, b *bench), routes ...queue.Route) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "q.db")
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, path)
		fn(t, &bench{newQueue(t, s, routes...), t, s, routes})
	})
}

// work starts a worker; stop drains it and returns its error.
func (b *bench) work(o queue.WorkerOptions) (stop func() error) {
	return start(b.t, b.Queue, o)
}

func start(t *testing.T, q *queue.Queue, o queue.WorkerOptions) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- q.Work(ctx, o) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return stop
}

// claimAsDead claims jobs of route r for a worker named dead that never beats.
func (b *bench) claimAsDead(limit int) {
	b.t.Helper()
	now := queue.Now()
	if err := b.store.Register(b.t.Context(), queue.Worker{ID: "dead", StartedAt: now}, ""); err != nil {
		b.t.Fatal(err)
	}
	jobs, err := b.store.Claim(b.t.Context(), queue.ClaimParams{Route: "r", Now: now, DueBy: now, Limit: limit, WorkerID: "dead"})
	if err != nil || len(jobs) != limit {
		b.t.Fatalf("claimed %d, %v; want %d", len(jobs), err, limit)
	}
}

// pass lets time pass in the bubble.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (b *bench) show(id int64) *queue.Detail {
	b.t.Helper()
	d, err := b.Show(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

func (b *bench) wantStatus(id int64, want queue.Status) {
	b.t.Helper()
	if got := b.show(id).Status; got != want {
		b.t.Errorf("event %d: got %s, want %s", id, got, want)
	}
}

func (b *bench) endings(id int64) string {
	b.t.Helper()
	var all []string
	for _, a := range b.show(id).Attempts {
		all = append(all, string(a.Ending))
	}
	return fmt.Sprint(all)
}

func fails(context.Context, *queue.Task) (queue.Result, error) {
	return queue.Result{}, errors.New("no")
}

func succeeds(context.Context, *queue.Task) (queue.Result, error) { return queue.Result{}, nil }

// hangs runs until it is stopped.
func hangs(ctx context.Context, _ *queue.Task) (queue.Result, error) {
	<-ctx.Done()
	return queue.Result{}, context.Cause(ctx)
}

func TestRetriesAfter1And2And4Seconds(t *testing.T) {
	var starts []time.Time
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d1")
		b.work(queue.WorkerOptions{})
		pass(time.Minute)
		var waits []string
		for i := 1; i < len(starts); i++ {
			waits = append(waits, starts[i].Sub(starts[i-1]).Round(time.Second).String())
		}
		if got, want := fmt.Sprint(waits), "[1s 2s 4s]"; got != want {
			t.Errorf("waits between attempts: got %s, want %s", got, want)
		}
		b.wantStatus(id, queue.StatusDeadLetter)
		if got, want := b.endings(id), "[failed failed failed dead_letter]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}, route("fails", func(context.Context, *queue.Task) (queue.Result, error) {
		starts = append(starts, time.Now())
		return queue.Result{}, errors.New("no")
	}))
}

func TestRequeuedJobRunsAgainWithAllItsRetries(t *testing.T) {
	broken := true
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d1")
		b.work(queue.WorkerOptions{})
		pass(time.Minute)
		b.wantStatus(id, queue.StatusDeadLetter)
		broken = false
		if n, err := b.RequeueDead(t.Context(), queue.Filter{}, queue.BulkOptions{}); err != nil || n.Changed != 1 {
			t.Fatalf("requeued %+v, %v; want 1", n, err)
		}
		pass(time.Second)
		b.wantStatus(id, queue.StatusCompleted)
	}, route("r", func(context.Context, *queue.Task) (queue.Result, error) {
		if broken {
			return queue.Result{}, errors.New("no")
		}
		return queue.Result{}, nil
	}))
}

func TestUnavailabilityLastsLongAndSpendsNoRetry(t *testing.T) {
	r := route("away", func(context.Context, *queue.Task) (queue.Result, error) {
		return queue.Result{}, &queue.UnavailableError{Err: errors.New("503")}
	})
	r.Retry.Unavailable.For = 10 * time.Minute // a day by default
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d1")
		b.work(queue.WorkerOptions{})
		pass(9 * time.Minute)
		b.wantStatus(id, queue.StatusFailed)
		if n := b.show(id).RetryCount; n != 0 {
			t.Errorf("spent %d retries, want none", n)
		}
		pass(6 * time.Minute)
		b.wantStatus(id, queue.StatusDeadLetter)
	}, r)
}

func TestEveryEndingOfAHandler(t *testing.T) {
	tests := []struct {
		name    string
		handler handlerFunc
		want    queue.Status
		endings string
	}{
		{"done", succeeds, queue.StatusCompleted, "[completed]"},
		{"permanent", func(context.Context, *queue.Task) (queue.Result, error) {
			return queue.Result{}, queue.Permanent("never")
		}, queue.StatusDeadLetter, "[dead_letter]"},
		{
			"panic", func(context.Context, *queue.Task) (queue.Result, error) { panic("bug") },
			queue.StatusDeadLetter, "[failed failed failed dead_letter]",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				id := receive(t, b.Queue, "d1")
				b.work(queue.WorkerOptions{})
				pass(10 * time.Second)
				b.wantStatus(id, test.want)
				if got := b.endings(id); got != test.endings {
					t.Errorf("got %s, want %s", got, test.endings)
				}
			}, route("r", test.handler))
		})
	}
}

// TestOneRouteIsNoOthersConcern: a route that completed does not run again when
// another of the same event is retried.
func TestOneRouteIsNoOthersConcern(t *testing.T) {
	var good atomic.Int32
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d1")
		b.work(queue.WorkerOptions{})
		pass(time.Minute)
		if n, err := b.Retry(t.Context(), id, queue.RetryOptions{}); err != nil || n != 1 {
			t.Fatalf("retry moved %d, %v; want 1", n, err)
		}
		pass(time.Minute)
		if n := good.Load(); n != 1 {
			t.Errorf("the good route ran %d times, want once", n)
		}
	}, route("bad", fails), route("good", func(context.Context, *queue.Task) (queue.Result, error) {
		good.Add(1)
		return queue.Result{}, nil
	}))
}

func TestConcurrencyBoundsWhatRunsAtOnce(t *testing.T) {
	for _, test := range []struct {
		name        string
		slots, rout int
		want        int32
	}{{"default", 0, 0, 5}, {"fewer", 2, 0, 2}, {"more", 9, 0, 9}, {"a route's own cap", 9, 3, 3}} {
		t.Run(test.name, func(t *testing.T) {
			var now, most atomic.Int32
			r := route("r", func(ctx context.Context, _ *queue.Task) (queue.Result, error) {
				most.Store(max(most.Load(), now.Add(1)))
				defer now.Add(-1)
				<-time.After(time.Second)
				return queue.Result{}, nil
			})
			r.Concurrency = test.rout
			inBubble(t, func(t *testing.T, b *bench) {
				for i := range 20 {
					receive(t, b.Queue, fmt.Sprint("d", i))
				}
				b.size(queue.Sizes{Concurrency: test.slots})
				b.work(queue.WorkerOptions{})
				pass(time.Minute)
				if got := most.Load(); got != test.want {
					t.Errorf("%d ran at once, want %d", got, test.want)
				}
			}, r)
		})
	}
}

// claimCounter tells how many jobs each claim asked for.
type claimCounter struct {
	queue.Store
	mu     sync.Mutex
	limits []int
}

func (c *claimCounter) Claim(ctx context.Context, p queue.ClaimParams) ([]queue.Job, error) {
	c.mu.Lock()
	c.limits = append(c.limits, p.Limit)
	c.mu.Unlock()
	return c.Store.Claim(ctx, p)
}

func TestBatchSizeBoundsAClaim(t *testing.T) {
	for _, test := range []struct{ slots, batch, want int }{{0, 0, 5}, {20, 0, 10}, {20, 3, 3}, {2, 10, 2}} {
		t.Run(fmt.Sprintf("%d slots, batches of %d", test.slots, test.batch), func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				for i := range 30 {
					receive(t, b.Queue, fmt.Sprint("d", i))
				}
				c := &claimCounter{Store: b.store}
				sizes := queue.Sizes{Concurrency: test.slots, BatchSize: test.batch, DrainTimeout: time.Second}
				stop := start(t, sized(c, sizes, route("r", hangs)), queue.WorkerOptions{})
				pass(time.Second)
				if err := stop(); err != nil {
					t.Error(err)
				}
				if got := slices.Max(c.limits); got != test.want {
					t.Errorf("claimed up to %d at once, want %d", got, test.want)
				}
			}, route("r", hangs))
		})
	}
}

// deaf hides other processes' writes, so that only polling is left.
type deaf struct{ queue.Store }

func (deaf) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestPollIntervalFindsWhatNothingTold(t *testing.T) {
	for _, test := range []struct {
		poll, want time.Duration
	}{{0, 5 * time.Second}, {time.Second, time.Second}} {
		t.Run(test.want.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				var at time.Time
				q := sized(deaf{b.store}, queue.Sizes{PollInterval: test.poll}, route("r", func(context.Context, *queue.Task) (queue.Result, error) {
					at = time.Now()
					return queue.Result{}, nil
				}))
				start(t, q, queue.WorkerOptions{})
				synctest.Wait()
				begin := time.Now()
				receive(t, b.Queue, "d") // by another process, as it were
				pass(time.Minute)
				if got := at.Sub(begin); got < test.want-50*time.Millisecond || got > test.want+50*time.Millisecond {
					t.Errorf("started after %s, want %s", got, test.want)
				}
			}, route("r", succeeds))
		})
	}
}

func TestDrainLetsHandlersEndThenStopsThem(t *testing.T) {
	var stopped error
	inBubble(t, func(t *testing.T, b *bench) {
		quick, slow := receive(t, b.Queue, "quick"), receive(t, b.Queue, "slow")
		b.size(queue.Sizes{DrainTimeout: 10 * time.Second})
		stop := b.work(queue.WorkerOptions{})
		pass(time.Second)
		late := make(chan int64, 1)
		go func() {
			pass(time.Second)
			late <- receive(t, b.Queue, "late") // intake goes on
		}()
		begin := time.Now()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(begin).Round(time.Second); got != 10*time.Second {
			t.Errorf("drained in %s, want 10s", got)
		}
		b.wantStatus(quick, queue.StatusCompleted)
		b.wantStatus(slow, queue.StatusPending)
		b.wantStatus(<-late, queue.StatusPending)
		if got := b.endings(slow); got != "[stopped]" {
			t.Errorf("the slow one: got %s, want [stopped]", got)
		}
		if !errors.Is(stopped, queue.ErrStopped) {
			t.Errorf("its handler was told %v, want ErrStopped", stopped)
		}
		if st, err := b.Stats(t.Context()); err != nil || len(st.Workers) != 0 {
			t.Errorf("workers left: %+v, %v", st.Workers, err)
		}
	}, route("r", func(ctx context.Context, task *queue.Task) (queue.Result, error) {
		if task.Event.DeliveryID == "slow" {
			<-ctx.Done()
			stopped = context.Cause(ctx)
			return queue.Result{}, stopped
		}
		<-time.After(3 * time.Second)
		return queue.Result{}, nil
	}))
}

func TestOnceProcessesWhatIsDueAndReturns(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		var ids []int64
		for i := range 12 {
			ids = append(ids, receive(t, b.Queue, fmt.Sprint("d", i)))
		}
		begin := time.Now()
		if err := b.Work(t.Context(), queue.WorkerOptions{Once: true}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d > time.Second {
			t.Errorf("took %s: it must not wait for the retries", d)
		}
		for _, id := range ids {
			b.wantStatus(id, queue.StatusFailed)
		}
	}, route("r", fails))
}

// TestOnceRescues: where workers only ever run once, the jobs of one that died
// are not left to nobody.
func TestOnceRescues(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d")
		b.claimAsDead(1)
		pass(time.Hour) // the next run of cron
		begin := time.Now()
		if err := b.Work(t.Context(), queue.WorkerOptions{Once: true}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d > 25*time.Second {
			t.Errorf("took %s, want little more than a lease", d)
		}
		b.wantStatus(id, queue.StatusCompleted)
	}, route("r", succeeds))
}

func TestLimitBoundsClaims(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		for i := range 12 {
			receive(t, b.Queue, fmt.Sprint("d", i))
		}
		if err := b.Work(t.Context(), queue.WorkerOptions{Once: true, Limit: 7}); err != nil {
			t.Fatal(err)
		}
		st, err := b.Stats(t.Context())
		if err != nil || st.Routes[0].Completed != 7 || st.Routes[0].Pending != 5 {
			t.Errorf("got %+v, %v; want 7 completed, 5 pending", st.Routes, err)
		}
	}, route("r", succeeds))
}

// frozen is a store that a worker can't reach any more, as if the process had
// been stopped or cut off.
type frozen struct {
	queue.Store
	stop atomic.Bool
}

func (f *frozen) Heartbeat(ctx context.Context, w queue.Worker) ([]queue.Job, error) {
	if f.stop.Load() {
		<-ctx.Done()
		return nil, queue.ErrUnavailable
	}
	return f.Store.Heartbeat(ctx, w)
}

func (f *frozen) Settle(ctx context.Context, c queue.Claim, s queue.Settlement) error {
	if f.stop.Load() {
		<-ctx.Done()
		return queue.ErrUnavailable
	}
	return f.Store.Settle(ctx, c, s)
}

// TestLostLease: a worker that can't beat kills its handlers before others may
// take over, and another one does take over.
func TestLostLease(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d")
		var killed time.Time
		var cause error
		f := &frozen{Store: b.store}
		cut := sized(f, queue.Sizes{Concurrency: 1}, route("r", func(ctx context.Context, _ *queue.Task) (queue.Result, error) {
			<-ctx.Done()
			killed, cause = time.Now(), context.Cause(ctx)
			return queue.Result{}, cause
		}))
		start(t, cut, queue.WorkerOptions{Host: "cut"})
		pass(12 * time.Second)
		begin := time.Now()
		f.stop.Store(true)
		var again time.Time
		other := newQueue(t, b.store, route("r", func(context.Context, *queue.Task) (queue.Result, error) {
			again = time.Now()
			return queue.Result{}, nil
		}))
		start(t, other, queue.WorkerOptions{Host: "other"})
		pass(time.Minute)
		if !errors.Is(cause, queue.ErrLeaseLost) {
			t.Errorf("the handler was told %v, want ErrLeaseLost", cause)
		}
		if d := killed.Sub(begin); d > 12*time.Second {
			t.Errorf("the handler was killed after %s, want at most 12s", d)
		}
		if !again.After(killed) {
			t.Errorf("the job ran again %s before its handler was killed", killed.Sub(again))
		}
		b.wantStatus(id, queue.StatusCompleted)
		if got := b.endings(id); got != "[crashed completed]" {
			t.Errorf("got %s, want [crashed completed]", got)
		}
		f.stop.Store(false)
		pass(time.Minute) // it finds its row gone and begins a new life
		next := receive(t, b.Queue, "d2")
		pass(time.Second)
		if n := len(b.show(next).Jobs); n != 1 {
			t.Errorf("got %d jobs", n)
		}
		if st, err := b.Stats(t.Context()); err != nil || len(st.Workers) != 2 {
			t.Errorf("workers: %+v, %v; want both", st.Workers, err)
		}
	}, route("r", hangs))
}

// forgetful loses the result of one claim after its commit.
type forgetful struct {
	queue.Store
	once sync.Once
}

func (f *forgetful) Claim(ctx context.Context, p queue.ClaimParams) (jobs []queue.Job, err error) {
	jobs, err = f.Store.Claim(ctx, p)
	f.once.Do(func() { jobs, err = nil, queue.ErrUnavailable })
	return jobs, err
}

func TestLostClaimResultIsGivenBack(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d")
		start(t, newQueue(t, &forgetful{Store: b.store}, route("r", succeeds)), queue.WorkerOptions{})
		pass(4 * time.Second)
		b.wantStatus(id, queue.StatusProcessing)
		pass(time.Minute)
		b.wantStatus(id, queue.StatusCompleted)
		if got := b.endings(id); got != "[lost completed]" {
			t.Errorf("got %s, want [lost completed]", got)
		}
		if n := b.show(id).Jobs[0].CrashCount; n != 0 {
			t.Errorf("crash_count is %d, want 0", n)
		}
	}, route("r", succeeds))
}

func TestCancelStopsTheRunningHandler(t *testing.T) {
	var stopped time.Time
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d")
		b.work(queue.WorkerOptions{})
		pass(time.Second)
		begin := time.Now()
		res, err := b.Cancel(t.Context(), queue.Filter{IDs: []int64{id}}, "cancelled by ops", queue.BulkOptions{})
		if err != nil || res != (queue.Bulk{Matched: 1, Changed: 1}) {
			t.Fatalf("got %+v, %v", res, err)
		}
		pass(time.Minute)
		if d := stopped.Sub(begin); d < 0 || d > 6*time.Second {
			t.Errorf("stopped after %s, want within a heartbeat", d)
		}
		b.wantStatus(id, queue.StatusDeadLetter)
		if got := b.endings(id); got != "[cancelled]" {
			t.Errorf("got %s, want [cancelled]", got)
		}
	}, route("r", func(ctx context.Context, _ *queue.Task) (queue.Result, error) {
		<-ctx.Done()
		stopped = time.Now()
		return queue.Result{}, context.Cause(ctx)
	}))
}

// TestSuspectsRunOneAtATime, and the innocent are done meanwhile.
func TestSuspectsRunOneAtATime(t *testing.T) {
	var now, most atomic.Int32
	inBubble(t, func(t *testing.T, b *bench) {
		var ids []int64
		for i := range 4 {
			ids = append(ids, receive(t, b.Queue, fmt.Sprint("d", i)))
		}
		b.claimAsDead(4)
		b.work(queue.WorkerOptions{})
		pass(2 * time.Minute)
		for _, id := range ids {
			b.wantStatus(id, queue.StatusCompleted)
			if got := b.endings(id); got != "[crashed completed]" {
				t.Errorf("got %s, want [crashed completed]", got)
			}
		}
		if got := most.Load(); got != 1 {
			t.Errorf("%d suspects ran at once, want 1", got)
		}
	}, route("r", func(context.Context, *queue.Task) (queue.Result, error) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		<-time.After(time.Second)
		return queue.Result{}, nil
	}))
}

// TestNewerSchemaDrains: what runs may end, then the worker goes.
func TestNewerSchemaDrains(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d")
		done := make(chan error, 1)
		q := newQueue(t, newer{b.store}, route("r", func(context.Context, *queue.Task) (queue.Result, error) {
			<-time.After(20 * time.Second)
			return queue.Result{}, nil
		}))
		go func() { done <- q.Work(t.Context(), queue.WorkerOptions{}) }()
		if err := <-done; !errors.Is(err, queue.ErrSchema) {
			t.Errorf("got %v, want ErrSchema", err)
		}
		b.wantStatus(id, queue.StatusCompleted)
		if st, err := b.Stats(t.Context()); err != nil || len(st.Workers) != 0 {
			t.Errorf("workers left: %+v, %v", st.Workers, err)
		}
	}, route("r", succeeds))
}

// newer is a store that another program has migrated.
type newer struct{ queue.Store }

func (newer) CheckSchema(context.Context) error { return queue.ErrSchema }

// doubt is always, but that of the route named doubtful it can't be told.
type doubt struct {
	always
	answer bool
	err    error
}

func (d *doubt) Match(e *queue.Event, p *queue.Payload) []queue.Match {
	all := d.always.Match(e, p)
	all[0].Err = d.err
	return all
}

func (d *doubt) Wants(string, *queue.Event, *queue.Payload) (bool, error) { return d.answer, d.err }

// TestRouteThatCannotBeEvaluated never loses the event, and leaves the other
// routes alone.
func TestRouteThatCannotBeEvaluated(t *testing.T) {
	problem := errors.New("no such key")
	routes := []queue.Route{route("doubtful", succeeds), route("other", succeeds)}
	inBubble(t, func(t *testing.T, b *bench) {
		m := &doubt{always: routes, err: problem}
		b.Queue = queue.New(b.store, &queue.Config{Routes: routes, Matcher: m}, slog.New(slog.DiscardHandler))
		b.work(queue.WorkerOptions{})
		first, second, third := receive(t, b.Queue, "d1"), receive(t, b.Queue, "d2"), receive(t, b.Queue, "d3")
		pass(time.Second)
		b.wantStatus(first, queue.StatusDeadLetter)
		d := b.show(first)
		if !d.Jobs[0].MatchPending || d.Jobs[0].ErrorMessage != "match: no such key" || d.Jobs[1].Status != queue.StatusCompleted {
			t.Errorf("got %+v", d.Jobs)
		}
		for _, step := range []struct {
			id      int64
			answer  bool
			problem error
			want    queue.Status
			endings string
		}{
			{first, false, nil, queue.StatusCompleted, "[completed skipped]"},
			{second, true, nil, queue.StatusCompleted, "[completed completed]"},
			{third, false, problem, queue.StatusDeadLetter, "[completed dead_letter]"},
		} {
			m.answer, m.err = step.answer, step.problem
			if _, err := b.Retry(t.Context(), step.id, queue.RetryOptions{}); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
			b.wantStatus(step.id, step.want)
			if got := b.endings(step.id); got != step.endings {
				t.Errorf("event %d: got %s, want %s", step.id, got, step.endings)
			}
		}
	})
}
