package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"orchestrate/internal/queue"
)

// statement is SQL, or a part of it. Constants become one by themselves, and
// nothing else does: where a text is to be one it is converted, which a test
// allows in few places, none of which has a text from outside.
type statement string

// join puts parts together.
func join(parts []statement, separator statement) statement {
	var b strings.Builder
	for i, p := range parts {
		if i > 0 {
			b.WriteString(string(separator))
		}
		b.WriteString(string(p))
	}
	return statement(b.String())
}

// fillIn puts parts into the places of a form, each marked by %s.
func fillIn(form statement, parts ...statement) statement {
	values := make([]any, len(parts))
	for i, p := range parts {
		values[i] = p
	}
	return statement(fmt.Sprintf(string(form), values...))
}

func replace(s, old, with statement) statement {
	return statement(strings.Replace(string(s), string(old), string(with), 1))
}

func digits[N ~int | ~int64](n N) statement { return statement(strconv.FormatInt(int64(n), 10)) }

// args collects the values of a statement and hands out their placeholders.
type args []any

func (a *args) add(v any) statement {
	*a = append(*a, v)
	return "$" + digits(len(*a))
}

// values renders rows of placeholders, cast as told, for a VALUES list. The
// casts are for PostgreSQL, which must know a parameter's type; what is inserted
// as it stands needs none.
func (a *args) values(casts []statement, rows int, row func(i int) []any) statement {
	var b strings.Builder
	for i := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		for j, v := range row(i) {
			if j > 0 {
				b.WriteString(", ")
			}
			if casts == nil {
				b.WriteString(string(a.add(v)))
				continue
			}
			fmt.Fprintf(&b, "CAST(%s AS %s)", a.add(v), casts[j])
		}
		b.WriteByte(')')
	}
	return statement(b.String())
}

// list renders placeholders for an IN list; PostgreSQL knows no empty one.
func list[T any](a *args, items []T) statement {
	if len(items) == 0 {
		return "NULL"
	}
	marks := make([]statement, len(items))
	for i, v := range items {
		marks[i] = a.add(v)
	}
	return join(marks, ", ")
}

