package queue

import (
	"context"
	"errors"
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
		case <-w.background.Done():
			return
		}
		if err := w.heartbeat(); err != nil && w.background.Err() == nil {
			w.log.Error("heartbeat", "worker", w.name(), "error", err.Error())
			if errors.Is(err, ErrSchema) || errors.Is(err, ErrBroken) {
				w.fail(err)
			}
		}
	}
}

func (w *worker) heartbeat() error {
	at := Clock()
	w.mu.Lock()
	id, asked, quiet := w.id, w.claims, w.claiming == 0
	running := map[JobKey]Claim{}
	for k, r := range w.runs {
		running[k] = r.claim
	}
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(w.background, w.o.Lease)
	defer cancel()
	held, err := w.q.store.Heartbeat(ctx, id, At(at))
	if errors.Is(err, ErrLeaseLost) {
		return w.surrender(ctx)
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.leased(at)
	w.stopVanished(held, running)
	giveBack := w.findUnknown(held, quiet && w.claims == asked && w.claiming == 0)
	w.mu.Unlock()
	for _, j := range giveBack {
		w.log.Warn("given back: the claim's result was lost", "event_id", j.EventID, "route", j.Route, "attempt", j.Seq)
		if err := w.q.store.Settle(ctx, j.Claim, GiveBack(j, "the claim's result was lost", Now())); err != nil && !errors.Is(err, ErrStale) {
			return err
		}
		w.q.Wake()
	}
	w.rescue(ctx)
	return w.q.store.CheckSchema(ctx) // a newer program may have migrated the database
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
func (w *worker) stopVanished(held []Job, running map[JobKey]Claim) {
	for _, j := range held {
		if running[j.JobKey] == j.Claim {
			delete(running, j.JobKey)
		}
	}
	for k, c := range running {
		if r := w.runs[k]; r != nil && r.claim == c && !r.settling {
			r.cancel(errVanished)
		}
	}
}

// findUnknown returns the jobs that the store holds for this worker, but that
// did not run here at two heartbeats running, with no claim unanswered: a
// commit whose result was lost. The caller holds mu.
func (w *worker) findUnknown(held []Job, quiet bool) []Job {
	before := w.unknown
	w.unknown = nil
	if !quiet {
		return nil
	}
	var lost []Job
	for _, j := range held {
		if r := w.runs[j.JobKey]; r != nil && r.claim == j.Claim {
			continue
		}
		if before[j.Claim] {
			lost = append(lost, j)
			continue
		}
		if w.unknown == nil {
			w.unknown = map[Claim]bool{}
		}
		w.unknown[j.Claim] = true
	}
	return lost
}

// rescue takes over from workers whose beat has not moved for a lease of our
// own monotonic clock.
func (w *worker) rescue(ctx context.Context) {
	workers, err := w.q.store.Workers(ctx)
	if err != nil {
		w.log.Warn("look after other workers", "error", err.Error())
		return
	}
	now, me := Clock(), w.name()
	first := len(w.seen) == 0
	seen, dead, silent := map[Text]sighting{}, map[Text]int64{}, false
	for _, other := range workers {
		s, known := w.seen[other.ID]
		if !known || s.beat != other.Beat {
			s = sighting{beat: other.Beat, at: now, moved: known}
		}
		seen[other.ID] = s
		switch {
		case other.ID == me:
		case now.Sub(s.at) >= w.o.Lease:
			dead[other.ID] = other.Beat
		case !s.moved && At(now).Sub(other.HeartbeatAt) > w.o.Lease:
			silent = true
		}
	}
	w.seen = seen
	w.mu.Lock()
	w.silent = silent
	w.mu.Unlock()
	if w.o.Sweep != nil && (first || len(dead) > 0) {
		w.o.Sweep() // before the jobs can be claimed again
	}
	rescued, err := w.q.store.Rescue(ctx, dead, Now())
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
