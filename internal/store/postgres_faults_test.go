package store

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store/pgtest"
	"orchestrate/internal/store/storetest"

	"github.com/google/go-cmp/cmp"
)

// world is a store with one of each thing that an operation may work on.
type world struct {
	store  queue.Store
	now    queue.Time
	dead   int64 // an event whose job died
	old    int64 // one that a cleanup takes
	run    queue.Job
	worker queue.Text
}

func newWorld(t *testing.T, s queue.Store) world {
	t.Helper()
	w := world{store: s, now: queue.Now(), worker: "w"}
	must(t, s.Register(t.Context(), queue.Worker{ID: "w", Routes: []string{}, StartedAt: w.now}, ""))
	must(t, s.Register(t.Context(), queue.Worker{ID: "lost", Routes: []string{}, StartedAt: w.now}, ""))
	w.dead = w.insert(t, "dead", "bad").EventID
	j := w.claim(t, "w", "bad")
	must(t, s.Settle(t.Context(), j.Claim, queue.Settlement{Status: queue.StatusDeadLetter, Ending: queue.EndDeadLetter, FinishedAt: w.now, DueAt: 1}))
	w.insert(t, "running", "run")
	w.run = w.claim(t, "w", "run")
	w.insert(t, "lost", "lost")
	w.claim(t, "lost", "lost")
	w.insert(t, "waiting", "wait")
	old := deliveryOf("old", "{}")
	old.Event.ReceivedAt = 1
	r, err := s.Insert(t.Context(), old)
	must(t, err)
	w.old = r.EventID
	return w
}

func deliveryOf(id, body string, routes ...string) queue.Insertion {
	in := benchInsertion(id, []byte(body))
	in.Event.BodySHA256 = fmt.Sprintf("%064x", len(body))
	in.Event.HookID, in.RequeueDead, in.Jobs = 1, true, nil
	for _, r := range routes {
		in.Jobs = append(in.Jobs, queue.Job{Claim: queue.Claim{JobKey: queue.JobKey{Route: r}}, Status: queue.StatusPending, MaxRetries: 3, DueAt: 1})
	}
	return in
}

func (w world) insert(t *testing.T, id string, routes ...string) queue.Receipt {
	t.Helper()
	r, err := w.store.Insert(t.Context(), deliveryOf(id, "{}", routes...))
	must(t, err)
	return r
}

