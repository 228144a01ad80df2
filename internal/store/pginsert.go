package store

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"orchestrate/internal/queue"
)

// inserters is how many transactions of inserts may be under way at once: they
// share the server's syncs, and leave connections to settles and heartbeats.
const inserters = 2

// maxGrouped is the largest delivery that shares a statement, in bytes.
const maxGrouped = 1 << 20

// deliveryKey is what a delivery is known by.
type deliveryKey struct{ source, id string }

func (k deliveryKey) compare(o deliveryKey) int {
	return cmp.Or(strings.Compare(k.source, o.source), strings.Compare(k.id, o.id))
}

func (d delivery) key() deliveryKey { return deliveryKey{d.Event.Source, d.Event.DeliveryID} }

// Insert implements queue.Store. Nearly every delivery is new: those that wait
// together are stored by one statement, which is a transaction of its own, in
// one round trip. For any other, and where that one's commit is in doubt, the
// operation of both databases sees what there is.
func (p *Postgres) Insert(ctx context.Context, in queue.Insertion) (queue.Receipt, error) {
	d, err := newDelivery(in, p.Now())
	if err != nil {
		return queue.Receipt{}, err
	}
	if p.session.pooled || d.size() > maxGrouped { // its settings are a transaction's; it would hold up the others
		return p.insert(ctx, &op{}, d)
	}
	w := &waiting[delivery, newEvent]{in: d, size: d.size()}
	switch _, err := together(ctx, p, p.inserts, w, true); {
	case err != nil:
		return queue.Receipt{}, err
	case w.out.id == 0:
		return p.insert(ctx, &op{inDoubt: w.out.inDoubt}, d)
	}
	return d.started(w.out.id, d.Event.DeliveryID), nil
}

// newEvent is what became of a delivery in its group: 0 if it was not new, or
// is not known to be stored.
type newEvent struct {
	id      int64
	inDoubt bool
}

// insertTogether answers a group. What is wrong with one of them, or with the
// connection, is found out by each alone.
func (p *Postgres) insertTogether(group []*waiting[delivery, newEvent]) {
	if len(group) == 0 {
		return
	}
	// Two groups that have the same deliveries lock them in one order.
	slices.SortFunc(group, func(a, b *waiting[delivery, newEvent]) int { return a.in.key().compare(b.in.key()) })
	ids, err := p.insertNew(group)
	if err == nil {
		if slices.ContainsFunc(group, func(w *waiting[delivery, newEvent]) bool { return len(w.in.Jobs) > 0 && ids[w.in.key()] != 0 }) {
			p.notify()
		}
	} else {
		p.log.Debug("insert together, each tries alone", "events", len(group), "error", err.Error())
		p.distrust(err)
	}
	for _, w := range group {
		w.out.id = ids[w.in.key()]
		w.out.inDoubt = isBroken(err) && !isAway(err)
		if isAway(err) {
			w.done <- classify(err)
			continue
		}
		w.done <- nil
	}
}

func (p *Postgres) insertNew(group []*waiting[delivery, newEvent]) (map[deliveryKey]int64, error) {
	a, err := newEventArgs(group)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), urgentTry)
	defer cancel()
	ids := make(map[deliveryKey]int64, len(group))
	err = each(ctx, p.db, newEvents, a, func(rows *sql.Rows) error {
		var id int64
		var k deliveryKey
		err := rows.Scan(&id, &k.id, &k.source)
		ids[k] = id
		return err
	})
	if err != nil { // rows come before the commit
		return nil, err
	}
	return ids, nil
}

// newEvents stores those deliveries of a group that are new: one text for any
// number of them, so that it is prepared once.
const newEvents = `WITH v AS (SELECT * FROM json_to_recordset($1) AS v (n BIGINT, source TEXT, delivery_id TEXT, event_type TEXT,
		action TEXT, repository TEXT, sender TEXT, ref TEXT, number BIGINT, hook_id BIGINT, pending INTEGER, dead INTEGER,
		max_retries INTEGER, error_message TEXT, received_at BIGINT, processed_at BIGINT, now BIGINT, body_size BIGINT,
		body_sha256 TEXT)),
	e AS (INSERT INTO webhook_events (source, delivery_id, event_type, action, repository, sender, ref, number, hook_id,
			n_pending, n_dead, max_retries, error_message, received_at, processed_at, created_at, updated_at, body_size,
			body_sha256)
		SELECT source, delivery_id, event_type, action, repository, sender, ref, number, hook_id, pending, dead, max_retries,
			error_message, received_at, processed_at, now, now, body_size, body_sha256 FROM v ORDER BY n
		ON CONFLICT (delivery_id, source) DO NOTHING RETURNING id, delivery_id, source),
	m AS (SELECT e.id, v.n FROM e JOIN v ON v.delivery_id = e.delivery_id AND v.source = e.source),
	p AS (INSERT INTO webhook_payloads (event_id, headers, codec, body)
		SELECT m.id, b.headers, 0, b.body FROM m
		JOIN unnest($2::bytea[], $3::bytea[]) WITH ORDINALITY AS b (headers, body, n) ON b.n = m.n),
	j AS (INSERT INTO webhook_jobs (event_id, ` + newJobColumns + `)
		SELECT m.id, r.route, r.status, r.max_retries, r.error_message, r.due_at, r.match_pending, r.finished_at
		FROM m JOIN json_to_recordset($4) AS r (n BIGINT, route TEXT, status TEXT, max_retries INTEGER, error_message TEXT,
			due_at BIGINT, match_pending SMALLINT, finished_at BIGINT) ON r.n = m.n)
	SELECT id, delivery_id, source FROM e`

var (
	newEventFields = []string{
		"source", "delivery_id", "event_type", "action", "repository", "sender", "ref", "number", "hook_id", "pending", "dead",
		"max_retries", "error_message", "received_at", "processed_at", "now", "body_size", "body_sha256",
	}
	newJobFields = []string{"route", "status", "max_retries", "error_message", "due_at", "match_pending", "finished_at"}
)

func newEventArgs(group []*waiting[delivery, newEvent]) (args, error) {
	events, jobs := []map[string]any{}, []map[string]any{}
	var headers, bodies [][]byte
	var errs []error
	row := func(n int, names []string, values []any) map[string]any {
		r := map[string]any{"n": n}
		for i, v := range values {
			r[names[i]] = plain(v, &errs)
		}
		return r
	}
	for i, w := range group {
		d := w.in
		events = append(events, row(i+1, newEventFields, d.eventArgs(d.Event.DeliveryID)))
		headers, bodies = append(headers, d.headers), append(bodies, notNull(d.Payload.Body))
		for _, j := range d.Jobs {
			jobs = append(jobs, row(i+1, newJobFields, jobValues(j)))
		}
	}
	e, err1 := json.Marshal(events)
	j, err2 := json.Marshal(jobs)
	return args{string(e), headers, bodies, string(j)}, errors.Join(append(errs, err1, err2)...)
}

// plain is a value as a column would hold it.
func plain(v any, errs *[]error) any {
	if valuer, ok := v.(driver.Valuer); ok {
		value, err := valuer.Value()
		if err != nil {
			*errs = append(*errs, err)
		}
		return value
	}
	return v
}
