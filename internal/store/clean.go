package store

import (
	"context"
	"database/sql"
	"time"

	"orchestrate/internal/queue"
)

const (
	// cleanScan is how many rows a cleanup looks at in one read: a few
	// milliseconds, as long readers stop checkpoints.
	cleanScan = 1000
	// clockSlack: ids and times of receipt grow together, but for clocks that
	// were wrong. A whole read without a row older than the age asked for plus
	// this, or from the future, ends the walk.
	clockSlack = 24 * time.Hour
)

// candidate is what decides whether an event may go.
type candidate struct {
	id         int64
	receivedAt queue.Time
	open, dead int
	purged     bool
}

const cleanQuery = `SELECT id, received_at, n_pending + n_processing + n_failed, n_dead, purged_at IS NOT NULL
	FROM webhook_events WHERE id > $1 ORDER BY id LIMIT $2`

// Clean implements queue.Store. It reads ahead, then deletes what it chose in
// one transaction that checks each row again.
func (s *shared) Clean(ctx context.Context, p queue.CleanParams) (queue.Cleaned, error) {
	rows, err := all(ctx, s.reads, cleanQuery, args{p.After, cleanScan}, func(rows *sql.Rows, c *candidate) error {
		return rows.Scan(&c.id, &c.receivedAt, &c.open, &c.dead, &c.purged)
	})
	if err != nil {
		return queue.Cleaned{}, classify(err)
	}
	now := s.Now()
	out, forget, purge := chooseOld(rows, p, now)
	if p.DryRun || len(forget)+len(purge) == 0 {
		return out, nil
	}
	done, err := write(ctx, s, op{}, func(ctx context.Context, q querier) (queue.Cleaned, error) {
		return clean(ctx, q, p, forget, purge, now)
	})
	out.Missed = out.Deleted + out.Purged + out.Forgot - done.Deleted - done.Purged - done.Forgot
	out.Deleted, out.Purged, out.Forgot = done.Deleted, done.Purged, done.Forgot
	return out, err
}

// chooseOld sorts rows into those to forget, those to purge and those to keep,
// until the chunk is full.
func chooseOld(rows []candidate, p queue.CleanParams, now queue.Time) (out queue.Cleaned, forget, purge []int64) {
	out = queue.Cleaned{Last: p.After, Done: len(rows) < cleanScan}
	young := 0
	for i, c := range rows {
		if len(forget)+len(purge) == p.Limit {
			out.Done = false
			return out, forget, purge
		}
		out.Last = c.id
		switch {
		case c.receivedAt >= p.Before:
			if c.receivedAt >= p.Before.Add(clockSlack) && c.receivedAt <= now {
				young++
			}
		case c.purged && c.receivedAt < p.Forget:
			forget, out.Forgot = append(forget, c.id), out.Forgot+1
		case c.purged:
		case c.open > 0:
			out.KeptOpen++
		case c.dead > 0 && !p.IncludeDead:
			out.KeptDead++
		case c.receivedAt < p.Forget:
			forget, out.Deleted = append(forget, c.id), out.Deleted+1
		default:
			purge, out.Purged = append(purge, c.id), out.Purged+1
		}
		if i == cleanScan-1 && young == cleanScan {
			out.Done = true
		}
	}
	return out, forget, purge
}

// terminal repeats the decision inside the transaction: an operator may have
// requeued a job meanwhile.
func terminal(includeDead bool) statement {
	const cond = ` AND n_pending = 0 AND n_processing = 0 AND n_failed = 0`
	if includeDead {
		return cond
	}
	return cond + ` AND (n_dead = 0 OR purged_at IS NOT NULL)`
}

func clean(ctx context.Context, q querier, p queue.CleanParams, forget, purge []int64, now queue.Time) (out queue.Cleaned, err error) {
	if len(forget) > 0 {
		var a args
		gone, err := all(ctx, q, `DELETE FROM webhook_events WHERE id IN (`+list(&a, forget)+`)`+terminal(p.IncludeDead)+
			` RETURNING webhook_events.purged_at`, a, func(rows *sql.Rows, at *queue.Time) error { return rows.Scan(at) })
		if err != nil {
			return out, err
		}
		for _, purgedAt := range gone {
			if purgedAt != 0 {
				out.Forgot++
			} else {
				out.Deleted++
			}
		}
	}
	if len(purge) > 0 {
		out.Purged, err = purgeEvents(ctx, q, purge, terminal(p.IncludeDead), now)
	}
	return out, err
}

func purgeEvents(ctx context.Context, q querier, ids []int64, cond statement, now queue.Time) (int, error) {
	a := args{now}
	purged, err := all(ctx, q, `UPDATE webhook_events SET purged_at = $1, updated_at = $1
		WHERE id IN (`+list(&a, ids)+`) AND purged_at IS NULL`+cond+` RETURNING webhook_events.id`, a,
		func(rows *sql.Rows, id *int64) error { return rows.Scan(id) })
	if err != nil || len(purged) == 0 {
		return 0, err
	}
	for _, table := range []statement{"webhook_payloads", "webhook_attempts", "webhook_jobs"} {
		var a args
		if _, err := exec(ctx, q, `DELETE FROM `+table+` WHERE event_id IN (`+list(&a, purged)+`)`, a...); err != nil {
			return 0, err
		}
	}
	return len(purged), nil
}
