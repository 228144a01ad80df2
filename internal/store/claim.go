package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"orchestrate/internal/queue"
)

// Due implements queue.Store.
func (s *shared) Due(ctx context.Context, routes []string) ([]queue.Due, error) {
	return s.due(ctx, routes, nil)
}

func (s *shared) due(ctx context.Context, routes []string, from map[string]queue.Time) ([]queue.Due, error) {
	if len(routes) == 0 {
		return nil, nil
	}
	query, a := dueQuery(routes, from)
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

// dueQuery seeks twice for each route, however many jobs wait: from where it is
// told, if it is, and for suspects, which are few, from the beginning.
func dueQuery(routes []string, from map[string]queue.Time) (statement, args) {
	var a args
	rows := a.values([]statement{"TEXT", "BIGINT"}, len(routes), func(i int) []any {
		if t, told := from[routes[i]]; told {
			return []any{routes[i], int64(t)}
		}
		return []any{routes[i], int64(fromBeginning)}
	})
	const earliest = `(SELECT j.due_at FROM webhook_jobs j WHERE j.route = r.route AND j.status IN ('pending', 'failed')
			AND j.crash_count %s ORDER BY j.due_at, j.event_id LIMIT 1)`
	return `WITH r (route, beginning) AS (VALUES ` + rows + `)
		SELECT r.route, ` + fillIn(earliest, "= 0 AND j.due_at >= r.beginning") + `, ` + fillIn(earliest, "> 0") + ` FROM r`, a
}

// Claim implements queue.Store.
func (s *shared) Claim(ctx context.Context, p queue.ClaimParams) ([]queue.Job, error) {
	return write(ctx, s, op{}, func(ctx context.Context, q querier) ([]queue.Job, error) {
		p := p
		if p.Clock != nil { // it may have been set, and due times with it, since DueBy was read
			p.DueBy = min(p.DueBy, p.Clock())
		}
		return claim(ctx, q, p)
	})
}

// claimQuery takes the earliest due jobs of a route. The CTE is materialised
// because a plain IN (… LIMIT n) may be evaluated again and exceed n. It
// returns the state that each job was in, for the counters.
func claimQuery(suspects bool) statement { return "WITH " + nextJobs(suspects) + claimNext }

func nextJobs(suspects bool) statement {
	var crashed statement = "= 0"
	if suspects {
		crashed = "> 0"
	}
	return `next AS MATERIALIZED (
			SELECT j.event_id, j.route, j.status FROM webhook_jobs j
			WHERE j.route = $1 AND j.status IN ('pending', 'failed') AND j.crash_count ` + crashed + `
				AND j.due_at <= $2 /*and from*/ AND EXISTS (SELECT 1 FROM workers w WHERE w.id = $3 /*lock worker*/)
			ORDER BY j.due_at, j.event_id LIMIT $4 /*skip locked*/)`
}

var claimNext = `
		UPDATE webhook_jobs SET status = 'processing', claim_seq = claim_seq + 1, worker_id = $3, started_at = $5,
			finished_at = NULL
		WHERE route = $1 AND event_id IN (SELECT n.event_id FROM next n)
		RETURNING ` + returning(jobColumns) + `,
			(SELECT n.status FROM next n WHERE n.event_id = webhook_jobs.event_id AND n.route = webhook_jobs.route) AS was`

func claim(ctx context.Context, q querier, p queue.ClaimParams) ([]queue.Job, error) {
	ds := deltas{}
	jobs, err := all(ctx, q, claimQuery(p.Suspects), args{p.Route, p.DueBy, p.WorkerID, p.Limit, p.Now},
		func(rows *sql.Rows, j *queue.Job) error {
			var from queue.Status
			if err := rows.Scan(append(jobFields(j), &from)...); err != nil {
				return err
			}
			ds.at(j.EventID, p.Now).moved(from, j.Status)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("claim from route %s: %w", p.Route, err)
	}
	return jobs, ds.apply(ctx, q)
}

// Settle implements queue.Store.
func (s *shared) Settle(ctx context.Context, c queue.Claim, st queue.Settlement) error {
	_, err := write(ctx, s, op{size: len(st.Result.Output), wakes: true}, func(ctx context.Context, q querier) (struct{}, error) {
		stale, err := settle(ctx, q, []settling{{Claim: c, Settlement: st}})
		if err == nil && len(stale) > 0 {
			err = staleError(c)
		}
		return struct{}{}, err
	})
	return err
}

func staleError(c queue.Claim) error {
	return fmt.Errorf("settle event %d, route %s, claim %d: %w", c.EventID, c.Route, c.Seq, queue.ErrStale)
}

// settling is a claim with what becomes of its job.
type settling struct {
	queue.Claim
	queue.Settlement
	startedAt  queue.Time
	maxRetries int
}

var settleCasts = []statement{
	"BIGINT", "TEXT", "BIGINT", "TEXT", "TEXT", "BIGINT", "TEXT", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "BIGINT",
}

// settleQuery is fenced by everything that names a claim.
func settleQuery(items []settling) (statement, args) {
	var a args
	rows := a.values(settleCasts, len(items), func(i int) []any {
		s := items[i]
		return []any{
			s.EventID, s.Route, s.Seq, s.WorkerID, string(s.Status), s.RetryCount, s.ErrorMessage, s.DueAt,
			s.CrashCount, s.UnavailableSince, bit(s.MatchPending), s.FinishedAt,
		}
	})
	return `WITH s (event_id, route, claim_seq, worker_id, status, retry_count, error_message, due_at, crash_count,
			unavailable_since, match_pending, finished_at) AS (VALUES ` + rows + `),
		next AS MATERIALIZED (
			SELECT s.* FROM s JOIN webhook_jobs j ON j.event_id = s.event_id AND j.route = s.route
			WHERE j.claim_seq = s.claim_seq AND j.worker_id = s.worker_id AND j.status = 'processing'
			ORDER BY s.event_id, s.route /*lock jobs*/)` + settleNext + `
		RETURNING webhook_jobs.event_id, webhook_jobs.route, webhook_jobs.max_retries, webhook_jobs.started_at`, a
}

const settleNext = `
		UPDATE webhook_jobs SET status = n.status, retry_count = n.retry_count, error_message = n.error_message,
			due_at = n.due_at, crash_count = n.crash_count, unavailable_since = n.unavailable_since,
			match_pending = n.match_pending, finished_at = n.finished_at
		FROM next n WHERE webhook_jobs.event_id = n.event_id AND webhook_jobs.route = n.route`

// maxSettled bounds one statement: a database takes so many values only.
const maxSettled = 256

// settle ends claims, one for a job: jobs, attempts and counters together. It
// returns those that are stale, of which nothing is changed.
func settle(ctx context.Context, q querier, items []settling) (stale []settling, err error) {
	for chunk := range slices.Chunk(items, maxSettled) {
		more, err := settleChunk(ctx, q, chunk)
		if err != nil {
			return nil, err
		}
		stale = append(stale, more...)
	}
	return stale, nil
}

func settleChunk(ctx context.Context, q querier, items []settling) (stale []settling, err error) {
	at := make(map[queue.JobKey]*settling, len(items))
	for i := range items {
		at[items[i].JobKey] = &items[i]
	}
	query, a := settleQuery(items)
	var settled []settling
	err = each(ctx, q, query, a, func(rows *sql.Rows) error {
		var k queue.JobKey
		var s settling
		if err := rows.Scan(&k.EventID, &k.Route, &s.maxRetries, &s.startedAt); err != nil {
			return err
		}
		s.Claim, s.Settlement = at[k].Claim, at[k].Settlement
		delete(at, k)
		settled = append(settled, s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("settle event %d, route %s: %w", items[0].EventID, items[0].Route, err)
	}
	for _, s := range items {
		if at[s.JobKey] != nil {
			stale = append(stale, s)
		}
	}
	if err := insertAttempts(ctx, q, settled); err != nil {
		return nil, err
	}
	ds := deltas{}
	for _, s := range settled {
		ds.at(s.EventID, s.FinishedAt).settled(s)
	}
	return stale, ds.apply(ctx, q)
}

// settled counts a job's end, and what is told of it.
func (d *delta) settled(s settling) {
	d.moved(queue.StatusProcessing, s.Status)
	switch s.Status {
	case queue.StatusCompleted:
		if d.tell <= tellGood {
			d.tell, d.retryCount, d.maxRetries, d.errorMessage = tellGood, s.RetryCount, s.maxRetries, ""
		}
	case queue.StatusFailed, queue.StatusDeadLetter:
		d.tell, d.retryCount, d.maxRetries, d.errorMessage = tellBad, s.RetryCount, s.maxRetries, s.told()
		if s.Status == queue.StatusFailed {
			d.nextRetryAt = s.DueAt
		}
	case queue.StatusPending, queue.StatusProcessing: // given back: nothing has been learnt
	}
}

// told is what an event says of a job that failed.
func (s settling) told() queue.Text {
	if s.Status != queue.StatusFailed && s.Status != queue.StatusDeadLetter {
		return ""
	}
	return queue.Clean(s.Route + ": " + string(s.ErrorMessage))
}

func insertAttempts(ctx context.Context, q querier, ended []settling) error {
	if len(ended) == 0 {
		return nil
	}
	var a args
	rows := a.values(nil, len(ended), func(i int) []any {
		s := ended[i]
		return []any{
			s.EventID, s.Route, s.Seq, s.WorkerID, string(s.Ending), s.startedAt, s.FinishedAt, s.Result.ExitCode,
			s.Result.HTTPStatus, s.ErrorMessage, s.Result.Output, queue.Text(s.Version), queue.Text(s.ConfigHash),
		}
	})
	_, err := exec(ctx, q, `INSERT INTO webhook_attempts (event_id, route, claim_seq, worker_id, outcome, started_at,
			finished_at, exit_code, http_status, error_message, output, version, config_hash) VALUES `+rows, a...)
	if err != nil {
		return fmt.Errorf("record attempt %d of event %d, route %s: %w", ended[0].Seq, ended[0].EventID, ended[0].Route, err)
	}
	return nil
}

// bit is how both databases keep a truth.
func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// Move implements queue.Store.
func (s *shared) Move(ctx context.Context, jobs []queue.Job, m queue.Move) (int, error) {
	if len(jobs) == 0 {
		return 0, nil
	}
	return write(ctx, s, op{wakes: true}, func(ctx context.Context, q querier) (int, error) {
		moved, err := move(ctx, q, jobs, m)
		return len(moved), err
	})
}

const moveSelection = `WITH want (event_id, route, claim_seq, status) AS (VALUES %s),
	next AS MATERIALIZED (
		SELECT j.event_id, j.route, j.status FROM want w JOIN webhook_jobs j
			ON j.event_id = w.event_id AND j.route = w.route AND j.claim_seq = w.claim_seq AND j.status = w.status
		ORDER BY j.event_id, j.route /*lock jobs*/)
	UPDATE webhook_jobs SET %s
	WHERE (event_id, route) IN (SELECT n.event_id, n.route FROM next n)
	RETURNING %s, (SELECT n.status FROM next n WHERE n.event_id = webhook_jobs.event_id AND n.route = webhook_jobs.route)`

func moveQuery(jobs []queue.Job, m queue.Move) (statement, args) {
	a := args{m.Now}
	var set statement = `status = 'pending', due_at = $1, retry_count = 0, crash_count = 0, unavailable_since = NULL, finished_at = NULL`
	if m.To == queue.StatusDeadLetter {
		set = `status = 'dead_letter', finished_at = $1, error_message = ` + a.add(queue.Clean(m.Reason))
	}
	want := a.values([]statement{"BIGINT", "TEXT", "BIGINT", "TEXT"}, len(jobs), func(i int) []any {
		return []any{jobs[i].EventID, jobs[i].Route, jobs[i].Seq, string(jobs[i].Status)}
	})
	return fillIn(moveSelection, want, set, returning(jobColumns)), a
}

// move changes those of the jobs that are still in the state and at the claim
// at which they were selected, and returns those.
func move(ctx context.Context, q querier, jobs []queue.Job, m queue.Move) ([]queue.Job, error) {
	query, a := moveQuery(jobs, m)
	ds := deltas{}
	var stopped []settling
	moved, err := all(ctx, q, query, a, func(rows *sql.Rows, j *queue.Job) error {
		var from queue.Status
		if err := rows.Scan(append(jobFields(j), &from)...); err != nil {
			return err
		}
		d := ds.at(j.EventID, m.Now)
		d.moved(from, j.Status)
		d.tell = tellRequeued
		if m.To == queue.StatusDeadLetter {
			d.tell, d.maxRetries, d.retryCount = tellBad, j.MaxRetries, j.RetryCount
			d.errorMessage = queue.Clean(j.Route + ": " + string(j.ErrorMessage))
		}
		if from == queue.StatusProcessing {
			st := queue.Settlement{Ending: queue.EndCancelled, ErrorMessage: j.ErrorMessage, FinishedAt: m.Now}
			stopped = append(stopped, settling{Claim: j.Claim, Settlement: st, startedAt: j.StartedAt})
		}
		return nil
	})
	if err == nil {
		err = insertAttempts(ctx, q, stopped)
	}
	if err == nil {
		err = ds.apply(ctx, q)
	}
	return moved, err
}
