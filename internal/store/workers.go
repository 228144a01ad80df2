package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"orchestrate/internal/queue"
)

// Register implements queue.Store.
func (s *SQLite) Register(ctx context.Context, w queue.Worker, earlier queue.Text) error {
	_, err := write(ctx, s.w, s.w.urgent, 0, func(ctx context.Context, q querier) (struct{}, error) {
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
		VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $7, $8, $9, $10, $11)`,
		w.ID, w.Host, w.PID, w.Version, routes, w.Slots, w.StartedAt, w.ConfigHash, w.ReloadCount, w.ReloadsFailed, w.ReloadError)
	if err != nil {
		return fmt.Errorf("register worker %s: %w", w.ID, err)
	}
	return nil
}

const heldQuery = `SELECT ` + jobColumns + ` FROM webhook_jobs WHERE worker_id = $1 AND status = 'processing' ORDER BY event_id, route`

// Heartbeat implements queue.Store.
func (s *SQLite) Heartbeat(ctx context.Context, w queue.Worker) ([]queue.Job, error) {
	routes, err := json.Marshal(w.Routes)
	if err != nil {
		return nil, err
	}
	return write(ctx, s.w, s.w.urgent, 0, func(ctx context.Context, q querier) ([]queue.Job, error) {
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
func (s *SQLite) Unregister(ctx context.Context, workerID queue.Text, now queue.Time) error {
	_, err := write(ctx, s.w, s.w.urgent, 0, func(ctx context.Context, q querier) (struct{}, error) {
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
	for _, j := range jobs {
		if err := settle(ctx, q, j.Claim, queue.GiveBack(j, "its worker has gone", now)); err != nil {
			return err
		}
	}
	return nil
}

// Workers implements queue.Store.
func (s *SQLite) Workers(ctx context.Context) ([]queue.Worker, error) {
	workers, err := all(ctx, s.reads, `SELECT id, host, pid, version, routes, slots, started_at, beat, heartbeat_at,
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
	return workers, classify(err)
}

// Rescue implements queue.Store.
func (s *SQLite) Rescue(ctx context.Context, dead map[queue.Text]int64, now queue.Time) ([]queue.Rescued, error) {
	if len(dead) == 0 { // as nearly always: look before taking the write lock
		orphans, err := all(ctx, s.reads, orphanQuery, nil, scanJob)
		if err != nil || len(orphans) == 0 {
			return nil, classify(err)
		}
	}
	return write(ctx, s.w, s.w.urgent, 0, func(ctx context.Context, q querier) ([]queue.Rescued, error) {
		return rescue(ctx, q, dead, now)
	})
}

// orphanQuery reads a partial index: as many rows as there are slots.
const orphanQuery = `SELECT ` + jobColumns + ` FROM webhook_jobs
	WHERE status = 'processing' AND worker_id NOT IN (SELECT id FROM workers) ORDER BY worker_id, event_id, route /*lock*/`

func rescue(ctx context.Context, q querier, dead map[queue.Text]int64, now queue.Time) ([]queue.Rescued, error) {
	for id, beat := range dead {
		if _, err := exec(ctx, q, `DELETE FROM workers WHERE id = $1 AND beat = $2`, id, beat); err != nil {
			return nil, err
		}
	}
	jobs, err := all(ctx, q, orphanQuery, nil, scanJob)
	if err != nil {
		return nil, err
	}
	var out []queue.Rescued
	for len(jobs) > 0 {
		n := 1 // those of one worker
		for n < len(jobs) && jobs[n].WorkerID == jobs[0].WorkerID {
			n++
		}
		for i, st := range queue.AfterCrash(jobs[:n], now) {
			if err := settle(ctx, q, jobs[i].Claim, st); err != nil {
				return nil, err
			}
			out = append(out, queue.Rescued{Claim: jobs[i].Claim, Settlement: st})
		}
		jobs = jobs[n:]
	}
	return out, nil
}