func (w world) claim(t *testing.T, worker queue.Text, route string) queue.Job {
	t.Helper()
	jobs, err := w.store.Claim(t.Context(), queue.ClaimParams{Route: route, Now: w.now, DueBy: w.now, Limit: 1, WorkerID: worker})
	must(t, err)
	if len(jobs) != 1 {
		t.Fatalf("claimed %d jobs of route %s, want 1", len(jobs), route)
	}
	return jobs[0]
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestUnknownCommit: whether the connection is lost before a commit arrives, or
// before its answer does, every operation happens once, and says what it did.
func TestUnknownCommit(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	tests := []struct {
		name string
		op   func(*testing.T, world) any
		want any
		then func(*testing.T, world) any // what the store then holds
		held any
	}{
		{
			"insert", func(t *testing.T, w world) any { r := w.insert(t, "new", "a", "b"); r.EventID = 0; return r },
			queue.Receipt{DeliveryID: "new", Routes: []string{"a", "b"}},
			func(t *testing.T, w world) any { return counts(t, w.store, "new") },
			[2]int{0, 0},
		},
		{
			"duplicate", func(t *testing.T, w world) any { return w.insert(t, "waiting", "wait").Duplicate }, true,
			func(t *testing.T, w world) any { return counts(t, w.store, "waiting") },
			[2]int{1, 0},
		},
		{
			"conflict", func(t *testing.T, w world) any {
				r, err := w.store.Insert(t.Context(), deliveryOf("waiting", "[1]", "wait"))
				must(t, err)
				return r.Conflict
			}, true,
			func(t *testing.T, w world) any { return counts(t, w.store, "waiting") },
			[2]int{0, 1},
		},
		{
			"redelivery", func(t *testing.T, w world) any { return w.insert(t, "dead", "bad").Routes },
			[]string{"bad"},
			func(t *testing.T, w world) any { return counts(t, w.store, "dead") },
			[2]int{1, 0},
		},
		{
			"claim", func(t *testing.T, w world) any { return w.claim(t, "w", "wait").Seq }, int64(1),
			func(t *testing.T, w world) any {
				held, err := w.store.Heartbeat(t.Context(), queue.Worker{ID: "w", Routes: []string{}, HeartbeatAt: 1})
				must(t, err)
				return len(held)
			}, 2,
		},
		{
			"settle", func(t *testing.T, w world) any { return settleRun(t, w, queue.StatusCompleted) }, error(nil),
			attemptsOfRun, 1,
		},
		{
			"settle late", func(t *testing.T, w world) any {
				w.run.WorkerID = "other"
				return errors.Is(settleRun(t, w, queue.StatusCompleted), queue.ErrStale)
			}, true, attemptsOfRun, 0,
		},
		{
			"move", func(t *testing.T, w world) any {
				jobs, err := w.store.Select(t.Context(), queue.Filter{}, []queue.Status{queue.StatusDeadLetter}, queue.JobKey{}, 10)
				must(t, err)
				n, err := w.store.Move(t.Context(), jobs, queue.Move{To: queue.StatusPending, Now: w.now})
				must(t, err)
				return n
			}, 1,
			func(t *testing.T, w world) any { return statusOf(t, w.store, w.dead) }, queue.StatusPending,
		},
		{
			"add a job", func(t *testing.T, w world) any {
				return w.store.AddJob(t.Context(), queue.Job{Claim: queue.Claim{JobKey: queue.JobKey{EventID: w.dead, Route: "more"}}, Status: queue.StatusPending, DueAt: 1}, w.now)
			}, error(nil),
			func(t *testing.T, w world) any { return statusOf(t, w.store, w.dead) }, queue.StatusPending,
		},
		{
			"register", func(t *testing.T, w world) any {
				return w.store.Register(t.Context(), queue.Worker{ID: "w2", Routes: []string{}, StartedAt: w.now}, "w")
			}, error(nil), workerIDs, []queue.Text{"lost", "w2"},
		},
		{"unregister", func(t *testing.T, w world) any { return w.store.Unregister(t.Context(), "w", w.now) }, error(nil), workerIDs, []queue.Text{"lost"}},
		{
			"rescue", func(t *testing.T, w world) any {
				rescued, err := w.store.Rescue(t.Context(), map[queue.Text]int64{"lost": 0}, w.now)
				must(t, err)
				return len(rescued)
			}, 1, workerIDs, []queue.Text{"w"},
		},
		{
			"clean", func(t *testing.T, w world) any {
				c, err := w.store.Clean(t.Context(), queue.CleanParams{Before: 1000, Forget: 1000, Limit: 10})
				must(t, err)
				return [2]int{c.Deleted, c.Missed}
			},
			[2]int{1, 0},
			func(t *testing.T, w world) any {
				_, err := w.store.Event(t.Context(), w.old)
				return errors.Is(err, queue.ErrNotFound)
			}, true,
		},
	}
	oneStatement := map[string]bool{"insert": true, "claim": true, "settle": true, "settle late": true}
	for _, test := range tests {
		for _, answered := range []bool{true, false} {
			for _, params := range []string{"", "&default_query_exec_mode=exec"} {
				atOnce := params == "" && oneStatement[test.name]
				if params != "" && !oneStatement[test.name] { // the same way with and without
					continue
				}
				t.Run(fmt.Sprintf("%s, answered %v%s", test.name, answered, params), func(t *testing.T) {
					proxy := pgtest.NewProxy(t, server)
					w := newWorld(t, openServer(t, proxy.URL(migrated(t))+"&pool_max_conns=3"+params))
					match := pgtest.Commit
					if atOnce {
						match = pgtest.Sync // without a transaction around it
					}
					cut := proxy.CutBefore
					if answered {
						cut = proxy.CutAnswer
					}
					done := cut(match)
					if d := cmp.Diff(test.want, test.op(t, w), cmp.Comparer(sameError)); d != "" {
						t.Errorf("told (-want +got):\n%s", d)
					}
					select {
					case <-done:
					default:
						t.Fatal("no connection was cut")
					}
					if d := cmp.Diff(test.held, test.then(t, w)); d != "" {
						t.Errorf("stored (-want +got):\n%s", d)
					}
					for id := w.dead; id <= w.dead+5; id++ {
						if err := storetest.Counters(t.Context(), w.store, id); err != nil && !errors.Is(err, queue.ErrNotFound) {
							t.Error(err)
						}
					}
				})
			}
		}
	}
}

func sameError(a, b error) bool { return errors.Is(a, b) }

func counts(t *testing.T, s queue.Store, delivery string) any {
	t.Helper()
	events, err := s.List(t.Context(), queue.Filter{Delivery: delivery}, 10)
	must(t, err)
	if len(events) != 1 {
		t.Fatalf("%d events of delivery %s, want 1", len(events), delivery)
	}
	return [2]int{events[0].DuplicateCount, events[0].ConflictCount}
}

func statusOf(t *testing.T, s queue.Store, id int64) queue.Status {
	t.Helper()
	e, err := s.Event(t.Context(), id)
	must(t, err)
	return e.Status
}

func settleRun(t *testing.T, w world, to queue.Status) error {
	t.Helper()
	return w.store.Settle(t.Context(), w.run.Claim, queue.Settlement{Status: to, Ending: queue.EndCompleted, FinishedAt: w.now, DueAt: 1})
}

func attemptsOfRun(t *testing.T, w world) any {
	t.Helper()
	attempts, err := w.store.Attempts(t.Context(), w.run.EventID)
	must(t, err)
	return len(attempts)
}

func workerIDs(t *testing.T, w world) any {
	t.Helper()
	workers, err := w.store.Workers(t.Context())
	must(t, err)
	ids := []queue.Text{}
	for _, worker := range workers {
		ids = append(ids, worker.ID)
	}
	return ids
}

// TestContention: many transactions over few shared events end, with exact
// counters; where the server had to break a deadlock, nobody is told.
func TestContention(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	s := openServer(t, url)
	ctx := t.Context()
	var ids []int64
	routes := []string{"a", "b", "c", "d"}
	for i := range 12 {
		r, err := s.Insert(ctx, deliveryOf(fmt.Sprint("d", i), "{}", routes...))
		must(t, err)
		ids = append(ids, r.EventID)
	}
	stop := time.After(3 * time.Second)
	ending := make(chan struct{})
	go func() { <-stop; close(ending) }()
	var wg sync.WaitGroup
	loop := func(fn func() error) {
		wg.Go(func() {
			for {
				select {
				case <-ending:
					return
				default:
				}
				if err := fn(); err != nil && !errors.Is(err, queue.ErrStale) {
					t.Error(err)
					return
				}
			}
		})
	}
	for i, route := range routes {
		w := queue.Text(fmt.Sprint("w", i))
		must(t, s.Register(ctx, queue.Worker{ID: w, Routes: []string{}, StartedAt: 1}, ""))
		loop(func() error {
			now := queue.Now()
			jobs, err := s.Claim(ctx, queue.ClaimParams{Route: route, Now: now, DueBy: now, Limit: 5, WorkerID: w})
			var settling sync.WaitGroup
			errs := make([]error, len(jobs))
			for i, j := range jobs {
				settling.Go(func() {
					st := queue.Settlement{Status: queue.StatusDeadLetter, Ending: queue.EndDeadLetter, FinishedAt: now, DueAt: now}
					if i%2 == 0 {
						st.Status, st.Ending = queue.StatusFailed, queue.EndFailed
					}
					errs[i] = queue.ErrUnavailable
					for errors.Is(errs[i], queue.ErrUnavailable) { // as a worker does: a row was locked for too long
						errs[i] = s.Settle(ctx, j.Claim, st)
					}
					if errors.Is(errs[i], queue.ErrStale) {
						errs[i] = nil
					}
				})
			}
			settling.Wait()
			return errors.Join(append(errs, err)...)
		})
	}
	for range 2 {
		loop(func() error {
			jobs, err := s.Select(ctx, queue.Filter{}, []queue.Status{queue.StatusDeadLetter, queue.StatusProcessing}, queue.JobKey{}, 20)
			if err == nil {
				_, err = s.Move(ctx, jobs, queue.Move{To: queue.StatusPending, Now: queue.Now()})
			}
			return err
		})
		loop(func() error {
			_, err := s.Insert(ctx, deliveryOf("d3", "{}", routes...))
			return err
		})
	}
	wg.Wait()
	for _, id := range ids {
		if err := storetest.Counters(ctx, s, id); err != nil {
			t.Error(err)
		}
	}
	deadlocks, err := one[int64](ctx, s.db, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d deadlocks", deadlocks)
}

var crashes = flag.Int("crashes", 3, "how often TestCrashes stops the server")

// TestCrashes stops the server in the middle of load, as a power failure does:
// what was acknowledged is there, nothing is there twice, and the store works
// again by itself.
func TestCrashes(t *testing.T) {
	t.Parallel()
	const senders = 8
	server := pgtest.Private(t, pgtest.Durable)
	url := server.Database(t)
	s := openServer(t, url)
	must(t, s.Register(t.Context(), queue.Worker{ID: "w", Routes: []string{}, StartedAt: 1}, ""))
	var mu sync.Mutex
	acknowledged, settled := map[string]int64{}, map[int64]bool{}
	var unanswered int64 // of these each may have been stored
	var wg sync.WaitGroup
	ending := make(chan struct{})
	for sender := range senders {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d", sender, i)
				for { // as its sender does, until it is answered 200
					select {
					case <-ending:
						return
					default:
					}
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					r, err := s.Insert(ctx, deliveryOf(id, "{}", "a"))
					cancel()
					if err == nil {
						mu.Lock()
						acknowledged[id] = r.EventID
						mu.Unlock()
						break
					}
					if !errors.Is(err, queue.ErrUnavailable) {
						t.Error(err)
						return
					}
					mu.Lock()
					unanswered++
					mu.Unlock()
					<-time.After(20 * time.Millisecond)
				}
			}
		})
	}
	wg.Go(func() { // a worker
		for {
			select {
			case <-ending:
				return
			default:
			}
			now := queue.Now()
			jobs, err := s.Claim(t.Context(), queue.ClaimParams{Route: "a", Now: now, DueBy: now, Limit: 10, WorkerID: "w"})
			if err != nil && !errors.Is(err, queue.ErrUnavailable) {
				t.Error(err)
			}
			if len(jobs) == 0 {
				<-time.After(20 * time.Millisecond)
			}
			for _, j := range jobs {
				err := queue.ErrUnavailable
				for errors.Is(err, queue.ErrUnavailable) {
					err = s.Settle(t.Context(), j.Claim, queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, FinishedAt: now, DueAt: j.DueAt})
				}
				if err != nil {
					t.Errorf("settle: %v", err)
				}
				mu.Lock()
				if settled[j.EventID] {
					t.Errorf("event %d was settled twice", j.EventID)
				}
				settled[j.EventID] = true
				mu.Unlock()
			}
		}
	})
	progress := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged)
	}
	for range *crashes {
		for goal := progress() + 100; progress() < goal && !t.Failed(); {
			<-time.After(5 * time.Millisecond)
		}
		must(t, server.Stop("immediate"))
		must(t, server.Start())
	}
	<-time.After(100 * time.Millisecond)
	close(ending)
	wg.Wait()
	stored := map[string]int64{}
	err := each(t.Context(), s.reads, "SELECT delivery_id, id FROM webhook_events", nil, func(rows *sql.Rows) error {
		var id string
		var n int64
		err := rows.Scan(&id, &n)
		stored[id] = n
		return err
	})
	must(t, err)
	lost := 0
	for id, n := range acknowledged {
		if stored[id] != n {
			lost++
		}
		if err := storetest.Counters(t.Context(), s, n); err != nil {
			t.Error(err)
		}
	}
	if lost > 0 || len(acknowledged) < 100**crashes {
		t.Errorf("%d of %d acknowledged deliveries are lost", lost, len(acknowledged))
	}
	doubled := func(what string, query statement, most int64) {
		t.Helper()
		if n := must1(one[int64](t.Context(), s.reads, query)); n > most {
			t.Errorf("%d %s, want at most %d", n, what, most)
		}
	}
	doubled("jobs beside one for each event", "SELECT (SELECT count(*) FROM webhook_jobs) - (SELECT count(*) FROM webhook_events)", 0)
	doubled("payloads beside one for each event", "SELECT (SELECT count(*) FROM webhook_payloads) - (SELECT count(*) FROM webhook_events)", 0)
	doubled("duplicates", "SELECT coalesce(sum(duplicate_count), 0)::bigint FROM webhook_events", unanswered)
	doubled("events beside those that were sent", "SELECT count(*) FROM webhook_events", int64(len(acknowledged)+senders))
	t.Logf("%d crashes, %d acknowledged, %d settled, %d stored", *crashes, len(acknowledged), len(settled), len(stored))
}

// TestServerAway: what is asked of a server that can't be reached fails soon
// and by name, and works again when it is back.
func TestServerAway(t *testing.T) {
	proxy := pgtest.NewProxy(t, pgtest.Shared(t))
	s := openServer(t, proxy.URL(migrated(t)))
	newWorld(t, s)
	for range 2 {
		proxy.Refuse(true)
		for what, op := range map[string]func(context.Context) error{
			"insert": func(ctx context.Context) error { _, err := s.Insert(ctx, deliveryOf("x", "{}")); return err },
			"schema": s.CheckSchema, "unregister": func(ctx context.Context) error { return s.Unregister(ctx, "nobody", 1) },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 2*awayInDoubt)
			if err := op(ctx); !errors.Is(err, queue.ErrUnavailable) || ctx.Err() != nil {
				t.Errorf("%s: got %v, want ErrUnavailable soon", what, err)
			}
			cancel()
		}
		proxy.Refuse(false)
		if err := s.CheckSchema(t.Context()); err != nil {
			t.Error(err)
		}
	}
	select {
	case <-s.Broken():
		t.Error("a server that was away is broken for good")
	default:
	}
}
