//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"orchestrate/internal/chaos"
)

// steps of the wall clock, each from the one before; the last sets it right.
var steps = []time.Duration{time.Hour, -time.Hour, -24 * time.Hour, 10 * 365 * 24 * time.Hour, 0}

// clocks sets the wall clock of all processes while jobs run, wait for a retry
// and arrive.
func (h *harness) clocks(ctx context.Context, r *rig) error {
	clock := filepath.Join(r.Dir, "clock")
	r.Env = []string{chaos.SkewVariable + "=" + clock}
	if err := setClock(clock, 0); err != nil {
		return err
	}
	off, err := r.keepUp(ctx, []string{"serve"}, []string{"process"})
	if err != nil {
		return err
	}
	err = h.stepClocks(ctx, r, clock)
	return errors.Join(err, off())
}

func (h *harness) stepClocks(ctx context.Context, r *rig, clock string) error {
	const flaky, plain = 8, 20
	if err := r.registered(ctx, 2); err != nil {
		return err
	}
	workers, err := r.workerIDs(ctx)
	if err != nil {
		return err
	}
	var long, retried, once []int64
	for _, step := range steps {
		held, err1 := r.sendAll(ctx, 2, order{MS: 20_000})
		fail, err2 := r.sendAll(ctx, flaky, order{Fails: true})
		_, err3 := until(ctx, 10*time.Second, "all wait for their retry", func() (bool, error) { return r.waiting(ctx, fail) })
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		before, err1 := r.sendAll(ctx, plain/2, order{})
		if err := errors.Join(err1, setClock(clock, step)); err != nil {
			return err
		}
		after, err := r.sendAll(ctx, plain/2, order{})
		if err != nil {
			return err
		}
		long, retried, once = append(long, held...), append(retried, fail...), append(append(once, before...), after...)
		if err := r.ended(ctx, slices.Concat(fail, before, after), rigRetry+30*time.Second); err != nil {
			return fmt.Errorf("after the clock was set to %s: %w", step, err)
		}
	}
	if err := r.rested(ctx, time.Minute); err != nil {
		return err
	}
	still, err := r.workerIDs(ctx)
	if err != nil {
		return err
	}
	var v violations
	v.want(slices.Equal(workers, still), "the workers were %v, and are %v", workers, still)
	least, most, err := r.checkWaits(retried, slices.Concat(long, once), &v)
	if err := errors.Join(err, v.err()); err != nil {
		return err
	}
	h.say("clocks: set to %v from right: %d jobs ran once, %d of them across leases; %d retries came %s to %s after their failure, want %s; no lease was lost",
		steps, len(long)+len(once), len(long), len(retried), least.Round(10*time.Millisecond), most.Round(10*time.Millisecond), rigRetry)
	return nil
}

// checkWaits: by the clock of this machine, which nobody has set.
func (r *rig) checkWaits(retried, once []int64, v *violations) (least, most time.Duration, err error) {
	runs, err := chaos.Runs(r.Out)
	ends, starts, count := map[int64]int64{}, map[int64]int64{}, map[int64]int{}
	for _, run := range runs {
		switch {
		case run.Phase == "start":
			count[run.EventID]++
			starts[run.EventID] = run.At
		case run.Attempt == 1:
			ends[run.EventID] = run.At
		}
	}
	least = time.Hour
	for _, id := range retried {
		waited := time.Duration(starts[id]-ends[id]) * time.Millisecond
		least, most = min(least, waited), max(most, waited)
		v.want(count[id] == 2, "event %d was run %d times, want twice", id, count[id])
		v.want(waited >= rigRetry, "event %d was retried after %s, want %s", id, waited, rigRetry)
	}
	for _, id := range once {
		v.want(count[id] == 1, "event %d was run %d times, want once", id, count[id])
	}
	return least, most, err
}

// waiting tells whether all of the events have failed.
func (r *rig) waiting(ctx context.Context, events []int64) (bool, error) {
	all, err := r.histories(ctx)
	for _, id := range events {
		if all[id] == nil || all[id].status != "failed" {
			return false, err
		}
	}
	return true, err
}

// ended waits until those events have completed.
func (r *rig) ended(ctx context.Context, events []int64, within time.Duration) error {
	var left int64
	_, err := until(ctx, within, "all have completed", func() (bool, error) {
		all, err := r.histories(ctx)
		for _, id := range events {
			if all[id] == nil || all[id].status != "completed" {
				left = id
				return false, err
			}
		}
		return true, err
	})
	if err != nil {
		err = fmt.Errorf("event %d: %w", left, err)
	}
	return err
}

func (r *rig) workerIDs(ctx context.Context) (ids []string, err error) {
	db, err := chaos.Open(r.Database)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(ctx, `SELECT id FROM workers ORDER BY id`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // read-only
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// setClock replaces the file at once: it is read at any time.
func setClock(path string, to time.Duration) error {
	if err := os.WriteFile(path+".new", []byte(to.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
