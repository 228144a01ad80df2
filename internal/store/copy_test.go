package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store/pgtest"
	"orchestrate/internal/store/storetest"

	"pgregory.net/rapid"
)

// engines make databases to copy from and to: new ones, without a schema.
var engines = map[string]func(testing.TB) string{
	"sqlite":   func(t testing.TB) string { return filepath.Join(t.TempDir(), "q.db") },
	"postgres": func(t testing.TB) string { return pgtest.Shared(t).Database(t) },
}

var directions = [][2]string{{"sqlite", "postgres"}, {"postgres", "sqlite"}, {"sqlite", "sqlite"}, {"postgres", "postgres"}}

// shortLease is how long a test waits for a worker that does not live.
const shortLease = 200 * time.Millisecond

func copyOptions(from, to string) CopyOptions {
	return CopyOptions{From: Options{Database: from}, To: Options{Database: to}, lease: shortLease}
}

// newSource is an open database, and its name.
func newSource(t testing.TB, engine string) (queue.Store, string) {
	t.Helper()
	name := engines[engine](t)
	return openStore(t, name), name
}

func openStore(t testing.TB, name string) queue.Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Database: name, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// inner is what a store has beside its interface.
func inner(t testing.TB, s queue.Store) *shared {
	t.Helper()
	switch s := s.(type) {
	case *SQLite:
		return &s.shared
	case *Postgres:
		return &s.shared
	}
	t.Fatalf("store is a %T", s)
	return nil
}

func execIn(t testing.TB, s queue.Store, query statement, a ...any) {
	t.Helper()
	_, err := write(t.Context(), inner(t, s), op{recognises: always}, func(ctx context.Context, q querier) (int64, error) {
		return exec(ctx, q, query, a...)
	})
	must(t, err)
}

// enrich gives a queue something of everything.
func enrich(t testing.TB, s queue.Store) {
	t.Helper()
	ctx, now := t.Context(), queue.Now()
	must(t, s.Register(ctx, queue.Worker{ID: "w", Routes: []string{}, StartedAt: now}, ""))
	insert := func(id string, body []byte, routes ...string) int64 {
		in := deliveryOf(id, "", routes...)
		in.Payload.Body, in.Event.BodySize, in.Event.Number, in.Event.Ref = body, int64(len(body)), 7, "refs/heads/mäin"
		r, err := s.Insert(ctx, in)
		must(t, err)
		return r.EventID
	}
	settle := func(route string, st queue.Settlement) queue.Job {
		jobs, err := s.Claim(ctx, queue.ClaimParams{Route: route, Now: now, DueBy: now, Limit: 1, WorkerID: "w"})
		must(t, err)
		if len(jobs) != 1 {
			t.Fatalf("claimed %d jobs of %s", len(jobs), route)
		}
		if st.Status != "" {
			st.FinishedAt, st.DueAt = now, max(st.DueAt, 1)
			must(t, s.Settle(ctx, jobs[0].Claim, st))
		}
		return jobs[0]
	}
	for i, body := range [][]byte{{}, {0}, []byte("\x00\xff\xfe binary"), []byte(`{"a":"\u0000","b":"\ud800"}`), bytes.Repeat([]byte("x"), copyBytes+1)} {
		insert(fmt.Sprint("body", i), body, "wait")
	}
	exit := 3
	insert("done", []byte("{}"), "done", "fail", "dead")
	settle("done", queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, Result: queue.Result{Output: []byte("\x00\x01out\xff"), HTTPStatus: 204}})
	settle("fail", queue.Settlement{
		Status: queue.StatusFailed, Ending: queue.EndUnavailable, DueAt: now + 9e6, UnavailableSince: now, ErrorMessage: "exit 3: né",
		Result: queue.Result{ExitCode: &exit, Output: []byte{}},
	})
	settle("dead", queue.Settlement{Status: queue.StatusDeadLetter, Ending: queue.EndDeadLetter, DueAt: now, ErrorMessage: "no"})
	insert("running", []byte("{}"), "run")
	settle("run", queue.Settlement{})
	insert("none", []byte("{}"))
	insert("none", []byte("{}")) // a duplicate
	conflict := deliveryOf("none", "other")
	if r, err := s.Insert(ctx, conflict); err != nil || !r.Conflict {
		t.Fatalf("conflict: %+v, %v", r, err)
	}
	for range 66 { // more than a page of attempts
		jobs, err := s.Select(ctx, queue.Filter{}, []queue.Status{queue.StatusCompleted, queue.StatusPending}, queue.JobKey{}, 500)
		must(t, err)
		jobs = slices.DeleteFunc(jobs, func(j queue.Job) bool { return j.Route != "done" })
		_, err = s.Move(ctx, jobs, queue.Move{To: queue.StatusPending, Now: now})
		must(t, err)
		settle("done", queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, Result: queue.Result{Output: bytes.Repeat([]byte{'o'}, queue.MaxOutput)}})
	}
	// Old ones: purged, and the newest of all is gone.
	old := deliveryOf("purged", "{}")
	old.Event.ReceivedAt = 2
	_, err := s.Insert(ctx, old)
	must(t, err)
	_, err = s.Clean(ctx, queue.CleanParams{Before: 3, Limit: 10})
	must(t, err)
	for _, statement := range inner(t, s).setLastID {
		execIn(t, s, statement, int64(3_000_000_000))
	}
	insert("far", []byte("{}"), "wait")
	execIn(t, s, `UPDATE webhook_events SET hook_id = NULL, ref = '' WHERE delivery_id = 'none'`)
	gone := insert("gone", []byte("{}"))
	execIn(t, s, `DELETE FROM webhook_events WHERE id = $1`, gone)
	many(t, s, "filler", copyRows+20)
}

