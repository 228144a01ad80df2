package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"orchestrate/internal/queue"
)

// Register implements queue.Store.
func (s *shared) Register(ctx context.Context, w queue.Worker, earlier queue.Text) error {
	_, err := write(ctx, s, op{recognises: always, wakes: true, urgent: true}, func(ctx context.Context, q querier) (struct{}, error) {
		return struct{}{}, register(ctx, q, w, earlier)
	})
	return err
}

func register(ctx context.Context, q querier, w queue.Worker, earlier queue.Text) error {
	if earlier != "" {
		if err := unregister(ctx, q, earlier, w.StartedAt); err != nil {
			return err
		}
	}
	routes, err := json.Marshal(w.Routes)
	if err != nil {
		return err
	}
	_, err = exec(ctx, q, `INSERT INTO workers (id, host, pid, version, routes, slots, started_at, beat, heartbeat_at,
			config_hash, reloads, reloads_failed, reload_error)
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10, $11, $12)
		ON CONFLICT (id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at`, // made by a run whose commit was in doubt
		w.ID, w.Host, w.PID, w.Version, routes, w.Slots, w.StartedAt, w.StartedAt, w.ConfigHash, w.ReloadCount, w.ReloadsFailed, w.ReloadError)
	if err != nil {
		return fmt.Errorf("register worker %s: %w", w.ID, err)
	}
	return nil
}

const heldQuery = `SELECT ` + jobColumns + ` FROM webhook_jobs WHERE worker_id = $1 AND status = 'processing' ORDER BY event_id, route`

// Heartbeat implements queue.Store.
func (s *shared) Heartbeat(ctx context.Context, w queue.Worker) ([]queue.Job, error) {
	routes, err := json.Marshal(w.Routes)
	if err != nil {
		return nil, err
	}
	return write(ctx, s, op{recognises: always, urgent: true}, func(ctx context.Context, q querier) ([]queue.Job, error) {
		n, err := exec(ctx, q, `UPDATE workers SET beat = beat + 1, heartbeat_at = $2, routes = $3, slots = $4,
			config_hash = $5, reloads = $6, reloads_failed = $7, reload_error = $8 WHERE id = $1`,
			w.ID, w.HeartbeatAt, routes, w.Slots, w.ConfigHash, w.ReloadCount, w.ReloadsFailed, w.ReloadError)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, fmt.Errorf("worker %s: %w", w.ID, queue.ErrLeaseLost)
		}
		return all(ctx, q, heldQuery, args{w.ID}, scanJob)
	})
}

// Unregister implements queue.Store.
func (s *shared) Unregister(ctx context.Context, workerID queue.Text, now queue.Time) error {
	_, err := write(ctx, s, op{recognises: always, wakes: true}, func(ctx context.Context, q querier) (struct{}, error) {
		return struct{}{}, unregister(ctx, q, workerID, now)
	})
	return err
}

func unregister(ctx context.Context, q querier, workerID queue.Text, now queue.Time) error {
	if _, err := exec(ctx, q, `DELETE FROM workers WHERE id = $1`, workerID); err != nil {
		return err
	}
	jobs, err := all(ctx, q, heldQuery, args{workerID}, scanJob)
	if err != nil {
		return err
	}
	items := make([]settling, len(jobs))
	for i, j := range jobs {
		items[i] = settling{Claim: j.Claim, Settlement: queue.GiveBack(j, "its worker has gone", now)}
	}
	_, err = settle(ctx, q, items) // a stale one was given back by another
	return err
}

// Workers implements queue.Store.
func (s *shared) Workers(ctx context.Context) ([]queue.Worker, error) {
	workers, err := readWorkers(ctx, s.reads)
	return workers, classify(err)
}

func readWorkers(ctx context.Context, q querier) ([]queue.Worker, error) {
	return all(ctx, q, `SELECT id, host, pid, version, routes, slots, started_at, beat, heartbeat_at,
			config_hash, reloads, reloads_failed, reload_error
		FROM workers ORDER BY id`, nil, func(rows *sql.Rows, w *queue.Worker) error {
		var routes []byte
		err := rows.Scan(&w.ID, &w.Host, &w.PID, &w.Version, &routes, &w.Slots, &w.StartedAt, &w.Beat, &w.HeartbeatAt,
			&w.ConfigHash, &w.ReloadCount, &w.ReloadsFailed, &w.ReloadError)
		if err != nil {
			return err
		}
		return json.Unmarshal(routes, &w.Routes)
	})
}

// Rescue implements queue.Store.
func (s *shared) Rescue(ctx context.Context, dead map[queue.Text]int64, now queue.Time) ([]queue.Rescued, error) {
	if len(dead) == 0 { // as nearly always: look before taking the write lock
		orphans, err := all(ctx, s.reads, orphanQuery, nil, scanJob)
		if err != nil || len(orphans) == 0 {
			return nil, classify(err)
		}
	}
	return write(ctx, s, op{wakes: true}, func(ctx context.Context, q querier) ([]queue.Rescued, error) {
		return rescue(ctx, q, dead, now)
	})
}

// orphanQuery reads a partial index: as many rows as there are slots. It locks
// nothing: a worker's row, once gone, never comes back, so that what is an
// orphan stays one until it is settled.
const orphanQuery = `SELECT ` + jobColumns + ` FROM webhook_jobs
	WHERE status = 'processing' AND worker_id NOT IN (SELECT id FROM workers) ORDER BY worker_id, event_id, route`

func rescue(ctx context.Context, q querier, dead map[queue.Text]int64, now queue.Time) ([]queue.Rescued, error) {
	// One whose claim hangs, as its machine is cut off, holds its row until the
	// server breaks the claim off; nobody waits for that.
	for _, id := range slices.Sorted(maps.Keys(dead)) { // two rescuers take the locks in one order
		_, err := exec(ctx, q, `DELETE FROM workers WHERE id IN
			(SELECT w.id FROM workers w WHERE w.id = $1 AND w.beat = $2 /*skip worker*/)`, id, dead[id])
		if err != nil {
			return nil, err
		}
	}
	jobs, err := all(ctx, q, orphanQuery, nil, scanJob)
	if err != nil {
		return nil, err
	}
	var items []settling
	for len(jobs) > 0 {
		n := 1 // those of one worker
		for n < len(jobs) && jobs[n].WorkerID == jobs[0].WorkerID {
			n++
		}
		for i, st := range queue.AfterCrash(jobs[:n], now) {
			items = append(items, settling{Claim: jobs[i].Claim, Settlement: st})
		}
		jobs = jobs[n:]
	}
	return settleOrphans(ctx, q, items)
}

// settleOrphans tells those that nobody else has rescued meanwhile.
func settleOrphans(ctx context.Context, q querier, items []settling) ([]queue.Rescued, error) {
	stale, err := settle(ctx, q, items)
	if err != nil {
		return nil, err
	}
	var out []queue.Rescued
	for _, s := range items {
		if !slices.ContainsFunc(stale, func(o settling) bool { return o.Claim == s.Claim }) {
			out = append(out, queue.Rescued{Claim: s.Claim, Settlement: s.Settlement})
		}
	}
	return out, nil
}
