package store

import (
	"context"
	"database/sql"
	"fmt"

	"orchestrate/internal/queue"
)

// restampQuery reads the index of what is due, from After on.
const restampQuery = `WITH next AS MATERIALIZED (
		SELECT j.event_id, j.route FROM webhook_jobs j
		WHERE j.route = $1 AND j.status IN ('pending', 'failed') AND j.due_at > $2 AND %s
		ORDER BY j.event_id, j.route LIMIT $3 /*lock jobs*/)
	UPDATE webhook_jobs SET %s
	WHERE (event_id, route) IN (SELECT n.event_id, n.route FROM next n)
	RETURNING %s`

// Restamp implements queue.Store. When a retry failed is moved with it, and so is
// the begin of its outage: thereby two who notice a step one after the other move
// it once, and the second not what was stored after the first had.
func (s *shared) Restamp(ctx context.Context, p queue.Restamp) (int, error) {
	query, a := restampStatement(p)
	if p.By == 0 { // as nearly always: look before taking the write lock
		n, err := one[int64](ctx, s.reads, `SELECT count(*) FROM (SELECT 1 FROM webhook_jobs j WHERE j.route = $1
			AND j.status IN ('pending', 'failed') AND j.due_at > $2 AND `+stampedAhead+` LIMIT 1) x`, p.Route, p.After)
		if err != nil || n == 0 {
			return 0, classify(err)
		}
	}
	return write(ctx, s, op{wakes: true}, func(ctx context.Context, q querier) (int, error) {
		ds := deltas{}
		moved, err := all(ctx, q, query, a, func(rows *sql.Rows, j *queue.Job) error {
			if err := scanJob(rows, j); err != nil {
				return err
			}
			if j.Status == queue.StatusFailed {
				ds.at(j.EventID, p.Now).nextRetryAt = j.DueAt
			}
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("restamp route %s: %w", p.Route, err)
		}
		return len(moved), ds.apply(ctx, q)
	})
}

// stampedAhead: what is pending was never due later than it was stored.
const stampedAhead = `(j.status = 'pending' OR j.finished_at > $2)`

func restampStatement(p queue.Restamp) (statement, args) {
	a := args{p.Route, p.After, p.Limit}
	if p.By != 0 {
		before, by := a.add(p.Before), a.add(p.By.Milliseconds())
		by = "CAST(" + by + " AS BIGINT)"
		return fillIn(restampQuery, "j.status = 'failed' AND j.finished_at <= $2 AND j.due_at < "+before,
			"due_at = due_at + "+by+", finished_at = finished_at + "+by+", unavailable_since = unavailable_since + "+by,
			returning(jobColumns)), a
	}
	now := "CAST(" + a.add(p.Now) + " AS BIGINT)"
	return fillIn(restampQuery, stampedAhead, `due_at = CASE WHEN status = 'pending' THEN `+now+` ELSE `+now+` + due_at - finished_at END,
		finished_at = CASE WHEN status = 'pending' THEN finished_at ELSE `+now+` END,
		unavailable_since = CASE WHEN finished_at > $2 THEN `+now+` + unavailable_since - finished_at ELSE unavailable_since END`, returning(jobColumns)), a
}
