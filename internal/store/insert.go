package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"orchestrate/internal/queue"
)

// Insert implements queue.Store.
func (s *shared) Insert(ctx context.Context, in queue.Insertion) (queue.Receipt, error) {
	d, err := newDelivery(in, s.Now())
	if err != nil {
		return queue.Receipt{}, err
	}
	return s.insert(ctx, &op{}, d)
}

// delivery is an insertion with what is the same whenever it is tried.
type delivery struct {
	queue.Insertion
	headers []byte
	now     queue.Time // becomes created_at
}

func newDelivery(in queue.Insertion, now queue.Time) (delivery, error) {
	headers, err := json.Marshal(in.Payload.Headers)
	if err != nil {
		return delivery{}, fmt.Errorf("encode headers: %w", err)
	}
	return delivery{in, headers, now}, nil
}

// started are the jobs that the delivery starts where it is new.
func (d delivery) started(id int64, deliveryID string) queue.Receipt {
	r := queue.Receipt{EventID: id, DeliveryID: deliveryID, Routes: []string{}}
	for _, j := range d.Jobs {
		if j.Status == queue.StatusPending {
			r.Routes = append(r.Routes, j.Route)
		}
	}
	return r
}

func (d delivery) size() int { return len(d.Payload.Body) + len(d.headers) }

// insert needs no mark of a commit that made an event: when it runs again, it
// meets that event.
func (s *shared) insert(ctx context.Context, o *op, d delivery) (queue.Receipt, error) {
	isNew := false
	o.intake, o.urgent, o.size, o.wakes, o.recognises = true, d.size() <= maxGrouped, d.size(), len(d.Jobs) > 0, func() bool { return isNew }
	return writeKnowing(ctx, s, o, func(ctx context.Context, q querier) (queue.Receipt, error) {
		r, err := insert(ctx, q, d, o.inDoubt)
		isNew = err == nil && !r.Duplicate && !r.Conflict
		return r, err
	})
}

// insert stores the event, or counts it where its delivery id is known. GitHub
// shares a delivery id among all hooks that one event fires, so another body
// from another hook is an event of its own. Where the commit of an earlier run
// is in doubt, an event that was made at the same millisecond, by the clock of
// this process, is the one that it made: errCommitted.
func insert(ctx context.Context, q querier, d delivery, inDoubt bool) (queue.Receipt, error) {
	deliveryID := d.Event.DeliveryID
	known, err := insertEvent(ctx, q, d, deliveryID)
	if err == nil && known == nil {
		var other bool
		if other, err = otherHook(ctx, q, d.Event); other {
			deliveryID += "#" + strconv.FormatInt(int64(d.Event.HookID), 10)
			known, err = insertEvent(ctx, q, d, deliveryID)
		}
	}
	switch {
	case err != nil:
		return queue.Receipt{}, err
	case known == nil:
		return countConflict(ctx, q, d.Event.Source, deliveryID, d.now)
	case inDoubt && known.duplicates > 0 && known.createdAt == d.now && known.receivedAt == d.Event.ReceivedAt:
		return d.started(known.id, deliveryID), errCommitted
	case known.duplicates > 0:
		r := queue.Receipt{EventID: known.id, DeliveryID: deliveryID, Duplicate: true, Routes: []string{}}
		return redeliver(ctx, q, d.Insertion, known, r, d.now)
	}
	if err := insertPayload(ctx, q, known.id, d.Payload.Body, d.headers); err != nil {
		return queue.Receipt{}, err
	}
	return d.started(known.id, deliveryID), insertJobs(ctx, q, known.id, d.Jobs)
}

// present is the row that an insert made or found.
type present struct {
	id                    int64
	duplicates, dead      int
	requeuedAt, purgedAt  queue.Time
	createdAt, receivedAt queue.Time
}

const eventInsertion = `INSERT INTO webhook_events (source, delivery_id, event_type, action, repository, sender, ref,
		number, hook_id, n_pending, n_dead, max_retries, error_message, received_at, processed_at, created_at, updated_at,
		body_size, body_sha256)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16, $17, $18)
	ON CONFLICT (delivery_id, source) `

