package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"orchestrate/internal/queue"
)

// returning qualifies columns for a RETURNING clause.
func returning(columns statement) statement { return qualified("webhook_jobs", columns) }

func qualified(table, columns statement) statement {
	names := columnsOf(columns)
	for i := range names {
		names[i] = table + "." + names[i]
	}
	return join(names, ", ")
}

// Event implements queue.Store.
func (s *shared) Event(ctx context.Context, id int64) (*queue.Event, error) {
	e, err := event(ctx, s.reads, id)
	return e, classify(err)
}

func event(ctx context.Context, q querier, id int64) (*queue.Event, error) {
	events, err := all(ctx, q, `SELECT `+eventColumns+` FROM webhook_events e WHERE e.id = $1`, args{id}, scanEvent)
	if err == nil && len(events) == 0 {
		err = queue.ErrNotFound
	}
	if err == nil {
		err = fillRoutes(ctx, q, events)
	}
	if err != nil {
		return nil, fmt.Errorf("event %d: %w", id, err)
	}
	return &events[0], nil
}

// fillRoutes is a second read for the ids of a page: a join would repeat the
// events.
func fillRoutes(ctx context.Context, q querier, events []queue.Event) error {
	if len(events) == 0 {
		return nil
	}
	at := make(map[int64]*queue.Event, len(events))
	ids := make([]int64, len(events))
	for i := range events {
		events[i].Routes = []string{}
		ids[i], at[events[i].ID] = events[i].ID, &events[i]
	}
	query, a := routesQuery(ids)
	return each(ctx, q, query, a, func(rows *sql.Rows) error {
		var k queue.JobKey
		if err := rows.Scan(&k.EventID, &k.Route); err != nil {
			return err
		}
		at[k.EventID].Routes = append(at[k.EventID].Routes, k.Route)
		return nil
	})
}

func routesQuery(ids []int64) (statement, args) {
	var a args
	return `SELECT event_id, route FROM webhook_jobs WHERE event_id IN (` + list(&a, ids) + `) ORDER BY event_id, route`, a
}

// Load implements queue.Store.
func (s *shared) Load(ctx context.Context, id int64) (*queue.Event, *queue.Payload, error) {
	var e queue.Event
	found, err := all(ctx, s.reads, `SELECT p.headers, p.codec, p.body, `+eventColumns+`
		FROM webhook_events e JOIN webhook_payloads p ON p.event_id = e.id WHERE e.id = $1`, args{id},
		func(rows *sql.Rows, p *queue.Payload) error { return scanPayload(rows, p, eventFields(&e)...) })
	p, err := onePayload(id, found, err)
	return &e, p, err
}

// Payload implements queue.Store.
func (s *shared) Payload(ctx context.Context, id int64) (*queue.Payload, error) {
	found, err := all(ctx, s.reads, `SELECT headers, codec, body FROM webhook_payloads WHERE event_id = $1`, args{id},
		func(rows *sql.Rows, p *queue.Payload) error { return scanPayload(rows, p) })
	return onePayload(id, found, err)
}

func scanPayload(rows *sql.Rows, p *queue.Payload, more ...any) error {
	var headers []byte
	var codec int
	if err := rows.Scan(append([]any{&headers, &codec, &p.Body}, more...)...); err != nil {
		return err
	}
	return decodePayload(p, codec, headers)
}

func decodePayload(p *queue.Payload, codec int, headers []byte) error {
	if codec != codecRaw {
		return fmt.Errorf("codec %d is not known to this program", codec)
	}
	return json.Unmarshal(headers, &p.Headers)
}

func onePayload(id int64, found []queue.Payload, err error) (*queue.Payload, error) {
	if err == nil && len(found) == 0 {
		err = queue.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("payload of event %d: %w", id, classify(err))
	}
	return &found[0], nil
}

// Jobs implements queue.Store.
func (s *shared) Jobs(ctx context.Context, id int64) ([]queue.Job, error) {
	jobs, err := all(ctx, s.reads, `SELECT `+jobColumns+` FROM webhook_jobs WHERE event_id = $1 ORDER BY route`, args{id}, scanJob)
	return nonNil(jobs), classify(err)
}

