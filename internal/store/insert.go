package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"orchestrate/internal/queue"
)

// Insert implements queue.Store.
func (s *SQLite) Insert(ctx context.Context, in queue.Insertion) (queue.Receipt, error) {
	headers, err := json.Marshal(in.Payload.Headers)
	if err != nil {
		return queue.Receipt{}, fmt.Errorf("encode headers: %w", err)
	}
	size := len(in.Payload.Body) + len(headers)
	return write(ctx, s.w, s.w.intake, size, func(ctx context.Context, q querier) (queue.Receipt, error) {
		return insert(ctx, q, in, headers, queue.Now())
	})
}

// insert stores the event, or counts it where its delivery id is known. GitHub
// shares a delivery id among all hooks that one event fires, so another body
// from another hook is an event of its own.
func insert(ctx context.Context, q querier, in queue.Insertion, headers []byte, now queue.Time) (queue.Receipt, error) {
	deliveryID := in.Event.DeliveryID
	known, err := insertEvent(ctx, q, in, deliveryID, now)
	if err == nil && known == nil {
		var other bool
		if other, err = otherHook(ctx, q, in.Event); other {
			deliveryID += "#" + strconv.FormatInt(int64(in.Event.HookID), 10)
			known, err = insertEvent(ctx, q, in, deliveryID, now)
		}
	}
	switch {
	case err != nil:
		return queue.Receipt{}, err
	case known == nil:
		return countConflict(ctx, q, in.Event.Source, deliveryID, now)
	}
	r := queue.Receipt{EventID: known.id, DeliveryID: deliveryID, Duplicate: known.duplicates > 0, Routes: []string{}}
	if r.Duplicate {
		return redeliver(ctx, q, in, known, r, now)
	}
	if err := insertPayload(ctx, q, known.id, in.Payload.Body, headers); err != nil {
		return queue.Receipt{}, err
	}
	for _, j := range in.Jobs {
		if j.Status == queue.StatusPending {
			r.Routes = append(r.Routes, j.Route)
		}
	}
	return r, insertJobs(ctx, q, known.id, in.Jobs)
}

// present is the row that an insert made or found.
type present struct {
	id                   int64
	duplicates, dead     int
	requeuedAt, purgedAt queue.Time
}

// insertEvent returns nil when the delivery id is known with another body. A
// duplicate is counted by a write of its own, so that a row that a recovery
// found, but no sync covered, is never acknowledged.
func insertEvent(ctx context.Context, q querier, in queue.Insertion, deliveryID string, now queue.Time) (*present, error) {
	e := in.Event
	var d delta
	var firstError queue.Text
	maxRetries, processedAt := 0, queue.Time(0)
	for _, j := range in.Jobs {
		d.count(j.Status, 1)
		maxRetries = max(maxRetries, j.MaxRetries)
		if j.ErrorMessage != "" && firstError == "" {
			firstError = queue.Clean(j.Route + ": " + string(j.ErrorMessage))
		}
	}
	if d.pending == 0 {
		processedAt = now
	}
	rows, err := all(ctx, q, `INSERT INTO webhook_events (source, delivery_id, event_type, action, repository, sender, ref,
			number, hook_id, n_pending, n_dead, max_retries, error_message, received_at, processed_at, created_at, updated_at,
			body_size, body_sha256)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16, $17, $18)
		ON CONFLICT (delivery_id, source) DO UPDATE SET duplicate_count = webhook_events.duplicate_count + 1,
			last_duplicate_at = excluded.received_at, updated_at = excluded.updated_at
		WHERE webhook_events.body_sha256 = excluded.body_sha256
		RETURNING webhook_events.id, webhook_events.duplicate_count, webhook_events.n_dead, webhook_events.requeued_at,
			webhook_events.purged_at`,
		args{
			e.Source, deliveryID, e.EventType, e.Action, e.Repository, e.Sender, e.Ref, e.Number, e.HookID,
			d.pending, d.dead, maxRetries, firstError, e.ReceivedAt, processedAt, now, e.BodySize, e.BodySHA256,
		},
		func(rows *sql.Rows, p *present) error {
			return rows.Scan(&p.id, &p.duplicates, &p.dead, &p.requeuedAt, &p.purgedAt)
		})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}

