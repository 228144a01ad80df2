package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
)

// Queue is the service that everything goes through: receiving, working, and
// the operator's verbs. Safe for concurrent use.
type Queue struct {
	store Store
	cfg   atomic.Pointer[Config]
	log   *slog.Logger
	wake  chan struct{} // tells the worker of this process that there may be work

	reloaded chan struct{} // tells it that there is something to show of a reload

	mu      sync.Mutex
	reloads Reloads
}

// New returns the service over a store. A configuration without routes and
// matcher is fine for a process that only looks and moves.
func New(s Store, cfg *Config, log *slog.Logger) *Queue {
	q := &Queue{store: s, log: log, wake: make(chan struct{}, 1), reloaded: make(chan struct{}, 1)}
	q.cfg.Store(cfg)
	return q
}

// Receive stores a verified delivery with a job for each route that wants it.
// When it returns nil, the event is on disk; a conflict is told by the receipt,
// not by an error. The event's id is ignored.
func (q *Queue) Receive(ctx context.Context, e *Event, p *Payload) (Receipt, error) {
	cfg := q.cfg.Load()
	in := Insertion{Event: e, Payload: p, RequeueDead: cfg.RequeueDead}
	for _, m := range cfg.Matcher.Match(e, p) {
		job := Job{
			Claim: Claim{JobKey: JobKey{Route: m.Route}}, Status: StatusPending,
			MaxRetries: cfg.Route(m.Route).Retry.Max, DueAt: e.ReceivedAt,
		}
		if m.Err != nil {
			job.Status, job.MatchPending, job.FinishedAt = StatusDeadLetter, true, e.ReceivedAt
			job.ErrorMessage = Clean("match: " + m.Err.Error())
		}
		in.Jobs = append(in.Jobs, job)
	}
	receipt, err := q.store.Insert(ctx, in)
	if err != nil {
		return Receipt{}, fmt.Errorf("store delivery %s: %w", e.DeliveryID, err)
	}
	q.logReceipt(ctx, e, receipt, in.Jobs)
	if len(receipt.Routes) > 0 {
		q.Wake()
	}
	return receipt, nil
}

func (q *Queue) logReceipt(ctx context.Context, e *Event, r Receipt, jobs []Job) {
	log := q.log.With("event_id", r.EventID, "delivery_id", r.DeliveryID, "event", e.Kind(),
		"repository", e.Repository, "source", e.Source)
	switch {
	case r.Conflict:
		log.WarnContext(ctx, "conflict: the delivery id is known with another body")
	case r.Limited:
		log.WarnContext(ctx, "duplicate; requeue refused: the last one was less than a minute ago")
	case r.Duplicate:
		log.InfoContext(ctx, "duplicate", "requeued", r.Routes)
	default:
		log.InfoContext(ctx, "received", "routes", r.Routes, "bytes", e.BodySize)
		for _, j := range jobs {
			if j.MatchPending {
				log.ErrorContext(ctx, "dead-lettered: the route can't be evaluated", "route", j.Route, "error", j.ErrorMessage)
			}
		}
	}
}

// Now is the time by the clock that all processes of this queue share.
func (q *Queue) Now() Time { return q.store.Now() }

// Wake tells the worker of this process to look for work now.
func (q *Queue) Wake() {
	signal(q.wake)
}

// Detail is an event with everything that happened to it.
type Detail struct {
	Event
	Jobs     []Job     `json:"jobs"`
	Attempts []Attempt `json:"attempts"`
}