// many stores n events, each with a job.
func many(t testing.TB, s queue.Store, prefix string, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := s.Insert(t.Context(), deliveryOf(fmt.Sprint(prefix, i), "{}", "filler")); err != nil {
				t.Error(err)
			}
		})
		if i%200 == 199 {
			wg.Wait()
		}
	}
	wg.Wait()
}

// dump is every row of a queue, read otherwise than a copy does.
func dump(t testing.TB, name string) map[string][]row {
	t.Helper()
	d, err := openCopied(t.Context(), Options{Database: name})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { must(t, d.close()) }()
	out := map[string][]row{}
	for _, table := range copiedTables {
		query := fillIn("SELECT * FROM %s ORDER BY %s", table.name, table.key())
		out[string(table.name)], err = all(t.Context(), d.reads, query, nil, scanRow)
		must(t, err)
	}
	return out
}

func wantSame(t testing.TB, from, to string) {
	t.Helper()
	if diff := difference(t, from, to); diff != "" {
		t.Error(diff)
	}
}

// difference is the first one between two queues.
func difference(t testing.TB, from, to string) string {
	t.Helper()
	want, got := dump(t, from), dump(t, to)
	for name := range want {
		if len(want[name]) != len(got[name]) {
			return fmt.Sprintf("%s: %d rows, want %d", name, len(got[name]), len(want[name]))
		}
		for i := range want[name] {
			if !reflect.DeepEqual(want[name][i], got[name][i]) {
				return fmt.Sprintf("%s row %d: got %.300v, want %.300v", name, i, got[name][i], want[name][i])
			}
		}
	}
	return ""
}

// copyWhole copies to the end.
func copyWhole(t testing.TB, from, to string) Copied {
	t.Helper()
	done, err := Copy(t.Context(), copyOptions(from, to))
	if err != nil {
		t.Fatalf("copy: %v", err)
	}
	return done
}

func unregisterAll(t testing.TB, s queue.Store) {
	t.Helper()
	execIn(t, s, `DELETE FROM workers`)
}

func TestCopyDirections(t *testing.T) {
	t.Parallel()
	for _, d := range directions {
		t.Run(d[0]+" to "+d[1], func(t *testing.T) {
			t.Parallel()
			s, from := newSource(t, d[0])
			enrich(t, s)
			to := engines[d[1]](t)
			done := copyDirection(t, s, from, to)
			back := engines[d[0]](t) // and back
			again := copyWhole(t, to, back)
			wantSame(t, from, back)
			for i, n := range again.Tables {
				if n.DigestFrom != done.Tables[i].DigestFrom || n.DigestTo != n.DigestFrom {
					t.Errorf("%s: digests %s and %s, then %s and %s", n.Name, done.Tables[i].DigestFrom, done.Tables[i].DigestTo, n.DigestFrom, n.DigestTo)
				}
			}
			works(t, s, back)
		})
	}
}

func copyDirection(t *testing.T, s queue.Store, from, to string) Copied {
	t.Helper()
	done := copyWhole(t, from, to) // its worker is dead: its beat does not move
	if len(done.Living) > 0 || len(done.Tables) != len(copiedTables) {
		t.Fatalf("got %+v", done)
	}
	wantSame(t, from, to)
	rows := dump(t, from)
	for _, n := range done.Tables {
		if want := int64(len(rows[n.Name])); !n.Equal() || n.RowsFrom != want || n.RowsTo != want || len(n.DigestTo) != 64 {
			t.Errorf("%+v, want %d rows, equal", n, want)
		}
	}
	if _, err := s.Insert(t.Context(), deliveryOf("late", "{}")); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("the source took an event after it was moved: %v", err)
	}
	return done
}