func otherHook(ctx context.Context, q querier, e *queue.Event) (bool, error) {
	hook, err := one[queue.Int](ctx, q, `SELECT hook_id FROM webhook_events WHERE delivery_id = $1 AND source = $2`, e.DeliveryID, e.Source)
	return hook != 0 && e.HookID != 0 && hook != e.HookID, err
}

func countConflict(ctx context.Context, q querier, source, deliveryID string, now queue.Time) (queue.Receipt, error) {
	id, err := one[int64](ctx, q, `UPDATE webhook_events SET conflict_count = conflict_count + 1, updated_at = $1
		WHERE delivery_id = $2 AND source = $3 RETURNING webhook_events.id`, now, deliveryID, source)
	return queue.Receipt{EventID: id, DeliveryID: deliveryID, Conflict: true, Routes: []string{}}, err
}

// redeliver requeues the dead jobs of an event that came again, if that is
// wanted and was not done just now.
func redeliver(ctx context.Context, q querier, in queue.Insertion, p *present, r queue.Receipt, now queue.Time) (queue.Receipt, error) {
	if !in.RequeueDead || p.dead == 0 || p.purgedAt != 0 {
		return r, nil
	}
	if age := now.Sub(p.requeuedAt); p.requeuedAt != 0 && age >= 0 && age < queue.RedeliveryPause {
		r.Limited = true
		return r, nil
	}
	dead, err := all(ctx, q, `SELECT `+jobColumns+` FROM webhook_jobs WHERE event_id = $1 AND status = 'dead_letter' ORDER BY route`,
		args{p.id}, scanJob)
	if err != nil {
		return queue.Receipt{}, err
	}
	if _, err := move(ctx, q, dead, queue.Move{To: queue.StatusPending, Now: now}); err != nil {
		return queue.Receipt{}, err
	}
	for _, j := range dead {
		r.Routes = append(r.Routes, j.Route)
	}
	return r, nil
}

// Codecs of a stored body.
const codecRaw = 0

func insertPayload(ctx context.Context, q querier, id int64, body, headers []byte) error {
	if body == nil {
		body = []byte{}
	}
	_, err := exec(ctx, q, `INSERT INTO webhook_payloads (event_id, headers, codec, body) VALUES ($1, $2, $3, $4)`,
		id, headers, codecRaw, body)
	return err
}

var jobCasts = []string{"BIGINT", "TEXT", "TEXT", "BIGINT", "TEXT", "BIGINT", "BIGINT", "BIGINT"}

func insertJobs(ctx context.Context, q querier, id int64, jobs []queue.Job) error {
	if len(jobs) == 0 {
		return nil
	}
	var a args
	rows := a.values(jobCasts, len(jobs), func(i int) []any {
		j := jobs[i]
		return []any{id, j.Route, string(j.Status), j.MaxRetries, j.ErrorMessage, j.DueAt, j.MatchPending, j.FinishedAt}
	})
	_, err := exec(ctx, q, `INSERT INTO webhook_jobs
		(event_id, route, status, max_retries, error_message, due_at, match_pending, finished_at) VALUES `+rows, a...)
	return err
}

// AddJob implements queue.Store.
func (s *SQLite) AddJob(ctx context.Context, j queue.Job, now queue.Time) error {
	_, err := write(ctx, s.w, s.w.urgent, 0, func(ctx context.Context, q querier) (struct{}, error) {
		return struct{}{}, addJob(ctx, q, j, now)
	})
	return err
}

func addJob(ctx context.Context, q querier, j queue.Job, now queue.Time) error {
	e, err := event(ctx, q, j.EventID)
	switch {
	case err != nil:
		return err
	case e.PurgedAt != 0:
		return fmt.Errorf("event %d: %w: its payload was purged", e.ID, queue.ErrRefused)
	case slices.Contains(e.Routes, j.Route):
		return fmt.Errorf("event %d: %w: it has a job for route %s", e.ID, queue.ErrRefused, j.Route)
	}
	if err := insertJobs(ctx, q, j.EventID, []queue.Job{j}); err != nil {
		return err
	}
	return deltas{j.EventID: {pending: 1, tell: tellRequeued}}.apply(ctx, q, now)
}
