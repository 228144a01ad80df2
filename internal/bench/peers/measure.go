package main

import (
	"context"
	"errors"
	"time"
)

const (
	stored    = "stored events"
	settled   = "inserted, worked, settled"
	drained   = "worked off a backlog"
	startP50  = "enqueue to start, p50"
	startP99  = "enqueue to start, p99"
	oneCommit = "a commit of one row, p50"
)

// measureStore stores from all senders at once, with nobody at work.
func measureStore(ctx context.Context, b *bench, r *report) (err error) {
	cs, err := b.contenders(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll(cs)) }()
	for _, c := range cs[:3] { // connections, statements, pages
		if _, err := b.send(ctx, c, b.events/10); err != nil {
			return err
		}
	}
	err = b.eachRound(ctx, cs[:3], func(c contender) error { // tuning is about fetching
		return b.costing(ctx, r, stored, c, b.events, func() (time.Duration, error) { return b.send(ctx, c, b.events) })
	})
	if err != nil {
		return err
	}
	r.compare("stored events, PostgreSQL : River", "≥ 2", stored, namePostgres, nameRiver)
	r.compare("stored events, SQLite : River", "", stored, nameSQLite, nameRiver)
	return nil
}

// measureWork takes the time until the last of the jobs is settled: of those
// that are stored meanwhile, and of those that were before.
func measureWork(ctx context.Context, b *bench, r *report) (err error) {
	cs, err := b.contenders(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll(cs)) }()
	err = b.eachRound(ctx, cs, func(c contender) error {
		err := b.costing(ctx, r, settled, c, b.jobs, func() (time.Duration, error) { return b.sendAndWork(ctx, c) })
		if err != nil {
			return err
		}
		if _, err := b.send(ctx, c, b.jobs); err != nil {
			return err
		}
		if err := b.quiet(ctx); err != nil {
			return err
		}
		return b.costing(ctx, r, drained, c, b.jobs, func() (time.Duration, error) {
			begin := time.Now()
			end, err := c.work(ctx, b.jobs)
			return end.Sub(begin), err
		})
	})
	if err != nil {
		return err
	}
	for _, name := range []string{settled, drained} {
		goal := ""
		if name == settled {
			goal = "≥ 2"
		}
		r.compare(name+", PostgreSQL : River", goal, name, namePostgres, nameRiver)
		r.compare(name+", PostgreSQL : better River", goal, name, namePostgres, nameRiver, nameRiverHot)
		r.compare(name+", SQLite : better River", "", name, nameSQLite, nameRiver, nameRiverHot)
	}
	return nil
}

func (b *bench) sendAndWork(ctx context.Context, c contender) (time.Duration, error) {
	bodies := b.bodies(b.jobs)
	sent := make(chan error, 1)
	begin := time.Now()
	go func() {
		_, err := b.sendBodies(ctx, c, bodies)
		sent <- err
	}()
	end, err := c.work(ctx, b.jobs)
	return end.Sub(begin), errors.Join(err, <-sent)
}

// costing measures how many are done in a second, and what each costs.
func (b *bench) costing(ctx context.Context, r *report, what string, c contender, n int, do func() (time.Duration, error)) error {
	before, err := b.cpu(ctx)
	if err != nil {
		return err
	}
	took, err := do()
	if err != nil {
		return err
	}
	after, err := b.cpu(ctx)
	r.add(what, c.name(), "/s", float64(n)/took.Seconds())
	r.add(what+": CPU of the server", c.name(), "µs each", (after.server-before.server)*1e6/float64(n))
	r.add(what+": CPU of the program", c.name(), "µs each", (after.self-before.self)*1e6/float64(n))
	return err
}

// measureStart: one process stores, another works.
func measureStart(ctx context.Context, b *bench, r *report) (err error) {
	cs, err := b.contenders(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll(cs)) }()
	err = b.eachRound(ctx, cs, func(c contender) error {
		took, err := b.latencies(ctx, c)
		if err != nil {
			return err
		}
		if c.name() == namePostgres { // of which a start needs two: the insert's and the claim's
			commit, err := b.oneCommit(ctx)
			if err != nil {
				return err
			}
			r.add(oneCommit, c.name(), "ms", commit)
		}
		r.add(startP50, c.name(), "ms", quantile(took, 0.5))
		r.add(startP99, c.name(), "ms", quantile(took, 0.99))
		return nil
	})
	if err != nil {
		return err
	}
	r.compare("start p50 across processes, ms", "≤ 5", startP50, namePostgres)
	r.compareFigures("start p50 : a commit of one row", "", r.find(startP50, namePostgres), r.find(oneCommit, namePostgres))
	return nil
}

// oneCommit is what the server's disk allows: the milliseconds that a
// transaction of one small row takes.
func (b *bench) oneCommit(ctx context.Context) (float64, error) {
	if _, err := b.admin.Exec(ctx, "CREATE TABLE IF NOT EXISTS commits (at timestamptz)"); err != nil {
		return 0, err
	}
	var took []float64
	for range 50 {
		begin := time.Now()
		if _, err := b.admin.Exec(ctx, "INSERT INTO commits VALUES (now())"); err != nil {
			return 0, err
		}
		took = append(took, float64(time.Since(begin).Microseconds())/1000)
	}
	return median(took), nil
}
