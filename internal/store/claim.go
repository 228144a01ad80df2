package store

import (
	"context"
	"database/sql"
	"fmt"

	"orchestrate/internal/queue"
)

// Due implements queue.Store.
func (s *SQLite) Due(ctx context.Context, routes []string) ([]queue.Due, error) {
	if len(routes) == 0 {
		return nil, nil
	}
	query, a := dueQuery(routes)
	var due []queue.Due
	err := each(ctx, s.reads, query, a, func(rows *sql.Rows) error {
		var d queue.Due
		err := rows.Scan(&d.Route, &d.Due, &d.Suspect)
		if d.Due != 0 || d.Suspect != 0 {
			due = append(due, d)
		}
		return err
	})
	return due, classify(err)
}

// dueQuery seeks twice for each route, however many jobs wait.
func dueQuery(routes []string) (string, args) {
	var a args
	rows := a.values([]string{"TEXT"}, len(routes), func(i int) []any { return []any{routes[i]} })
	const earliest = `(SELECT j.due_at FROM webhook_jobs j WHERE j.route = r.route AND j.status IN ('pending', 'failed')
			AND j.crash_count %s ORDER BY j.due_at, j.event_id LIMIT 1)`
	return `WITH r (route) AS (VALUES ` + rows + `)
		SELECT r.route, ` + fmt.Sprintf(earliest, "= 0") + `, ` + fmt.Sprintf(earliest, "> 0") + ` FROM r`, a
}

// Claim implements queue.Store.
func (s *SQLite) Claim(ctx context.Context, p queue.ClaimParams) ([]queue.Job, error) {
	return write(ctx, s.w, s.w.urgent, 0, func(ctx context.Context, q querier) ([]queue.Job, error) {
		return claim(ctx, q, p)
	})
}

// claimQuery takes the earliest due jobs of a route. The CTE is materialised
// because a plain IN (… LIMIT n) may be evaluated again and exceed n. It
// returns the state that each job was in, for the counters.
func claimQuery(suspects bool) string {
	crashed := "= 0"
	if suspects {
		crashed = "> 0"
	}
	return `WITH next AS MATERIALIZED (
			SELECT j.event_id, j.route, j.status FROM webhook_jobs j
			WHERE j.route = $1 AND j.status IN ('pending', 'failed') AND j.crash_count ` + crashed + `
				AND j.due_at <= $2 AND EXISTS (SELECT 1 FROM workers w WHERE w.id = $3)
			ORDER BY j.due_at, j.event_id LIMIT $4 /*lock*/)
		UPDATE webhook_jobs SET status = 'processing', claim_seq = claim_seq + 1, worker_id = $3, started_at = $5,
			finished_at = NULL
		WHERE route = $1 AND event_id IN (SELECT n.event_id FROM next n)
		RETURNING ` + returning(jobColumns) + `,
			(SELECT n.status FROM next n WHERE n.event_id = webhook_jobs.event_id AND n.route = webhook_jobs.route)`
}