// Attempts implements queue.Store.
func (s *shared) Attempts(ctx context.Context, id int64) ([]queue.Attempt, error) {
	attempts, err := all(ctx, s.reads, `SELECT event_id, route, claim_seq, worker_id, outcome, started_at, finished_at,
			exit_code, http_status, error_message, output, version, config_hash
		FROM webhook_attempts WHERE event_id = $1 ORDER BY finished_at, route, claim_seq`, args{id},
		func(rows *sql.Rows, a *queue.Attempt) error {
			return rows.Scan(&a.EventID, &a.Route, &a.Seq, &a.WorkerID, &a.Ending, &a.StartedAt, &a.FinishedAt,
				&a.ExitCode, &a.HTTPStatus, &a.ErrorMessage, &a.Output, &a.Version, &a.ConfigHash)
		})
	return nonNil(attempts), classify(err)
}

// nonNil makes an empty result an empty list in JSON.
func nonNil[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

// FindDelivery implements queue.Store.
func (s *shared) FindDelivery(ctx context.Context, prefix string) ([]int64, error) {
	if !isText(prefix) {
		return nil, nil
	}
	scan := func(rows *sql.Rows, id *int64) error { return rows.Scan(id) }
	exact, err := all(ctx, s.reads, `SELECT id FROM webhook_events WHERE delivery_id = $1 ORDER BY source LIMIT 2`, args{prefix}, scan)
	if err != nil || len(exact) > 0 {
		return exact, classify(err)
	}
	ids, err := all(ctx, s.reads, `SELECT id FROM webhook_events WHERE delivery_id >= $1 AND delivery_id < $2
		ORDER BY delivery_id LIMIT 2`, args{prefix, afterPrefix(prefix)}, scan)
	return ids, classify(err)
}

// afterPrefix sorts behind every delivery id that starts with the prefix. A
// single last character would not: an id may go on with that one.
func afterPrefix(prefix string) string {
	const longest = 300 // as the tables have it
	return prefix + strings.Repeat(string(utf8.MaxRune), longest)
}

// isText tells whether a database can hold it. PostgreSQL refuses to compare
// with anything else, so that it must not be asked what matches.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// matchesNone tells of a filter that it asks for what no event can have.
func matchesNone(f queue.Filter) bool {
	texts := []string{f.EventType, f.Action, f.Repository, f.Sender, f.Route, f.Delivery, f.Source}
	return slices.ContainsFunc(texts, func(s string) bool { return !isText(s) })
}

// lower is what lower() makes of a column that is compared by bytes.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// where renders a filter as conditions on webhook_events e.
func where(a *args, f queue.Filter) []statement {
	var conds []statement
	add := func(cond statement, v any) { conds = append(conds, fillIn(cond, a.add(v))) }
	if f.IDs != nil {
		conds = append(conds, "e.id IN ("+list(a, f.IDs)+")")
	}
	if f.Status != "" {
		conds = append(conds, "e.status = "+literal(f.Status)+statusHint(f.Status))
	}
	if f.EventType != "" {
		add("e.event_type = %s", f.EventType)
	}
	if f.Action != "" {
		add("e.action = %s", f.Action)
	}
	if f.Repository != "" {
		add("lower(e.repository) = %s", lower(f.Repository))
	}
	if f.Sender != "" {
		add("lower(e.sender) = %s", lower(f.Sender))
	}
	if f.Route != "" {
		add("EXISTS (SELECT 1 FROM webhook_jobs j WHERE j.event_id = e.id AND j.route = %s)", f.Route)
	}
	if f.Delivery != "" {
		conds = append(conds, fillIn("e.delivery_id >= %s AND e.delivery_id < %s", a.add(f.Delivery), a.add(afterPrefix(f.Delivery))))
	}
	if f.Source != "" {
		add("e.source = %s", f.Source)
	}
	if f.Since != 0 {
		add("e.received_at >= %s", f.Since)
	}
	if f.Until != 0 {
		add("e.received_at < %s", f.Until)
	}
	if f.Before != 0 {
		add("e.id < %s", f.Before)
	}
	return conds
}

// statusHint leads to the few events of an open or dead state by a partial
// index; completed ones are the many, found by walking.
func statusHint(s queue.Status) statement {
	in := func(cond statement) statement {
		return " AND e.id IN (SELECT h.event_id FROM webhook_jobs h WHERE " + cond + ")"
	}
	switch s {
	case queue.StatusDeadLetter:
		return in("h.status = 'dead_letter'")
	case queue.StatusProcessing:
		return in("h.status = 'processing'")
	case queue.StatusPending, queue.StatusFailed:
		return in("h.status IN ('pending', 'failed') AND h.status = " + literal(s))
	case queue.StatusCompleted:
	}
	return ""
}

// List implements queue.Store.
func (s *shared) List(ctx context.Context, f queue.Filter, limit int) ([]queue.Event, error) {
	if err := checkStatus(f.Status); err != nil {
		return nil, err
	}
	if matchesNone(f) {
		return nil, nil
	}
	query, a := listQuery(f, limit)
	events, err := all(ctx, s.reads, query, a, scanEvent)
	if err == nil {
		err = fillRoutes(ctx, s.reads, events)
	}
	if err != nil {
		return nil, fmt.Errorf("list events: %w", classify(err))
	}
	return events, nil
}

func listQuery(f queue.Filter, limit int) (statement, args) {
	var a args
	conds := append([]statement{"e.purged_at IS NULL"}, where(&a, f)...)
	return `SELECT ` + eventColumns + ` FROM webhook_events e WHERE ` + join(conds, " AND ") +
		` ORDER BY e.id DESC LIMIT ` + a.add(limit), a
}

// literal writes a status into SQL: one that is bound leads to no partial index.
func literal(s queue.Status) statement {
	switch s {
	case queue.StatusPending:
		return "'pending'"
	case queue.StatusProcessing:
		return "'processing'"
	case queue.StatusCompleted:
		return "'completed'"
	case queue.StatusFailed:
		return "'failed'"
	case queue.StatusDeadLetter:
		return "'dead_letter'"
	}
	return "NULL" // which nothing equals
}

// checkStatus refuses anything but a known status.
func checkStatus(statuses ...queue.Status) error {
	for _, s := range statuses {
		switch s {
		case "", queue.StatusPending, queue.StatusProcessing, queue.StatusCompleted, queue.StatusFailed, queue.StatusDeadLetter:
		default:
			return fmt.Errorf("status %q: %w", string(s), queue.ErrInvalid)
		}
	}
	return nil
}

// Select implements queue.Store.
func (s *shared) Select(ctx context.Context, f queue.Filter, from []queue.Status, after queue.JobKey, limit int) ([]queue.Job, error) {
	if err := checkStatus(append([]queue.Status{f.Status}, from...)...); err != nil {
		return nil, err
	}
	if matchesNone(f) {
		return nil, nil
	}
	query, a := selectQuery(f, from, after, limit)
	jobs, err := all(ctx, s.reads, query, a, scanJob)
	if err != nil {
		return nil, fmt.Errorf("select jobs: %w", classify(err))
	}
	return jobs, nil
}

// selectQuery walks the jobs by key; of the dead ones there is an index in that
// order.
func selectQuery(f queue.Filter, from []queue.Status, after queue.JobKey, limit int) (statement, args) {
	var a args
	quoted := make([]statement, len(from))
	for i, s := range from {
		quoted[i] = literal(s)
	}
	in := "j.status IN (" + join(quoted, ", ") + ")"
	if len(quoted) == 1 {
		in = "j.status = " + quoted[0]
	}
	conds := []statement{in, fillIn("(j.event_id, j.route) > (%s, %s)", a.add(after.EventID), a.add(after.Route))}
	if f.Route != "" {
		conds = append(conds, "j.route = "+a.add(f.Route))
		f.Route = ""
	}
	if f.Before != 0 {
		conds = append(conds, "j.event_id < "+a.add(f.Before))
		f.Before = 0
	}
	if f.IDs != nil {
		conds = append(conds, "j.event_id IN ("+list(&a, f.IDs)+")")
		f.IDs = nil
	}
	if events := where(&a, f); len(events) > 0 {
		conds = append(conds, "EXISTS (SELECT 1 FROM webhook_events e WHERE e.id = j.event_id AND "+join(events, " AND ")+")")
	}
	return `SELECT ` + jobColumns + ` FROM webhook_jobs j WHERE ` + join(conds, " AND ") +
		` ORDER BY j.event_id, j.route LIMIT ` + a.add(limit), a
}

// Waiting implements queue.Store.
func (s *shared) Waiting(ctx context.Context) (map[string]int64, error) {
	waiting := map[string]int64{}
	err := each(ctx, s.reads, waitingQuery, nil, func(rows *sql.Rows) error {
		var route string
		var n int64
		err := rows.Scan(&route, &n)
		waiting[route] = n
		return err
	})
	return waiting, classify(err)
}

const waitingQuery = `SELECT route, count(*) FROM webhook_jobs WHERE status IN ('pending', 'failed') GROUP BY route`

// Stats implements queue.Store.
func (s *shared) Stats(ctx context.Context) (st queue.Stats, err error) {
	byRoute := map[string]*queue.RouteStats{}
	if err := each(ctx, s.reads, statsJobs, nil, func(rows *sql.Rows) error { return countInto(byRoute, rows) }); err != nil {
		return st, classify(err)
	}
	st.Routes = routeStats(byRoute)
	if st.Events, err = one[int64](ctx, s.reads, `SELECT count(*) FROM webhook_events WHERE purged_at IS NULL`); err != nil {
		return st, classify(err)
	}
	if st.Workers, err = s.Workers(ctx); err != nil {
		return st, err
	}
	st.Workers = nonNil(st.Workers)
	st.Bytes, err = s.Size(ctx)
	return st, err
}

// Size implements queue.Store.
func (s *shared) Size(ctx context.Context) (int64, error) {
	n, err := one[int64](ctx, s.reads, s.size)
	return n, classify(err)
}

// statsJobs is one statement: of two, a job that goes back in between is in
// neither, and a queue at work looks as if it had come to rest.
const (
	statsJobs = statsOpen + ` UNION ALL ` + statsProcessing + ` UNION ALL ` + statsDead + ` UNION ALL ` + statsCompleted

	statsOpen = `SELECT route, status, count(*), min(due_at) FROM webhook_jobs WHERE status IN ('pending', 'failed')
		GROUP BY route, status`
	statsProcessing = `SELECT route, 'processing', count(*), NULL FROM webhook_jobs WHERE status = 'processing' GROUP BY route`
	statsDead       = `SELECT route, 'dead_letter', count(*), NULL FROM webhook_jobs WHERE status = 'dead_letter' GROUP BY route`
	statsCompleted  = `SELECT route, 'completed', count(*), NULL FROM webhook_jobs WHERE status = 'completed' GROUP BY route`
)

func routeStats(byRoute map[string]*queue.RouteStats) []queue.RouteStats {
	out := []queue.RouteStats{}
	for _, route := range slices.Sorted(maps.Keys(byRoute)) {
		out = append(out, *byRoute[route])
	}
	return out
}

func countInto(byRoute map[string]*queue.RouteStats, rows *sql.Rows) error {
	var route string
	var status queue.Status
	var n int64
	var due queue.Time
	if err := rows.Scan(&route, &status, &n, &due); err != nil {
		return err
	}
	r := byRoute[route]
	if r == nil {
		r = &queue.RouteStats{Route: route}
		byRoute[route] = r
	}
	switch status {
	case queue.StatusPending:
		r.Pending = n
	case queue.StatusFailed:
		r.Failed = n
	case queue.StatusProcessing:
		r.Processing = n
	case queue.StatusDeadLetter:
		r.DeadLetter = n
	case queue.StatusCompleted:
		r.Completed = n
	}
	if due != 0 && (r.OldestDue == 0 || due < r.OldestDue) {
		r.OldestDue = due
	}
	return nil
}
