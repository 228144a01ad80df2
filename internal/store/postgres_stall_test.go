package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store/pgtest"
	"orchestrate/internal/store/storetest"

	"github.com/jackc/pgx/v5"
)

// within gives fn so long; it must succeed.
func within(t *testing.T, d time.Duration, what string, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(d + 5*time.Second): // it does not even heed its context
		t.Fatalf("%s hangs", what)
	}
}

// hold keeps what statements lock until the test ends, or release is called.
func hold(t *testing.T, url, format string, a ...any) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	must(t, err)
	for _, s := range []string{"BEGIN", fmt.Sprintf(format, a...)} {
		_, err = conn.Exec(t.Context(), s)
		must(t, err)
	}
	release = sync.OnceFunc(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	t.Cleanup(release)
	return release
}

func databaseOf(rawURL string) string { return strings.TrimPrefix(must1(url.Parse(rawURL)).Path, "/") }

// TestSilentConnections: connections that have gone silent, as behind a router
// that lost its table, cost neither a lease nor a delivery. They are asked first
// where they were idle; else a try is short, where something depends on it.
func TestSilentConnections(t *testing.T) {
	t.Parallel()
	heartbeat := func(ctx context.Context, p *Postgres) error {
		_, err := p.Heartbeat(ctx, queue.Worker{ID: "w", Routes: []string{}, HeartbeatAt: 1})
		return err
	}
	insert := func(ctx context.Context, p *Postgres) error {
		_, err := p.Insert(ctx, deliveryOf("new", "{}", "r"))
		return err
	}
	due := func(ctx context.Context, p *Postgres) error {
		_, err := p.Due(ctx, []string{"r"})
		return err
	}
	for _, test := range []struct {
		name  string
		idle  bool
		limit time.Duration
		fn    func(context.Context, *Postgres) error
	}{
		{"heartbeat", false, 10 * time.Second, heartbeat},
		{"heartbeat, idle", true, 10 * time.Second, heartbeat},
		{"insert", false, 8 * time.Second, insert},
		{"insert, idle", true, 8 * time.Second, insert},
		{"due, idle", true, 8 * time.Second, due},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			proxy := pgtest.NewProxy(t, pgtest.Shared(t))
			p := openServer(t, proxy.URL(migrated(t)))
			must(t, p.Register(t.Context(), queue.Worker{ID: "w", Routes: []string{}, StartedAt: 1}, ""))
			var wg sync.WaitGroup
			for range 4 { // as many connections
				wg.Go(func() { _, _ = p.pool.Exec(t.Context(), "SELECT pg_sleep(0.1)") })
			}
			wg.Wait()
			if test.idle {
				<-time.After(pingTimeout + 100*time.Millisecond)
			}
			proxy.Freeze()
			within(t, test.limit, test.name, func(ctx context.Context) error { return test.fn(ctx, p) })
		})
	}
}

// TestDeadWorkerMidClaim: a worker that is cut off between a claim and its
// commit holds its row. Rescuers, whose own heartbeat waits, leave it.
func TestDeadWorkerMidClaim(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	p := openServer(t, url)
	for _, id := range []queue.Text{"cut", "dead"} {
		must(t, p.Register(t.Context(), queue.Worker{ID: id, Routes: []string{}, StartedAt: 1}, ""))
	}
	release := hold(t, url, "SELECT 1 FROM workers WHERE id = 'cut' FOR KEY SHARE")
	dead := map[queue.Text]int64{"cut": 0, "dead": 0}
	left := func() (ids []queue.Text) {
		for _, w := range must1(p.Workers(t.Context())) {
			ids = append(ids, w.ID)
		}
		return ids
	}
	within(t, 3*time.Second, "rescue", func(ctx context.Context) error { _, err := p.Rescue(ctx, dead, queue.Now()); return err })
	if got := left(); len(got) != 1 || got[0] != "cut" {
		t.Errorf("workers = %v, want the cut one alone", got)
	}
	release()
	for len(left()) > 0 { // the server needs a moment to see that it has gone
		must1(p.Rescue(t.Context(), dead, queue.Now()))
	}
}

