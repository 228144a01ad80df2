package store

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"orchestrate/internal/queue"

	"github.com/jackc/pgx/v5"
)

// loaders is how many reads of groups may be under way at once, so that a large
// body does not keep all others waiting.
const loaders = 2

// maxLoaded is how many are read at once: each may be large, and the small ones
// came with their claims.
const maxLoaded = 16

// loaded is an event with its payload.
type loaded struct {
	event   *queue.Event
	payload *queue.Payload
}

// Load implements queue.Store. The event may have come with the claim. Else, as
// a batch of jobs starts at once and each asks for its event, those that wait
// together are one read. They hold no more memory than one by one, as each
// caller waits for its own. Whoever's event is not found so, for whatever
// reason, asks for it alone.
func (p *Postgres) Load(ctx context.Context, id int64) (*queue.Event, *queue.Payload, error) {
	if l, found := p.ahead.take(id, queue.Clock()); found {
		return l.event, l.payload, nil
	}
	w := &waiting[int64, loaded]{in: id, size: maxGroupBytes / maxLoaded}
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
	l, scan := newLoaded()
	if err := rows.Scan(scan.fields...); err != nil {
		return l, err
	}
	return l, scan.decode(l)
}

// loadScan reads the columns of loadQuery.
type loadScan struct {
	headers []byte
	codec   *int
	fields  []any
}

func newLoaded() (loaded, *loadScan) {
	l, s := loaded{&queue.Event{}, &queue.Payload{}}, &loadScan{}
	s.fields = append([]any{&s.headers, &s.codec, &l.payload.Body}, eventFields(l.event)...)
	return l, s
}

func (s *loadScan) decode(l loaded) error { return decodePayload(l.payload, *s.codec, s.headers) }

const (
	// maxAhead is up to which size, in bytes, a body comes with the claim of its
	// job: a batch of large ones would keep the claim's answer for too long.
	maxAhead = 64 << 10
	// aheadFor is how long what came with a claim is kept for its job, which
	// starts at once, if it does.
	aheadFor = 5 * time.Second
)

// ahead are the events that came with claims, until they are asked for.
type ahead struct {
	mu     sync.Mutex
	events map[int64]arrived
}

type arrived struct {
	loaded
	at time.Time
}

// put keeps what was scanned, unless the payload is gone or large.
func (a *ahead) put(l loaded, s *loadScan, now time.Time) {
	if s.codec == nil || l.payload.Body == nil || s.decode(l) != nil { // whoever asks for it is told what is wrong
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.events, func(_ int64, e arrived) bool { return now.Sub(e.at) > aheadFor })
	a.events[l.event.ID] = arrived{l, now}
}

func (a *ahead) take(id int64, now time.Time) (loaded, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, found := a.events[id]
	delete(a.events, id)
	return e.loaded, found && now.Sub(e.at) <= aheadFor
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