// works holds a moved queue to what it was, and to what is new.
func works(t *testing.T, source queue.Store, name string) {
	t.Helper()
	ctx, now := t.Context(), queue.Now()
	last, err := one[int64](ctx, inner(t, source).reads, inner(t, source).lastID)
	must(t, err)
	s := openStore(t, name)
	if workers, err := s.Workers(ctx); err != nil || len(workers) > 0 {
		t.Errorf("workers came along: %v, %v", workers, err)
	}
	rescued, err := s.Rescue(ctx, nil, now)
	if err != nil || len(rescued) != 1 || rescued[0].Route != "run" || rescued[0].Status != queue.StatusPending {
		t.Errorf("rescued %+v, %v; want what ran", rescued, err)
	}
	r, err := s.Insert(ctx, deliveryOf("fresh", "{}", "fresh"))
	if err != nil || r.EventID <= last {
		t.Errorf("a new event has id %d, %v; want above %d", r.EventID, err, last)
	}
	if r, err := s.Insert(ctx, deliveryOf("purged", "{}")); err != nil || !r.Duplicate {
		t.Errorf("a redelivery of a purged event: %+v, %v; want a duplicate", r, err)
	}
	must(t, s.Register(ctx, queue.Worker{ID: "new", Routes: []string{}, StartedAt: now}, ""))
	for _, route := range []string{"fresh", "run"} {
		jobs, err := s.Claim(ctx, queue.ClaimParams{Route: route, Now: now, DueBy: now, Limit: 1, WorkerID: "new", Suspects: route == "run"})
		if err != nil || len(jobs) != 1 {
			t.Fatalf("claim of %s: %v, %v", route, jobs, err)
		}
		if route == "run" && jobs[0].Seq != 2 {
			t.Errorf("claim %d of a job that was running, want 2", jobs[0].Seq)
		}
		must(t, s.Settle(ctx, jobs[0].Claim, queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, DueAt: 1, FinishedAt: now}))
		must(t, storetest.Counters(ctx, s, jobs[0].EventID))
	}
}

// TestCopyAhead: while a worker lives nothing is closed for good, and however
// the source changes, the last pass has all of it.
func TestCopyAhead(t *testing.T) {
	t.Parallel()
	for _, d := range directions[:2] {
		t.Run(d[0]+" to "+d[1], func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) { copyAhead(t, rt, d) })
		})
	}
}

func copyAhead(t *testing.T, rt *rapid.T, d [2]string) {
	s, from := newSource(t, d[0])
	defer func() { _ = s.Close() }()
	to := engines[d[1]](t)
	must(t, s.Register(t.Context(), queue.Worker{ID: "w", Routes: []string{}, StartedAt: 1}, ""))
	m := &mutator{t: t, s: s}
	for range rapid.IntRange(1, 2).Draw(rt, "copies ahead") {
		m.run(rapid.SliceOfN(rapid.IntRange(0, 99), 0, 25).Draw(rt, "before"))
		during := rapid.SliceOfN(rapid.IntRange(0, 99), 0, 25).Draw(rt, "during")
		o := copyOptions(from, to)
		o.lease = time.Minute
		o.Progress = func(string, int64) { // asked for a sign of life
			if _, err := s.Heartbeat(t.Context(), queue.Worker{ID: "w", Routes: []string{}, StartedAt: 1, HeartbeatAt: 1}); err != nil {
				t.Error(err)
			}
		}
		var wg sync.WaitGroup
		wg.Go(func() { m.run(during) })
		done, err := Copy(t.Context(), o)
		wg.Wait()
		if err != nil || len(done.Living) != 1 {
			rt.Fatalf("copy ahead: %+v, %v", done, err)
		}
		if _, err := Open(t.Context(), Options{Database: to}); !errors.Is(err, queue.ErrUnavailable) {
			rt.Fatalf("opened half a copy: %v", err)
		}
	}
	m.run(rapid.SliceOfN(rapid.IntRange(0, 99), 0, 25).Draw(rt, "last"))
	unregisterAll(t, s)
	if _, err := Copy(t.Context(), copyOptions(from, to)); err != nil {
		rt.Fatalf("copy: %v", err)
	}
	if diff := difference(t, from, to); diff != "" {
		rt.Fatal(diff)
	}
}