// Resolve finds the event that an operator names: digits are an id, anything
// else a delivery id or a unique prefix of one. ErrNotFound, ErrAmbiguous.
func (q *Queue) Resolve(ctx context.Context, ref string) (int64, error) {
	if id, err := strconv.ParseInt(ref, 10, 64); err == nil {
		_, err := q.store.Event(ctx, id)
		return id, err
	}
	if ref == "" {
		return 0, fmt.Errorf("event with an empty id: %w", ErrNotFound)
	}
	ids, err := q.store.FindDelivery(ctx, ref)
	switch {
	case err != nil:
		return 0, err
	case len(ids) == 0:
		return 0, fmt.Errorf("event with delivery id %s: %w", Clean(ref), ErrNotFound)
	case len(ids) > 1:
		return 0, fmt.Errorf("delivery id %s: %w: events %d, %d and perhaps more", Clean(ref), ErrAmbiguous, ids[0], ids[1])
	}
	return ids[0], nil
}

// Show returns an event with its jobs and attempts. ErrNotFound.
func (q *Queue) Show(ctx context.Context, id int64) (*Detail, error) {
	e, err := q.store.Event(ctx, id)
	if err != nil {
		return nil, err
	}
	d := &Detail{Event: *e}
	if d.Jobs, err = q.store.Jobs(ctx, id); err != nil {
		return nil, err
	}
	if d.Attempts, err = q.store.Attempts(ctx, id); err != nil {
		return nil, err
	}
	return d, nil
}

// Payload returns what was signed. ErrNotFound, also when it was purged.
func (q *Queue) Payload(ctx context.Context, id int64) (*Payload, error) {
	p, err := q.store.Payload(ctx, id)
	if errors.Is(err, ErrNotFound) {
		if e, eventErr := q.store.Event(ctx, id); eventErr == nil && e.PurgedAt != 0 {
			err = fmt.Errorf("payload of event %d: %w: it was purged at %s", id, ErrNotFound, e.PurgedAt)
		}
	}
	return p, err
}

// page is how many rows are read at once where all are wanted.
const page = 500

// Each calls fn for the events that match, newest first, until there are no
// more, limit were seen (0: no limit), or fn returns an error, which it
// returns. more tells whether the limit cut something off.
func (q *Queue) Each(ctx context.Context, f Filter, limit int, fn func(*Event) error) (more bool, err error) {
	for seen := 0; ; {
		want := page
		if limit > 0 {
			want = min(page, limit-seen+1) // one more tells whether something was cut
		}
		events, err := q.store.List(ctx, f, want)
		if err != nil {
			return false, err
		}
		for i := range events {
			if limit > 0 && seen == limit {
				return true, nil
			}
			if err := fn(&events[i]); err != nil {
				return false, err
			}
			seen++
		}
		if len(events) < want {
			return false, nil
		}
		f.Before = events[len(events)-1].ID
	}
}

// Stats counts the jobs by route and state and lists the workers.
func (q *Queue) Stats(ctx context.Context) (Stats, error) {
	s, err := q.store.Stats(ctx)
	for i := range s.Workers {
		s.Workers[i].Silent = q.Now().Sub(s.Workers[i].HeartbeatAt) > Lease
	}
	return s, err
}

// WarnUnknownRoutes logs, with counts, the routes that hold unfinished jobs but
// that the configuration does not have: nobody will run those.
func (q *Queue) WarnUnknownRoutes(ctx context.Context) error {
	waiting, err := q.store.Waiting(ctx)
	if err != nil {
		return fmt.Errorf("count jobs of unknown routes: %w", err)
	}
	known := q.cfg.Load().RouteNames()
	for _, route := range slices.Sorted(maps.Keys(waiting)) {
		if !slices.Contains(known, route) {
			q.log.WarnContext(ctx, "jobs wait for a route that the configuration does not have", "route", route, "jobs", waiting[route],
				"next", "add the route, or end them with: orchestrate events cancel --route "+route)
		}
	}
	return nil
}

// handle runs a handler; a panic in it is a failure like any other.
func (q *Queue) handle(ctx context.Context, h Handler, t *Task) (res Result, err error) {
	defer func() {
		if v := recover(); v != nil {
			q.log.ErrorContext(ctx, "handler panicked", "event_id", t.Event.ID, "route", t.Route,
				"panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return h.Handle(ctx, t)
}
