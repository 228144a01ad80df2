package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store"

	"github.com/jackc/pgx/v5"
)

const (
	claimed   = "look and claim 10"
	fewRows   = "few finished rows"
	manyRows  = "many finished rows"
	snapshot  = "old snapshot held"
	batch     = 10
	churnSize = 100
)

// table is a database of ours with finished events in it, and a worker.
type table struct {
	label string
	store queue.Store
	conn  *pgx.Conn
	next  int // events that were made
}

// measureClaims compares the time that a worker needs to look for work and to
// claim it: with few and with many finished rows, and under a snapshot that
// another session has held since before many jobs were run.
func measureClaims(ctx context.Context, b *bench, r *report) (err error) {
	var ts []*table
	defer func() {
		for _, t := range ts {
			err = errors.Join(err, t.conn.Close(context.Background()), t.store.Close())
		}
	}()
	for _, kind := range []struct {
		label string
		rows  int
	}{{fewRows, b.few}, {manyRows, b.many}, {snapshot, b.few}} {
		t, err := b.newTable(ctx, kind.label, kind.rows)
		if err != nil {
			return err
		}
		ts = append(ts, t)
	}
	age, release, err := ts[2].holdSnapshot(ctx, b)
	if err != nil {
		return err
	}
	defer release()
	for round := range b.rounds {
		for i := range ts {
			t := ts[(round+i)%len(ts)]
			took, err := t.claims(ctx, b)
			if err != nil {
				return err
			}
			r.add(claimed, t.label, "ms", median(took))
		}
	}
	r.add("age of the snapshot", snapshot, "s", age().Seconds())
	r.compare(fmt.Sprintf("claim, %d : %d finished rows", b.many, b.few), "≤ 1.3", claimed, manyRows, fewRows)
	r.compare(fmt.Sprintf("claim, snapshot since %d jobs : none", b.churn), "≤ 1.3", claimed, snapshot, fewRows)
	return nil
}

func (b *bench) newTable(ctx context.Context, label string, rows int) (*table, error) {
	url, err := b.database(ctx)
	if err != nil {
		return nil, err
	}
	t := &table{label: label}
	if t.store, err = store.Open(ctx, store.Options{Database: url, Create: true}); err != nil {
		return nil, err
	}
	if t.conn, err = pgx.Connect(ctx, url); err != nil {
		return nil, errors.Join(err, t.store.Close())
	}
	if err = t.store.Register(ctx, queue.Worker{ID: "w", StartedAt: 1}, ""); err == nil {
		err = t.fill(ctx, rows, queue.StatusCompleted)
	}
	if err != nil {
		return nil, errors.Join(err, t.conn.Close(ctx), t.store.Close())
	}
	return t, nil
}

// fill makes events as a queue that ran for long has them. Nothing refers to
// what is not there, so that no trigger need look.
func (t *table) fill(ctx context.Context, n int, status queue.Status) error {
	from, to := t.next+1, t.next+n
	t.next = to
	pending := 0
	if status == queue.StatusPending {
		pending = 1
	}
	statements := []string{
		"SET session_replication_role = replica",
		"SET synchronous_commit = off",
		fmt.Sprintf(`INSERT INTO webhook_events (id, source, delivery_id, event_type, received_at, created_at, updated_at, body_size, body_sha256, n_pending)
			SELECT g, 'github', md5(g::text), 'push', g, g, g, 100, repeat('0', 64), %d FROM generate_series(%d, %d) g`, pending, from, to),
		fmt.Sprintf(`INSERT INTO webhook_payloads (event_id, headers, codec, body) SELECT g, '{}', 0, decode(repeat('7b', 100), 'hex') FROM generate_series(%d, %d) g`, from, to),
		fmt.Sprintf(`INSERT INTO webhook_jobs (event_id, route, status, max_retries, due_at) SELECT g, 'all', '%s', 3, g FROM generate_series(%d, %d) g`, status, from, to),
	}
	if status == queue.StatusCompleted {
		statements = append(statements, fmt.Sprintf(`INSERT INTO webhook_attempts (event_id, route, claim_seq, worker_id, outcome, started_at, finished_at)
			SELECT g, 'all', 1, 'w', 'completed', g, g FROM generate_series(%d, %d) g`, from, to), "VACUUM ANALYZE")
	}
	for _, statement := range statements {
		if _, err := t.conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	return nil
}

// claims times what a worker does to get ten jobs. They are settled, untimed.
func (t *table) claims(ctx context.Context, b *bench) ([]float64, error) {
	if err := t.fill(ctx, b.claims*batch, queue.StatusPending); err != nil {
		return nil, err
	}
	if err := b.quiet(ctx); err != nil {
		return nil, err
	}
	var took []float64
	for range b.claims {
		begin := time.Now()
		jobs, err := t.claim(ctx, batch)
		took = append(took, float64(time.Since(begin).Microseconds())/1000)
		if err != nil {
			return nil, err
		}
		if err := t.settle(ctx, jobs); err != nil {
			return nil, err
		}
	}
	return took, nil
}

func (t *table) claim(ctx context.Context, n int) ([]queue.Job, error) {
	due, err := t.store.Due(ctx, []string{ourRoute})
	if err != nil || len(due) == 0 {
		return nil, errors.Join(err, fmt.Errorf("%s: nothing is due", t.label))
	}
	now := queue.Now()
	jobs, err := t.store.Claim(ctx, queue.ClaimParams{Route: ourRoute, Now: now, DueBy: now, Limit: n, WorkerID: "w"})
	if err == nil && len(jobs) != n {
		err = fmt.Errorf("%s: %d jobs were claimed, want %d", t.label, len(jobs), n)
	}
	return jobs, err
}

func (t *table) settle(ctx context.Context, jobs []queue.Job) error {
	errs := make(chan error, len(jobs))
	for _, j := range jobs {
		go func() {
			errs <- t.store.Settle(ctx, j.Claim, queue.Settlement{
				Status: queue.StatusCompleted, Ending: queue.EndCompleted, FinishedAt: queue.Now(), DueAt: j.DueAt,
			})
		}()
	}
	var err error
	for range jobs {
		err = errors.Join(err, <-errs)
	}
	return err
}

// holdSnapshot holds one in another session, then runs many jobs: of each, a row
// version stays that no vacuum can take away.
func (t *table) holdSnapshot(ctx context.Context, b *bench) (age func() time.Duration, release func(), err error) {
	if err := t.fill(ctx, b.churn, queue.StatusPending); err != nil {
		return nil, nil, err
	}
	other, err := pgx.ConnectConfig(ctx, t.conn.Config().Copy())
	if err != nil {
		return nil, nil, err
	}
	release = func() { _ = other.Close(context.Background()) }
	for _, statement := range []string{"BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM webhook_jobs"} {
		if _, err := other.Exec(ctx, statement); err != nil {
			release()
			return nil, nil, err
		}
	}
	begin := time.Now()
	for range b.churn / churnSize {
		jobs, err := t.claim(ctx, churnSize)
		if err == nil {
			err = t.settle(ctx, jobs)
		}
		if err != nil {
			release()
			return nil, nil, err
		}
	}
	return func() time.Duration { return time.Since(begin) }, release, nil
}
