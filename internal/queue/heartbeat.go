package queue

import (
	"context"
	"errors"
	"maps"
	"time"
)

// heartbeats keeps the lease, compares what the store holds for this worker
// with what runs here, and looks after other workers, until the background
// context ends.
func (w *worker) heartbeats() {
	tick := time.NewTicker(w.o.Beat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-w.q.reloaded:
		case <-w.background.Done():
			return
		}
		// Another program may have migrated the database, up or down; then a
		// heartbeat may err, too.
		err := w.heartbeat()
		if !errors.Is(err, ErrUnavailable) {
			err = errors.Join(err, w.checkSchema())
		}
		if err != nil && w.background.Err() == nil {
			w.log.Error("heartbeat", "worker", w.name(), "error", err.Error())
			if errors.Is(err, ErrSchema) || isBroken(err) {
				w.fail(err)
			}
		}
	}
}

func (w *worker) checkSchema() error {
	ctx, cancel := context.WithTimeout(w.background, w.o.Beat)
	defer cancel()
	return w.q.store.CheckSchema(ctx)
}

func (w *worker) heartbeat() error {
	at := Clock()
	w.mu.Lock()
	me, running := w.row(), maps.Clone(w.runs)
	w.mu.Unlock()
	me.HeartbeatAt = w.q.Now()
	ctx, cancel := context.WithTimeout(w.background, w.o.Lease)
	defer cancel()
	held, err := w.q.store.Heartbeat(ctx, me)
	if errors.Is(err, ErrLeaseLost) {
		return w.surrender(ctx)
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.leased(at)
	w.stopVanished(held, running)
	lost := w.findUnknown(held)
	w.mu.Unlock()
	if err := w.giveBack(ctx, lost, "the claim's result was lost"); err != nil {
		return err
	}
	w.rescue(ctx)
	return nil
}

// surrender follows the loss of the lease: others may run our jobs already, so
// every handler is killed before a new life begins.
func (w *worker) surrender(ctx context.Context) error {
	w.mu.Lock()
	w.lost, w.unknown = true, nil
	w.mu.Unlock()
	w.log.Error("lease lost: registering anew", "worker", w.name())
	w.killAll(ErrLeaseLost)
	w.wg.Wait() // none is added while the lease is lost
	err := w.register(ctx)
	w.q.Wake()
	return err
}

// stopVanished ends the handlers of claims that ran when the heartbeat was sent
// and that the store does not hold. The caller holds mu.
func (w *worker) stopVanished(held []Job, running map[Claim]*run) {
	for _, j := range held {
		delete(running, j.Claim)
	}
	for _, r := range running {
		if !r.settling {
			r.cancel(errVanished)
		}
	}
}

// findUnknown returns the jobs that the store held for this worker at two
// heartbeats running, but that do not run here, although every claim that could
// have brought them has been answered: a commit whose result was lost. Claims
// follow one another, so one that was asked for later answers for those before.
// The caller holds mu.
func (w *worker) findUnknown(held []Job) []Job {
	before := w.unknown
	w.unknown = map[Claim]int{}
	var lost []Job
	for _, j := range held {
		if w.runs[j.Claim] != nil {
			continue
		}
		asked, known := before[j.Claim]
		if known && (w.claiming == 0 || w.claims > asked) {
			lost = append(lost, j)
			continue
		}
		if !known {
			asked = w.claims
		}
		w.unknown[j.Claim] = asked
	}
	return lost
}

// rescue takes over from workers whose beat has not moved for a lease of our
// own monotonic clock.
func (w *worker) rescue(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, w.o.Beat) // our own beat waits meanwhile
	defer cancel()
	workers, err := w.q.store.Workers(ctx)
	if err != nil {
		w.log.Warn("look after other workers", "error", err.Error())
		return
	}
	first := w.looked.IsZero()
	dead := w.look(workers, Clock())
	if w.o.Sweep != nil && (first || len(dead) > 0) {
		w.o.Sweep() // before the jobs can be claimed again
	}
	rescued, err := w.q.store.Rescue(ctx, dead, w.q.Now())
	if err != nil {
		w.log.Warn("rescue", "error", err.Error())
		return
	}
	for _, r := range rescued {
		w.log.Warn("rescued", "event_id", r.EventID, "route", r.Route, "attempt", r.Seq, "worker", r.WorkerID,
			"status", string(r.Status), "crash_count", r.CrashCount)
	}
	if len(rescued) > 0 {
		w.q.Wake()
	}
}

// look compares the workers with what was seen of them before, and returns
// those that are dead, with the beat at which they stopped.
func (w *worker) look(workers []Worker, now time.Time) map[Text]int64 {
	me := w.name()
	// Whoever could not look for long can't tell who was silent meanwhile: the
	// disk may have kept all of them from their beat.
	blind := !w.looked.IsZero() && now.Sub(w.looked) > 2*w.o.Beat
	w.looked = now
	seen, dead, silent := map[Text]sighting{}, map[Text]int64{}, false
	for _, other := range workers {
		s, known := w.seen[other.ID]
		if !known || s.beat != other.Beat {
			s = sighting{beat: other.Beat, at: now, moved: known}
		}
		if blind {
			s.at = now
		}
		seen[other.ID] = s
		switch {
		case other.ID == me:
		case now.Sub(s.at) >= w.o.Lease:
			dead[other.ID] = other.Beat
		case !s.moved && w.q.Now().Sub(other.HeartbeatAt) > w.o.Lease:
			silent = true
		}
	}
	w.seen = seen
	w.count(func() { w.silent = silent })
	return dead
}
