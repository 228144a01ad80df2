package queue

import (
	"context"
	"fmt"
	"time"
)

const (
	// clockStep is by how much the clock must differ from the monotonic one, from
	// one look to the next, to have been set.
	clockStep = time.Second
	// clockSettles is how long after a step times by the clock before may still be
	// stored: a process may go by a reading that is a minute old, and an insert or
	// a settle is tried for a lease.
	clockSettles = 90 * time.Second
)

// reading is what the clock of the store was last seen to say.
type reading struct {
	at     time.Time // by the monotonic clock
	now    Time
	jumped time.Time // when the first or another clock was met, last
	looked time.Time // for jobs that were stamped ahead, last
}

// readClock returns the time to claim by. Where the clock was set meanwhile, what
// waits is set with it before anything is claimed: a retry waits as long as it was
// to wait, whatever the clock says.
func (w *worker) readClock(ctx context.Context) (Time, error) {
	r, last := reading{at: Clock(), now: w.q.Now()}, w.clock
	passed := r.at.Sub(last.at)
	r.jumped, r.looked = last.jumped, last.looked
	step := r.now.Sub(last.now.Add(passed))
	switch {
	case last.at.IsZero():
		r.jumped = r.at
	case step.Abs() > clockStep:
		w.log.WarnContext(ctx, "the clock was set", "worker", w.name(), "by", step.Round(time.Millisecond).String(), "now", r.now)
		r.jumped, r.looked = r.at, time.Time{}
	}
	if step > clockStep && !last.at.IsZero() {
		// The times that were left out are due times only of what failed before.
		err := w.restamp(ctx, Restamp{Now: r.now, After: last.now.Add(passed), Before: last.now.Add(step), By: step})
		if err != nil {
			return 0, err
		}
	}
	if r.at.Sub(r.jumped) < clockSettles && r.at.Sub(r.looked) >= w.o.Beat {
		r.looked = r.at
		if err := w.restamp(ctx, Restamp{Now: w.dueBy(r.now), After: r.now.Add(clockStep)}); err != nil {
			return 0, err
		}
	}
	w.clock = r
	return r.now, nil
}

// setBy is the job by a clock that was set by step while it ran: its outage goes on
// for as long as it has lasted.
func (j Job) setBy(step time.Duration) Job {
	if step.Abs() > clockStep && j.UnavailableSince != 0 {
		j.DueAt, j.UnavailableSince = j.DueAt.Add(step), j.UnavailableSince.Add(step)
	}
	return j
}

// restampChunk bounds a transaction.
const restampChunk = 200

func (w *worker) restamp(ctx context.Context, p Restamp) error {
	ctx, cancel := context.WithTimeout(ctx, w.o.Lease)
	defer cancel()
	p.Limit = restampChunk
	for _, p.Route = range w.names {
		moved := 0
		for n := p.Limit; n == p.Limit; moved += n {
			var err error
			if n, err = w.q.store.Restamp(ctx, p); err != nil {
				return fmt.Errorf("set what waits by the clock, route %s: %w", p.Route, err)
			}
		}
		if moved > 0 {
			w.log.WarnContext(ctx, "jobs waited by another clock", "route", p.Route, "jobs", moved)
		}
	}
	return nil
}