// mutator changes a queue as numbers tell it.
type mutator struct {
	t *testing.T
	s queue.Store
	n int
}

func (m *mutator) run(steps []int) {
	ctx, now := m.t.Context(), queue.Now()
	for _, step := range steps {
		m.n++
		var err error
		switch {
		case step < 40:
			in := deliveryOf(fmt.Sprint("d", step), "{}", "a", "b")
			in.Event.ReceivedAt = queue.Time(step + 1)
			_, err = m.s.Insert(ctx, in)
		case step < 70:
			var jobs []queue.Job
			jobs, err = m.s.Claim(ctx, queue.ClaimParams{Route: []string{"a", "b"}[step%2], Now: now, DueBy: now, Limit: 3, WorkerID: "w"})
			for _, j := range jobs {
				to := []queue.Status{queue.StatusCompleted, queue.StatusFailed, queue.StatusDeadLetter, ""}[m.n%4]
				if to != "" {
					err = errors.Join(err, m.s.Settle(ctx, j.Claim, queue.Settlement{
						Status: to, Ending: queue.EndFailed, DueAt: 1, FinishedAt: now, Result: queue.Result{Output: []byte{0, byte(step)}},
					}))
				}
			}
		case step < 80:
			var jobs []queue.Job
			jobs, err = m.s.Select(ctx, queue.Filter{}, []queue.Status{queue.StatusDeadLetter, queue.StatusCompleted}, queue.JobKey{}, 5)
			if err == nil {
				_, err = m.s.Move(ctx, jobs, queue.Move{To: queue.StatusPending, Now: now})
			}
		case step < 90: // some are forgotten, and may come again
			_, err = m.s.Clean(ctx, queue.CleanParams{Before: queue.Time(step), Forget: queue.Time(step), IncludeDead: true, Limit: 5})
		default:
			_, err = m.s.Clean(ctx, queue.CleanParams{Before: queue.Time(step), IncludeDead: true, Limit: 2})
		}
		if err != nil {
			m.t.Errorf("step %d: %v", step, err)
		}
	}
}

// TestCopyGoesOn: broken off anywhere, it is finished by the next call.
func TestCopyGoesOn(t *testing.T) {
	t.Parallel()
	for _, d := range directions[:2] {
		t.Run(d[0]+" to "+d[1], func(t *testing.T) {
			t.Parallel()
			s, from := newSource(t, d[0])
			many(t, s, "e", 2*copyRows+5)
			to := engines[d[1]](t)
			stops := 0
			for finished := false; !finished; stops += 2 {
				ctx, cancel := context.WithCancel(t.Context())
				o := copyOptions(from, to)
				calls := 0
				o.Progress = func(string, int64) {
					if calls++; calls > stops {
						cancel()
					}
				}
				_, err := Copy(ctx, o)
				cancel()
				switch finished = err == nil; {
				case finished:
				case !errors.Is(err, context.Canceled) && ctx.Err() == nil:
					t.Fatalf("stop %d: %v", stops, err)
				default:
					if _, err := Open(t.Context(), Options{Database: to}); !errors.Is(err, queue.ErrUnavailable) {
						t.Fatalf("stop %d: opened half a copy: %v", stops, err)
					}
				}
			}
			if stops < 10 {
				t.Errorf("the last stop was after %d calls, want more", stops)
			}
			wantSame(t, from, to)
			_ = openStore(t, to)
		})
	}
}