// TestLockedEvent: a session that keeps an event locked is named, costs no
// connection, and holds up that event alone.
func TestLockedEvent(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	p, err := openPostgres(t.Context(), Options{Database: url, Create: true, Timeout: time.Second})
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	w := newWorld(t, p)
	neighbour := w.claim(t, "w", "wait")
	hold(t, url, "SELECT 1 FROM webhook_events WHERE id IN (%d, %d) FOR UPDATE", w.dead, w.run.EventID)
	before := p.pool.Stat().NewConnsCount()
	err = p.AddJob(t.Context(), queue.Job{
		Claim: queue.Claim{JobKey: queue.JobKey{EventID: w.dead, Route: "more"}}, Status: queue.StatusPending, DueAt: 1,
	}, w.now)
	if !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "holds a lock") {
		t.Errorf("got %v, want that another session holds a lock", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		err := p.Settle(t.Context(), w.run.Claim, queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, FinishedAt: w.now, DueAt: 1})
		if !errors.Is(err, queue.ErrUnavailable) {
			t.Errorf("settle of the locked event: %v, want that it is unavailable", err)
		}
	})
	within(t, 5*time.Second, "settle of its neighbour", func(ctx context.Context) error {
		return p.Settle(ctx, neighbour.Claim, queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, FinishedAt: w.now, DueAt: 1})
	})
	wg.Wait()
	if made := p.pool.Stat().NewConnsCount() - before; made > 2 {
		t.Errorf("%d new connections, want those few that ran beside others", made)
	}
}

// TestReadOnlySpell: a managed server turns read-only when its disk is full, and
// a primary when another is promoted. Sessions keep that.
func TestReadOnlySpell(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	p := openServer(t, url)
	server, alter := pgtest.Shared(t), "ALTER DATABASE "+databaseOf(url)+" SET default_transaction_read_only = "
	server.Exec(t, "postgres", alter+"on")
	p.pool.Reset()
	if _, err := p.Insert(t.Context(), deliveryOf("during", "{}", "r")); !errors.Is(err, queue.ErrUnavailable) {
		t.Errorf("read-only: %v, want that it is unavailable", err)
	}
	server.Exec(t, "postgres", alter+"off")
	if _, err := p.Insert(t.Context(), deliveryOf("after", "{}", "r")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestShadowedSchema: a schema that comes to stand before ours does not hide the
// queue behind a new one.
func TestShadowedSchema(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	p := openServer(t, url)
	r := must1(p.Insert(t.Context(), deliveryOf("precious", "{}", "r")))
	pgtest.Shared(t).Exec(t, databaseOf(url), "CREATE SCHEMA postgres")
	_, err := MigrateUp(t.Context(), Options{Database: url})
	if !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "search_path=public") {
		t.Errorf("migrate: %v, want a refusal that names the search_path", err)
	}
	if _, err := MigrateUp(t.Context(), Options{Database: url + "&search_path=public"}); err != nil {
		t.Errorf("as it says: %v", err)
	}
	if _, err := openServer(t, url).Event(t.Context(), r.EventID); err != nil {
		t.Errorf("the event: %v", err)
	}
}

// TestSilentHost: the first of two hosts never answers.
func TestSilentHost(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // never accepted from
	must(t, err)
	defer func() { _ = silent.Close() }()
	u := must1(url.Parse(migrated(t)))
	u.Host = silent.Addr().String() + "," + u.Host
	p, err := openPostgres(t.Context(), Options{Database: u.String(), Create: true})
	must(t, err)
	must(t, p.Close())
}

// TestFewPreparedStatements: groups of every size, and few texts that the server
// keeps for them.
func TestFewPreparedStatements(t *testing.T) {
	t.Parallel()
	p := openServer(t, "")
	conn := must1(p.db.Conn(t.Context()))
	defer func() { _ = conn.Close() }()
	q := pgTx{conn: conn}
	for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 30, 40, 50, 100, maxSettled} {
		items := make([]settling, n)
		for i := range items {
			items[i].Claim = queue.Claim{JobKey: queue.JobKey{EventID: int64(1e6 + i), Route: "r"}, Seq: 1, WorkerID: "w"}
			items[i].Status = queue.StatusCompleted
		}
		if stale := must1(settle(t.Context(), q, items)); len(stale) != n {
			t.Fatalf("%d of %d settles are stale, want all", len(stale), n)
		}
	}
	if n := must1(one[int64](t.Context(), q, "SELECT count(*) FROM pg_prepared_statements")); n > 20 {
		t.Errorf("the server keeps %d statements, want at most 20", n)
	}
}

// TestMigrateThroughSmallPooler: those that wait to migrate take no connection
// from the one that does.
func TestMigrateThroughSmallPooler(t *testing.T) {
	t.Parallel()
	pooler := pgtest.NewPooler(t, pgtest.Shared(t).Database(t), 2)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			s, err := Open(t.Context(), Options{Database: pooler.URL() + "&default_query_exec_mode=exec", Create: true, Timeout: time.Minute})
			if err != nil {
				t.Error(err)
				return
			}
			_ = s.Close()
		})
	}
	wg.Wait()
}