func claim(ctx context.Context, q querier, p queue.ClaimParams) ([]queue.Job, error) {
	ds := deltas{}
	jobs, err := all(ctx, q, claimQuery(p.Suspects), args{p.Route, p.DueBy, p.WorkerID, p.Limit, p.Now},
		func(rows *sql.Rows, j *queue.Job) error {
			var from queue.Status
			if err := rows.Scan(append(jobFields(j), &from)...); err != nil {
				return err
			}
			ds.at(j.EventID).moved(from, j.Status)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("claim from route %s: %w", p.Route, err)
	}
	return jobs, ds.apply(ctx, q, p.Now)
}

// Settle implements queue.Store.
func (s *SQLite) Settle(ctx context.Context, c queue.Claim, st queue.Settlement) error {
	_, err := write(ctx, s.w, s.w.urgent, len(st.Result.Output), func(ctx context.Context, q querier) (struct{}, error) {
		return struct{}{}, settle(ctx, q, c, st)
	})
	return err
}

// settle is fenced by everything that names the claim.
func settle(ctx context.Context, q querier, c queue.Claim, st queue.Settlement) error {
	type row struct {
		maxRetries int
		startedAt  queue.Time
	}
	rows, err := all(ctx, q, `UPDATE webhook_jobs SET status = $5, retry_count = $6, error_message = $7, due_at = $8,
			crash_count = $9, unavailable_since = $10, match_pending = $11, finished_at = $12
		WHERE event_id = $1 AND route = $2 AND claim_seq = $3 AND worker_id = $4 AND status = 'processing'
		RETURNING webhook_jobs.max_retries, webhook_jobs.started_at`,
		args{
			c.EventID, c.Route, c.Seq, c.WorkerID, string(st.Status), st.RetryCount, st.ErrorMessage, st.DueAt,
			st.CrashCount, st.UnavailableSince, st.MatchPending, st.FinishedAt,
		},
		func(rows *sql.Rows, r *row) error { return rows.Scan(&r.maxRetries, &r.startedAt) })
	if err != nil {
		return fmt.Errorf("settle event %d, route %s: %w", c.EventID, c.Route, err)
	}
	if len(rows) == 0 {
		return fmt.Errorf("settle event %d, route %s, claim %d: %w", c.EventID, c.Route, c.Seq, queue.ErrStale)
	}
	if err := insertAttempt(ctx, q, c, st, rows[0].startedAt); err != nil {
		return err
	}
	d := &delta{tell: tellNothing, retryCount: st.RetryCount, maxRetries: rows[0].maxRetries}
	d.moved(queue.StatusProcessing, st.Status)
	switch st.Status {
	case queue.StatusCompleted:
		d.tell = tellGood
	case queue.StatusFailed, queue.StatusDeadLetter:
		d.tell, d.errorMessage = tellBad, queue.Clean(c.Route+": "+string(st.ErrorMessage))
		if st.Status == queue.StatusFailed {
			d.nextRetryAt = st.DueAt
		}
	case queue.StatusPending, queue.StatusProcessing: // given back: nothing has been learnt
	}
	return deltas{c.EventID: d}.apply(ctx, q, st.FinishedAt)
}

func insertAttempt(ctx context.Context, q querier, c queue.Claim, st queue.Settlement, startedAt queue.Time) error {
	_, err := exec(ctx, q, `INSERT INTO webhook_attempts (event_id, route, claim_seq, worker_id, outcome, started_at,
			finished_at, exit_code, http_status, error_message, output, version, config_hash)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		c.EventID, c.Route, c.Seq, c.WorkerID, string(st.Ending), startedAt, st.FinishedAt, st.Result.ExitCode,
		st.Result.HTTPStatus, st.ErrorMessage, st.Result.Output, queue.Text(st.Version), queue.Text(st.ConfigHash))
	if err != nil {
		return fmt.Errorf("record attempt %d of event %d, route %s: %w", c.Seq, c.EventID, c.Route, err)
	}
	return nil
}

// Move implements queue.Store.
func (s *SQLite) Move(ctx context.Context, jobs []queue.Job, m queue.Move) (int, error) {
	if len(jobs) == 0 {
		return 0, nil
	}
	return write(ctx, s.w, s.w.urgent, 0, func(ctx context.Context, q querier) (int, error) {
		return move(ctx, q, jobs, m)
	})
}

const moveSelection = `WITH want (event_id, route, claim_seq, status) AS (VALUES %s),
	next AS MATERIALIZED (
		SELECT j.event_id, j.route, j.status FROM want w JOIN webhook_jobs j
			ON j.event_id = w.event_id AND j.route = w.route AND j.claim_seq = w.claim_seq AND j.status = w.status
		ORDER BY j.event_id, j.route /*lock*/)
	UPDATE webhook_jobs SET %s
	WHERE (event_id, route) IN (SELECT n.event_id, n.route FROM next n)
	RETURNING %s, (SELECT n.status FROM next n WHERE n.event_id = webhook_jobs.event_id AND n.route = webhook_jobs.route)`

func moveQuery(jobs []queue.Job, m queue.Move) (string, args) {
	a := args{m.Now}
	set := `status = 'pending', due_at = $1, retry_count = 0, crash_count = 0, unavailable_since = NULL, finished_at = NULL`
	if m.To == queue.StatusDeadLetter {
		set = `status = 'dead_letter', finished_at = $1, error_message = ` + a.add(queue.Clean(m.Reason))
	}
	want := a.values([]string{"BIGINT", "TEXT", "BIGINT", "TEXT"}, len(jobs), func(i int) []any {
		return []any{jobs[i].EventID, jobs[i].Route, jobs[i].Seq, string(jobs[i].Status)}
	})
	return fmt.Sprintf(moveSelection, want, set, returning(jobColumns)), a
}

// move changes those of the jobs that are still in the state and at the claim
// at which they were selected.
func move(ctx context.Context, q querier, jobs []queue.Job, m queue.Move) (int, error) {
	query, a := moveQuery(jobs, m)
	ds := deltas{}
	var stopped []queue.Job
	moved, err := all(ctx, q, query, a, func(rows *sql.Rows, j *queue.Job) error {
		var from queue.Status
		if err := rows.Scan(append(jobFields(j), &from)...); err != nil {
			return err
		}
		d := ds.at(j.EventID)
		d.moved(from, j.Status)
		d.tell = tellRequeued
		if m.To == queue.StatusDeadLetter {
			d.tell, d.maxRetries, d.retryCount = tellBad, j.MaxRetries, j.RetryCount
			d.errorMessage = queue.Clean(j.Route + ": " + string(j.ErrorMessage))
		}
		if from == queue.StatusProcessing {
			stopped = append(stopped, *j)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, j := range stopped {
		st := queue.Settlement{Ending: queue.EndCancelled, ErrorMessage: j.ErrorMessage, FinishedAt: m.Now}
		if err := insertAttempt(ctx, q, j.Claim, st, j.StartedAt); err != nil {
			return 0, err
		}
	}
	return len(moved), ds.apply(ctx, q, m.Now)
}