// TestClosedToOthers: whoever had a database open before it was closed can't
// write any more, and goes on where it is opened.
func TestClosedToOthers(t *testing.T) {
	t.Parallel()
	for engine := range engines {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			s, name := newSource(t, engine)
			w := newWorld(t, s)
			d, err := openCopied(t.Context(), Options{Database: name})
			must(t, err)
			defer func() { _ = d.close() }()
			mark := side{side: sideFrom, id: "i", other: "elsewhere", run: "r", startedAt: 1}
			nothing := func(context.Context, querier) error { return nil }
			if err := d.shut(t.Context(), mark, nil, nothing); !errors.Is(err, queue.ErrRefused) {
				t.Errorf("closed although there are workers: %v", err)
			}
			w.insert(t, "still open", "a")
			must(t, d.shut(t.Context(), mark, map[queue.Text]int64{"w": 0, "lost": 0}, nothing))
			must(t, d.shut(t.Context(), mark, nil, nothing)) // again, as after a commit in doubt
			for what, try := range writes(t, w) {
				if err := try(); !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "migrate copy") {
					t.Errorf("%s of a closed database: got %v, want ErrUnavailable", what, err)
				}
			}
			if err := s.CheckSchema(t.Context()); !errors.Is(err, queue.ErrUnavailable) {
				t.Errorf("a closed database passes for ready: %v", err)
			}
			if _, err := Open(t.Context(), Options{Database: name, Create: true}); !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "elsewhere") {
				t.Errorf("open: got %v, want ErrUnavailable", err)
			}
			if to, err := Moved(t.Context(), Options{Database: name}); to != "elsewhere" || err != nil {
				t.Errorf("moved to %q, %v", to, err)
			}
			must(t, Reopen(t.Context(), Options{Database: name}))
			if err := Reopen(t.Context(), Options{Database: name}); !errors.Is(err, queue.ErrRefused) {
				t.Errorf("opened again twice: %v", err)
			}
			for what, try := range writes(t, w) {
				if err := try(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			must(t, d.shut(t.Context(), mark, map[queue.Text]int64{"w": 1, "lost": 0, "x": 0}, nothing))
			if _, err := MigrateDown(t.Context(), Options{Database: name}, 2); !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "elsewhere") {
				t.Errorf("undoing the step of the mark: got %v, want ErrUnavailable, with where the queue is", err)
			}
			_, err = MigrateDown(t.Context(), Options{Database: name}, 0)
			must(t, err)
		})
	}
}

// writes are those of a process that had the database open.
func writes(t *testing.T, w world) map[string]func() error {
	ctx := t.Context()
	return map[string]func() error{
		"insert": func() error {
			_, err := w.store.Insert(ctx, deliveryOf("new", "{}", "a"))
			return err
		},
		"duplicate": func() error {
			_, err := w.store.Insert(ctx, deliveryOf("waiting", "{}"))
			return err
		},
		"register": func() error {
			return w.store.Register(ctx, queue.Worker{ID: "x", Routes: []string{}, StartedAt: 1}, "")
		},
		"heartbeat": func() error {
			_, err := w.store.Heartbeat(ctx, queue.Worker{ID: "w", Routes: []string{}, StartedAt: 1, HeartbeatAt: 1})
			return err
		},
		"claim": func() error {
			_, err := w.store.Claim(ctx, queue.ClaimParams{Route: "wait", Now: w.now, DueBy: w.now, Limit: 1, WorkerID: "w"})
			return err
		},
		"settle": func() error {
			return w.store.Settle(ctx, w.run.Claim, queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, DueAt: 1, FinishedAt: w.now})
		},
		"requeue": func() error {
			jobs, err := w.store.Jobs(ctx, w.dead)
			if err == nil {
				_, err = w.store.Move(ctx, jobs, queue.Move{To: queue.StatusPending, Now: w.now})
			}
			return err
		},
		"clean": func() error {
			_, err := w.store.Clean(ctx, queue.CleanParams{Before: 5, Forget: 5, Limit: 10})
			return err
		},
	}
}

func TestCopyRefuses(t *testing.T) {
	t.Parallel()
	for engine := range engines {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			s, from := newSource(t, engine)
			many(t, s, "e", 3)
			refused := func(what, from, to string, want error, words ...string) {
				t.Helper()
				for _, dryRun := range []bool{true, false} {
					o := copyOptions(from, to)
					o.DryRun = dryRun
					_, err := Copy(t.Context(), o)
					for _, word := range words {
						if !errors.Is(err, want) || !strings.Contains(err.Error(), word) {
							t.Errorf("%s, dry run %v: got %v, want %v with %q", what, dryRun, err, want, word)
						}
					}
				}
			}
			refused("the same", from, from, queue.ErrInvalid, "the same database")
			other, full := newSource(t, engine)
			many(t, other, "o", 1)
			refused("not empty", from, full, queue.ErrRefused, "not empty")
			wantUntouched(t, s, other)

			half := engines[engine](t)
			halfCopy(t, from, half)
			refused("an unfinished copy of another", full, half, queue.ErrRefused, "unfinished copy of "+Shown(from))
			refused("from an unfinished copy", half, engines[engine](t), queue.ErrRefused, "no whole queue")
			refused("to elsewhere, when it has begun to move", from, engines[engine](t), queue.ErrRefused, "moves to "+Shown(half))
			if err := Reopen(t.Context(), Options{Database: half}); !errors.Is(err, queue.ErrRefused) {
				t.Errorf("opened half a copy: %v", err)
			}
			copyWhole(t, from, half)
			refused("again", from, half, queue.ErrRefused, "was moved")
			refused("to one that has moved", full, from, queue.ErrRefused, "moves to")
			must(t, Reopen(t.Context(), Options{Database: from}))
			refused("again, reopened", from, half, queue.ErrRefused, "was moved")

			empty := openStore(t, engines[engine](t))
			must(t, empty.Register(t.Context(), queue.Worker{ID: "w", Routes: []string{}, StartedAt: 1, HeartbeatAt: 1}, ""))
			o := copyOptions(full, nameOf(t, empty))
			o.lease = time.Minute
			o.Progress = func(string, int64) {
				_, _ = empty.Heartbeat(t.Context(), queue.Worker{ID: "w", Routes: []string{}, StartedAt: 1, HeartbeatAt: 1}) // no longer than it is asked
			}
			if _, err := Copy(t.Context(), o); !errors.Is(err, queue.ErrRefused) || !strings.Contains(err.Error(), "worker w runs on") {
				t.Errorf("a worker on the target: %v", err)
			}
		})
	}
}