// eventArgs are the values of eventInsertion.
func (d delivery) eventArgs(deliveryID string) args {
	e := d.Event
	var sum delta
	var firstError queue.Text
	maxRetries, processedAt := 0, queue.Time(0)
	for _, j := range d.Jobs {
		sum.count(j.Status, 1)
		maxRetries = max(maxRetries, j.MaxRetries)
		if j.ErrorMessage != "" && firstError == "" {
			firstError = queue.Clean(j.Route + ": " + string(j.ErrorMessage))
		}
	}
	if sum.pending == 0 {
		processedAt = d.now
	}
	return args{
		e.Source, deliveryID, e.EventType, e.Action, e.Repository, e.Sender, e.Ref, e.Number, e.HookID,
		sum.pending, sum.dead, maxRetries, firstError, e.ReceivedAt, processedAt, d.now, e.BodySize, e.BodySHA256,
	}
}

// insertEvent returns nil when the delivery id is known with another body. A
// duplicate is counted by a write of its own, so that a row that a recovery
// found, but no sync covered, is never acknowledged.
func insertEvent(ctx context.Context, q querier, d delivery, deliveryID string) (*present, error) {
	rows, err := all(ctx, q, eventInsertion+`DO UPDATE SET duplicate_count = webhook_events.duplicate_count + 1,
			last_duplicate_at = excluded.received_at, updated_at = excluded.updated_at
		WHERE webhook_events.body_sha256 = excluded.body_sha256
		RETURNING webhook_events.id, webhook_events.duplicate_count, webhook_events.n_dead, webhook_events.requeued_at,
			webhook_events.purged_at, webhook_events.created_at, webhook_events.received_at`, d.eventArgs(deliveryID),
		func(rows *sql.Rows, p *present) error {
			return rows.Scan(&p.id, &p.duplicates, &p.dead, &p.requeuedAt, &p.purgedAt, &p.createdAt, &p.receivedAt)
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
	moved, err := move(ctx, q, dead, queue.Move{To: queue.StatusPending, Now: now})
	if err != nil {
		return queue.Receipt{}, err
	}
	for _, j := range moved {
		r.Routes = append(r.Routes, j.Route)
	}
	slices.Sort(r.Routes)
	return r, nil
}

// Codecs of a stored body.
const codecRaw = 0

func insertPayload(ctx context.Context, q querier, id int64, body, headers []byte) error {
	_, err := exec(ctx, q, `INSERT INTO webhook_payloads (event_id, headers, codec, body) VALUES ($1, $2, $3, $4)`,
		id, headers, codecRaw, notNull(body))
	return err
}

func insertJobs(ctx context.Context, q querier, id int64, jobs []queue.Job) error {
	if len(jobs) == 0 {
		return nil
	}
	var a args
	rows := a.values(nil, len(jobs), func(i int) []any { return append([]any{id}, jobValues(jobs[i])...) })
	_, err := exec(ctx, q, `INSERT INTO webhook_jobs (event_id, `+newJobColumns+`) VALUES `+rows, a...)
	return err
}

const newJobColumns = "route, status, max_retries, error_message, due_at, match_pending, finished_at"

func jobValues(j queue.Job) []any {
	return []any{j.Route, string(j.Status), j.MaxRetries, j.ErrorMessage, j.DueAt, bit(j.MatchPending), j.FinishedAt}
}

// notNull keeps an empty body from being no body.
func notNull(body []byte) []byte {
	if body == nil {
		return []byte{}
	}
	return body
}

// AddJob implements queue.Store.
func (s *shared) AddJob(ctx context.Context, j queue.Job, now queue.Time) error {
	_, err := write(ctx, s, op{wakes: true}, func(ctx context.Context, q querier) (struct{}, error) {
		return struct{}{}, addJob(ctx, q, j, now)
	})
	return err
}

func addJob(ctx context.Context, q querier, j queue.Job, now queue.Time) error {
	// Nobody purges it, or adds the same, in between.
	_, err := one[int64](ctx, q, `SELECT id FROM webhook_events WHERE id = $1 /*lock event*/`, j.EventID)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
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
	return deltas{j.EventID: {pending: 1, tell: tellRequeued, now: now}}.apply(ctx, q)
}
