package store

import (
	"context"
	"fmt"

	"orchestrate/internal/queue"

	"github.com/jackc/pgx/v5"
)

// loaders is how many reads of groups may be under way at once, so that a large
// body does not keep all others waiting.
const loaders = 2

// loaded is an event with its payload.
type loaded struct {
	event   *queue.Event
	payload *queue.Payload
}

// Load implements queue.Store. A batch of jobs starts at once, and each asks for
// its event: those that wait together are one read. They hold no more memory
// than one by one, as each caller waits for its own. Whoever's event is not
// found so, for whatever reason, asks for it alone.
func (p *Postgres) Load(ctx context.Context, id int64) (*queue.Event, *queue.Payload, error) {
	w := &waiting[int64, loaded]{in: id}
	if _, err := together(ctx, p, p.loads, w, false); err != nil {
		return nil, nil, fmt.Errorf("payload of event %d: %w", id, err)
	}
	if w.out.event == nil {
		return p.shared.Load(ctx, id)
	}
	return w.out.event, w.out.payload, nil
}

func (p *Postgres) loadTogether(group []*waiting[int64, loaded]) {
	if len(group) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), urgentTry)
	defer cancel()
	events, err := p.load(ctx, column(group, func(w *waiting[int64, loaded]) int64 { return w.in }))
	if err != nil {
		p.log.DebugContext(ctx, "load together, each tries alone", "events", len(group), "error", err.Error())
		p.distrust(err)
	}
	for _, w := range group {
		if err == nil {
			w.out = events[w.in]
		}
		w.done <- nil
	}
}

const loadQuery = `SELECT p.headers, p.codec, p.body, ` + eventColumns + `
	FROM webhook_events e JOIN webhook_payloads p ON p.event_id = e.id WHERE e.id = ANY($1::bigint[])`

func (p *Postgres) load(ctx context.Context, ids []int64) (map[int64]loaded, error) {
	rows, err := p.pool.Query(ctx, loadQuery, ids)
	if err != nil {
		return nil, err
	}
	events := make(map[int64]loaded, len(ids))
	err = eachRow(rows, func(rows pgx.Rows) error {
		l, err := scanLoaded(rows)
		events[l.event.ID] = l
		return err
	})
	return events, err
}

func scanLoaded(rows pgx.Rows) (loaded, error) {
	var headers []byte
	var codec int
	l := loaded{&queue.Event{}, &queue.Payload{}}
	if err := rows.Scan(append([]any{&headers, &codec, &l.payload.Body}, eventFields(l.event)...)...); err != nil {
		return l, err
	}
	return l, decodePayload(l.payload, codec, headers)
}

// eachRow is each for the driver's own rows.
func eachRow(rows pgx.Rows, scan func(pgx.Rows) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