func nameOf(t testing.TB, s queue.Store) string {
	t.Helper()
	switch s := s.(type) {
	case *SQLite:
		name, err := one[string](t.Context(), s.pool, "SELECT file FROM pragma_database_list WHERE name = 'main'")
		must(t, err)
		return name
	case *Postgres:
		return s.pool.Config().ConnString()
	}
	return ""
}

// halfCopy breaks off when the source is closed and nothing has been read back.
func halfCopy(t *testing.T, from, to string) {
	t.Helper()
	c := newCopier(t, from, to)
	must(t, c.begin(t.Context()))
	must(t, c.from.shut(t.Context(), *c.source, nil, func(context.Context, querier) error { return nil }))
	must(t, joinClose(nil, c.from, c.to))
}

func newCopier(t *testing.T, from, to string) *copier {
	t.Helper()
	o := copyOptions(from, to)
	o.Progress, o.To.Create = func(string, int64) {}, true
	c := &copier{CopyOptions: o, run: fmt.Sprint(queue.Clock().UnixNano())}
	must(t, c.connect(t.Context()))
	must(t, c.admit(t.Context()))
	return c
}

// wantUntouched: a refusal leaves nothing behind.
func wantUntouched(t *testing.T, all ...queue.Store) {
	t.Helper()
	for _, s := range all {
		must(t, s.CheckSchema(t.Context()))
		for _, name := range []string{sideFrom, sideTo} {
			if got, err := readSide(t.Context(), inner(t, s).reads, name); got != nil || err != nil {
				t.Errorf("side %s: %+v, %v", name, got, err)
			}
		}
	}
}

func TestCopyOtherSpelling(t *testing.T) {
	t.Parallel()
	s, path := newSource(t, "sqlite")
	many(t, s, "e", 1)
	link := filepath.Join(t.TempDir(), "link.db")
	must(t, os.Symlink(path, link))
	for _, to := range []string{link, filepath.Dir(path) + "/./q.db"} {
		if _, err := Copy(t.Context(), copyOptions(path, to)); !errors.Is(err, queue.ErrInvalid) {
			t.Errorf("to %s: got %v, want ErrInvalid", to, err)
		}
	}
	server := migrated(t)
	for _, to := range []string{
		strings.Replace(server, "127.0.0.1", "localhost", 1),
		pgtest.NewProxy(t, pgtest.Shared(t)).URL(server),
		pgtest.NewPooler(t, server, 3).URL() + "&default_query_exec_mode=exec",
	} {
		if _, err := Copy(t.Context(), copyOptions(server, to)); !errors.Is(err, queue.ErrInvalid) {
			t.Errorf("to %s: got %v, want ErrInvalid", to, err)
		}
	}
	// Another schema of the same database is another queue, and a pooler is a way.
	pgtest.Shared(t).Exec(t, databaseOf(server), "CREATE SCHEMA other")
	p := openStore(t, server)
	many(t, p, "e", 2)
	copyWhole(t, server, server+"&search_path=other")
	pooled := pgtest.NewPooler(t, pgtest.Shared(t).Database(t), 3).URL() + "&default_query_exec_mode=exec"
	copyWhole(t, path, pooled)
	wantSame(t, path, pooled)
}