// TestFiguresOfAPlainRole: what it may not see is not told as if it were little.
func TestFiguresOfAPlainRole(t *testing.T) {
	t.Parallel()
	base := migrated(t)
	server := pgtest.Shared(t)
	server.Exec(t, databaseOf(base), "CREATE ROLE plain LOGIN PASSWORD 'plain'", "GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
	u := must1(url.Parse(base))
	u.User = url.UserPassword("plain", "plain")
	super, plain := openServer(t, base), openServer(t, u.String())
	f := must1(plain.Figures(t.Context()))
	if !f.Restricted || f.Connections < 2 {
		t.Errorf("got %+v, want it restricted, and the connections of others counted", f)
	}
	if f := must1(super.Figures(t.Context())); f.Restricted {
		t.Error("the superuser is said to be restricted")
	}
}

// waitsForLock returns once some session of the database waits for a lock.
func waitsForLock(t *testing.T, p *Postgres) {
	t.Helper()
	for must1(one[int64](t.Context(), p.reads, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock'`)) == 0 {
		<-time.After(10 * time.Millisecond)
	}
}

// TestClaimMeetsAChange: the state of a job changes while its claim waits.
func TestClaimMeetsAChange(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	p := openServer(t, url)
	w := newWorld(t, p)
	holder := must1(pgx.Connect(t.Context(), url))
	defer func() { _ = holder.Close(t.Context()) }()
	event := must1(one[int64](t.Context(), p.reads, "SELECT event_id FROM webhook_jobs WHERE route = 'wait'"))
	for _, s := range []string{
		"BEGIN", "SELECT 1 FROM workers WHERE id = 'w' FOR UPDATE",
		fmt.Sprintf("UPDATE webhook_jobs SET status = 'failed' WHERE event_id = %d AND route = 'wait'", event),
		fmt.Sprintf("UPDATE webhook_events SET n_pending = n_pending - 1, n_failed = n_failed + 1 WHERE id = %d", event),
	} {
		_, err := holder.Exec(t.Context(), s)
		must(t, err)
	}
	claimed := make(chan int, 1)
	go func() { claimed <- len(claimOf(t, p, w, "wait")) }()
	waitsForLock(t, p)
	_, err := holder.Exec(t.Context(), "COMMIT")
	must(t, err)
	if n := <-claimed; n != 1 {
		t.Errorf("claimed %d jobs, want 1", n)
	}
	must(t, storetest.Counters(t.Context(), p, event))
}

func claimOf(t *testing.T, p *Postgres, w world, route string) []queue.Job {
	jobs, err := p.Claim(t.Context(), queue.ClaimParams{Route: route, Now: w.now, DueBy: w.now, Limit: 1, WorkerID: "w"})
	if err != nil {
		t.Error(err)
	}
	return jobs
}

// TestClaimThatTakesTooLong: what became of a claim that was given up is asked,
// and it is made again.
func TestClaimThatTakesTooLong(t *testing.T) {
	t.Parallel()
	url := migrated(t)
	p := openServer(t, url)
	w := newWorld(t, p)
	p.try = 200 * time.Millisecond
	release := hold(t, url, "SELECT 1 FROM workers WHERE id = 'w' FOR UPDATE")
	claimed := make(chan []queue.Job, 1)
	go func() { claimed <- claimOf(t, p, w, "wait") }()
	waitsForLock(t, p)
	<-time.After(p.try + commitGrace + time.Second)
	release()
	if jobs := <-claimed; len(jobs) != 1 {
		t.Errorf("claimed %d jobs, want 1", len(jobs))
	}
}

// TestSettlesCarryNoArrays: a row that is to be locked carries along what it was
// joined from, which must not be the arrays of the whole group.
func TestSettlesCarryNoArrays(t *testing.T) {
	t.Parallel()
	p := openServer(t, "")
	verbose := must1(all(t.Context(), p.reads, "EXPLAIN (VERBOSE) "+settleAtOnce, settleColumns(make([]settling, 10)),
		func(rows *sql.Rows, line *string) error { return rows.Scan(line) }))
	_, next, found := strings.Cut(strings.Join(verbose, "\n"), "CTE next")
	if !found {
		t.Fatalf("no CTE next in the plan:\n%s", strings.Join(verbose, "\n"))
	}
	next, _, _ = strings.Cut(next, "\n  CTE ")
	if !strings.Contains(next, "LockRows") || strings.Contains(next, "given") {
		t.Errorf("want that rows are locked without the arrays:\n%s", next)
	}
}