// each calls scan for every row and closes them, whatever happens.
func each(ctx context.Context, q querier, query statement, a args, scan func(*sql.Rows) error) (err error) {
	if b, ok := q.(interface {
		deadline(context.Context) (context.Context, context.CancelFunc)
	}); ok {
		var cancel context.CancelFunc
		ctx, cancel = b.deadline(ctx)
		defer cancel()
	}
	if n, ok := q.(interface{ noticed(err error) error }); ok {
		defer func() { err = n.noticed(err) }()
	}
	rows, err := q.QueryContext(ctx, string(query), a...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// all collects the rows of a query.
func all[T any](ctx context.Context, q querier, query statement, a args, scan func(*sql.Rows, *T) error) ([]T, error) {
	var out []T
	err := each(ctx, q, query, a, func(rows *sql.Rows) error {
		var v T
		if err := scan(rows, &v); err != nil {
			return err
		}
		out = append(out, v)
		return nil
	})
	return out, err
}

// one reads a single value; sql.ErrNoRows when there is none.
func one[T any](ctx context.Context, q querier, query statement, a ...any) (T, error) {
	values, err := all(ctx, q, query, a, func(rows *sql.Rows, v *T) error { return rows.Scan(v) })
	if err != nil || len(values) == 0 {
		var zero T
		if err == nil {
			err = sql.ErrNoRows
		}
		return zero, err
	}
	return values[0], nil
}

// exec runs a statement and tells how many rows it changed.
func exec(ctx context.Context, q querier, query statement, a ...any) (int64, error) {
	res, err := q.ExecContext(ctx, string(query), a...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

const eventColumns = `e.id, e.source, e.delivery_id, e.event_type, e.action, e.repository, e.sender, e.ref, e.number,
	e.hook_id, e.status, e.n_pending, e.n_processing, e.n_failed, e.n_dead, e.retry_count, e.max_retries,
	e.error_message, e.next_retry_at, e.received_at, e.processed_at, e.created_at, e.updated_at, e.requeued_at,
	e.purged_at, e.duplicate_count, e.last_duplicate_at, e.conflict_count, e.body_size, e.body_sha256`

func eventFields(e *queue.Event) []any {
	return []any{
		&e.ID, &e.Source, &e.DeliveryID, &e.EventType, &e.Action, &e.Repository, &e.Sender, &e.Ref, &e.Number,
		&e.HookID, &e.Status, &e.NPending, &e.NProcessing, &e.NFailed, &e.NDead, &e.RetryCount, &e.MaxRetries,
		&e.ErrorMessage, &e.NextRetryAt, &e.ReceivedAt, &e.ProcessedAt, &e.CreatedAt, &e.UpdatedAt, &e.RequeuedAt,
		&e.PurgedAt, &e.DuplicateCount, &e.LastDuplicateAt, &e.ConflictCount, &e.BodySize, &e.BodySHA256,
	}
}

func scanEvent(rows *sql.Rows, e *queue.Event) error { return rows.Scan(eventFields(e)...) }

const jobColumns = `event_id, route, claim_seq, worker_id, status, retry_count, max_retries, error_message, due_at,
	crash_count, unavailable_since, match_pending, started_at, finished_at`

func scanJob(rows *sql.Rows, j *queue.Job) error { return rows.Scan(jobFields(j)...) }

func jobFields(j *queue.Job) []any {
	return []any{
		&j.EventID, &j.Route, &j.Seq, &j.WorkerID, &j.Status, &j.RetryCount, &j.MaxRetries, &j.ErrorMessage, &j.DueAt,
		&j.CrashCount, &j.UnavailableSince, &j.MatchPending, &j.StartedAt, &j.FinishedAt,
	}
}

// delta is what happens to an event's counters, and how what is told of its
// jobs changes with them.
type delta struct {
	pending, processing, failed, dead int
	tell                              telling
	retryCount, maxRetries            int
	errorMessage                      queue.Text
	nextRetryAt                       queue.Time
	now                               queue.Time // of the change
}

type telling int

const (
	tellNothing  telling = iota
	tellGood             // unless another job is failed or dead
	tellBad              // a job failed
	tellRequeued         // start anew: no retries spent
)

// moved counts one job's step from a state to another.
func (d *delta) moved(from, to queue.Status) {
	d.count(from, -1)
	d.count(to, 1)
}

func (d *delta) count(s queue.Status, n int) {
	switch s {
	case queue.StatusPending:
		d.pending += n
	case queue.StatusProcessing:
		d.processing += n
	case queue.StatusFailed:
		d.failed += n
	case queue.StatusDeadLetter:
		d.dead += n
	case queue.StatusCompleted: // not counted: it is what is left
	}
}

// deltas are summed by event first: an UPDATE that meets an id twice would
// subtract once.
type deltas map[int64]*delta

func (ds deltas) at(id int64, now queue.Time) *delta {
	if ds[id] == nil {
		ds[id] = &delta{}
	}
	ds[id].now = max(ds[id].now, now)
	return ds[id]
}

var deltaCasts = []statement{"BIGINT", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "BIGINT", "TEXT", "BIGINT", "BIGINT"}

// counterMoves apply what d says of each event.
const counterMoves = `
		UPDATE webhook_events SET
			n_pending = n_pending + d.p, n_processing = n_processing + d.r,
			n_failed = n_failed + d.f, n_dead = n_dead + d.x,
			retry_count = CASE WHEN d.tell >= 2 OR (d.tell = 1 AND n_failed + d.f + n_dead + d.x = 0) THEN d.rc ELSE retry_count END,
			next_retry_at = CASE WHEN n_failed + d.f > 0 THEN coalesce(d.nr, next_retry_at) END,
			max_retries = CASE WHEN d.tell = 2 OR (d.tell = 1 AND n_failed + d.f + n_dead + d.x = 0) THEN d.mr ELSE max_retries END,
			error_message = CASE WHEN d.tell = 2 OR (d.tell = 1 AND n_failed + d.f + n_dead + d.x = 0) THEN d.em ELSE error_message END,
			requeued_at = CASE WHEN d.tell = 3 THEN d.at ELSE requeued_at END,
			processed_at = CASE WHEN n_pending + d.p + n_processing + d.r + n_failed + d.f = 0 THEN d.at END,
			updated_at = d.at
		FROM d`

// apply moves the counters of all the events in one statement. The status
// follows by itself; processed_at is when the last job ended.
func (ds deltas) apply(ctx context.Context, q querier) error {
	if len(ds) == 0 {
		return nil
	}
	ids := slices.Sorted(maps.Keys(ds))
	var a args
	rows := a.values(deltaCasts, len(ids), func(i int) []any {
		d := ds[ids[i]]
		return []any{ids[i], d.pending, d.processing, d.failed, d.dead, int(d.tell), d.retryCount, d.maxRetries, d.errorMessage, d.nextRetryAt, d.now}
	})
	var lock, locked statement
	if len(ids) > 1 { // in order of their ids: two that lock each other's would wait for ever
		lock, locked = " /*lock events*/", " /*locked*/"
	}
	n, err := exec(ctx, q, `WITH d (id, p, r, f, x, tell, rc, mr, em, nr, at) AS (VALUES `+rows+`)`+lock+counterMoves+locked+`
		WHERE webhook_events.id = d.id`, a...)
	if err == nil && n != int64(len(ids)) {
		err = fmt.Errorf("move the counters of %d events: %d were there", len(ids), n)
	}
	if err != nil {
		return fmt.Errorf("move counters: %w", err)
	}
	return nil
}