func TestCopyUnfit(t *testing.T) {
	t.Parallel()
	s, good := newSource(t, "sqlite")
	many(t, s, "e", 1)
	dir := t.TempDir()
	older := openStore(t, filepath.Join(dir, "older.db"))
	must(t, older.Close())
	_, err := MigrateDown(t.Context(), Options{Database: filepath.Join(dir, "older.db")}, 1)
	must(t, err)
	newer := openStore(t, filepath.Join(dir, "newer.db"))
	execIn(t, newer, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, 1)")
	must(t, os.WriteFile(filepath.Join(dir, "garbage.db"), bytes.Repeat([]byte("no database "), 1000), 0o600))
	standby := migrated(t)
	for _, test := range []struct {
		name, from, to string
		want           error
		words          string
	}{
		{"missing source", filepath.Join(dir, "none.db"), filepath.Join(dir, "new.db"), queue.ErrUnavailable, "there is none"},
		{"older source", filepath.Join(dir, "older.db"), filepath.Join(dir, "new.db"), queue.ErrSchema, "run: orchestrate migrate"},
		{"newer source", filepath.Join(dir, "newer.db"), filepath.Join(dir, "new.db"), queue.ErrSchema, "use the newer program"},
		{"newer target", good, filepath.Join(dir, "newer.db"), queue.ErrSchema, "use the newer program"},
		{"no database", good, filepath.Join(dir, "garbage.db"), queue.ErrUnavailable, "garbage.db"},
		{"read-only target", good, standby + "&default_transaction_read_only=on", queue.ErrUnavailable, "read-only"},
		{"unreachable target", good, "postgres://me:secret@127.0.0.1:1/q", queue.ErrUnavailable, "is the server running"},
		{"no URL", good, "postgres://me:12/secret@host/q", queue.ErrInvalid, "the URL can't be read"},
	} {
		_, err := Copy(t.Context(), copyOptions(test.from, test.to))
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.words) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v, want %v with %q", test.name, err, test.want, test.words)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "new.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a target was made for a source that could not be read: %v", err)
	}
	wantUntouched(t, s)
	copyWhole(t, good, filepath.Join(dir, "sub", "new.db")) // nothing of it was in the way
}

func TestCopyDryRun(t *testing.T) {
	t.Parallel()
	for _, d := range directions {
		s, from := newSource(t, d[0])
		many(t, s, "e", 7)
		to := engines[d[1]](t)
		o := copyOptions(from, to)
		o.DryRun = true
		done, err := Copy(t.Context(), o)
		if err != nil || done.Begun || len(done.Tables) != 4 || done.Tables[0].RowsFrom != 7 || done.Tables[3].RowsFrom != 0 || done.Tables[0].RowsTo != 0 {
			t.Errorf("%v: got %+v, %v", d, done, err)
		}
		wantUntouched(t, s)
		if d[1] == "sqlite" {
			if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a dry run made the target: %v", err)
			}
		}
	}
}

// TestCopyDiffers: what is not the same is told, and stays closed until it is.
func TestCopyDiffers(t *testing.T) {
	t.Parallel()
	for _, d := range directions[:2] {
		t.Run(d[0]+" to "+d[1], func(t *testing.T) {
			t.Parallel()
			s, from := newSource(t, d[0])
			many(t, s, "e", 3)
			execIn(t, s, "UPDATE webhook_events SET ref = '' WHERE id = 3")
			to := engines[d[1]](t)
			c := newCopier(t, from, to)
			must(t, c.begin(t.Context()))
			for what, change := range map[string]statement{
				"a row less": "DELETE FROM webhook_jobs WHERE event_id = 2",
				"a row more": "INSERT INTO webhook_jobs (event_id, route, status, max_retries, due_at) VALUES (2, 'zz', 'pending', 0, 1)",
				"a value":    "UPDATE webhook_events SET ref = 'other' WHERE id = 3",
				"a NULL":     "UPDATE webhook_events SET ref = NULL WHERE id = 3",
				"a byte":     "UPDATE webhook_payloads SET body = headers WHERE event_id = 1",
			} {
				_, err := c.catchUp(t.Context()) // mends what the last one did
				must(t, err)
				if _, err := c.prove(t.Context()); err != nil {
					t.Errorf("before %s: %v", what, err)
				}
				must(t, c.inside(t.Context(), 0, func(ctx context.Context, q querier) error {
					n, err := exec(ctx, q, change)
					if n != 1 {
						t.Errorf("%s changed %d rows", what, n)
					}
					return err
				}))
				if _, err := c.prove(t.Context()); !errors.Is(err, ErrDiffers) {
					t.Errorf("%s: got %v, want ErrDiffers", what, err)
				}
			}
			_, err := c.catchUp(t.Context())
			must(t, err)
			c.to.lastID = "SELECT 1"
			if _, err := c.prove(t.Context()); !errors.Is(err, ErrDiffers) {
				t.Errorf("the last id: got %v, want ErrDiffers", err)
			}
			must(t, joinClose(nil, c.from, c.to))
			if _, err := Open(t.Context(), Options{Database: to}); !errors.Is(err, queue.ErrUnavailable) {
				t.Errorf("opened what differs: %v", err)
			}
			copyWhole(t, from, to)
			wantSame(t, from, to)
		})
	}
}

// TestCopyTakenOver: a run that was thought to be gone writes nothing any more.
func TestCopyTakenOver(t *testing.T) {
	t.Parallel()
	for _, d := range directions[:2] {
		s, from := newSource(t, d[0])
		many(t, s, "e", 3)
		to := engines[d[1]](t)
		slow := newCopier(t, from, to)
		must(t, slow.begin(t.Context()))
		fast := newCopier(t, from, to)
		must(t, fast.begin(t.Context()))
		if _, err := slow.catchUp(t.Context()); !errors.Is(err, queue.ErrRefused) {
			t.Errorf("%v: the earlier run went on: %v", d, err)
		}
		if err := slow.to.open(t.Context(), *slow.target); !errors.Is(err, queue.ErrRefused) {
			t.Errorf("%v: the earlier run opened the target: %v", d, err)
		}
		_, err := fast.catchUp(t.Context())
		must(t, err)
		must(t, joinClose(nil, slow.from, slow.to, fast.from, fast.to))
		copyWhole(t, from, to)
		wantSame(t, from, to)
	}
}

func TestCopyDiskFull(t *testing.T) {
	t.Parallel()
	s, from := newSource(t, "sqlite")
	many(t, s, "e", 2*copyRows)
	to := engines["sqlite"](t)
	c := newCopier(t, from, to)
	must(t, c.begin(t.Context()))
	w, ok := c.to.runner.(*writer)
	if !ok {
		t.Fatalf("runner is a %T", c.to.runner)
	}
	if _, err := w.conn.ExecContext(t.Context(), "PRAGMA max_page_count = 40"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.catchUp(t.Context()); !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "make room") {
		t.Errorf("got %v, want ErrUnavailable with the next step", err)
	}
	must(t, joinClose(nil, c.from, c.to))
	copyWhole(t, from, to)
	wantSame(t, from, to)
}

// TestDigestTellsApart what looks alike.
func TestDigestTellsApart(t *testing.T) {
	seen := map[string]row{}
	for _, r := range []row{
		{nil, nil},
		{nil, ""},
		{"", nil},
		{"", []byte{}},
		{[]byte{}, ""},
		{int64(0), ""},
		{"n", "n"},
		{"nn", ""},
		{"", "nn"},
		{int64(1), int64(256)},
		{int64(256), int64(1)},
		{int64(-1), nil},
		{"1", int64(1)},
	} {
		h := &bytes.Buffer{}
		must(t, hashRow(hashBuffer{h}, r))
		if other, known := seen[h.String()]; known {
			t.Errorf("%#v and %#v are the same", r, other)
		}
		seen[h.String()] = r
	}
	if err := hashRow(hashBuffer{&bytes.Buffer{}}, row{1.5}); err == nil {
		t.Error("a number with a fraction was taken")
	}
}

// hashBuffer keeps what is hashed.
type hashBuffer struct{ *bytes.Buffer }

func (hashBuffer) Sum(b []byte) []byte { return b }
func (hashBuffer) Size() int           { return 0 }
func (hashBuffer) BlockSize() int      { return 1 }

// TestCopiedColumns: whatever the schema has is copied, or stays behind on
// purpose.
func TestCopiedColumns(t *testing.T) {
	t.Parallel()
	behind := []statement{"workers", "webhook_commits", "webhook_copies", "goose_db_version", "orchestrate_schema", "sqlite_sequence"}
	for engine, query := range map[string]statement{
		"sqlite":   `SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_xinfo(m.name) c WHERE m.type = 'table'`,
		"postgres": `SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = current_schema()`,
	} {
		s, _ := newSource(t, engine)
		have := map[statement][]statement{}
		must(t, each(t.Context(), inner(t, s).reads, query, nil, func(rows *sql.Rows) error {
			var table, column statement
			err := rows.Scan(&table, &column)
			have[table] = append(have[table], column)
			return err
		}))
		for _, table := range copiedTables {
			got, want := slices.Concat(table.columns, table.derived), have[table.name]
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s, %s: copied are %v, there are %v", engine, table.name, got, want)
			}
			delete(have, table.name)
		}
		for table := range have {
			if !slices.Contains(behind, table) {
				t.Errorf("%s: table %s is not copied", engine, table)
			}
		}
	}
}
