package main

import (
	"context"
	"errors"
	"time"
)

const (
	stored   = "stored events"
	settled  = "inserted, worked, settled"
	drained  = "worked off a backlog"
	startP50 = "enqueue to start, p50"
	startP99 = "enqueue to start, p99"
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
		took, err := b.send(ctx, c, b.events)
		r.add(stored, c.name(), "/s", float64(b.events)/took.Seconds())
		return err
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
		begin := time.Now()
		sent := make(chan error, 1)
		go func() {
			_, err := b.send(ctx, c, b.jobs)
			sent <- err
		}()
		end, err := c.work(ctx, b.jobs)
		if err := errors.Join(err, <-sent); err != nil {
			return err
		}
		r.add(settled, c.name(), "/s", float64(b.jobs)/end.Sub(begin).Seconds())
		if _, err := b.send(ctx, c, b.jobs); err != nil {
			return err
		}
		if err := b.quiet(ctx); err != nil {
			return err
		}
		begin = time.Now()
		if end, err = c.work(ctx, b.jobs); err != nil {
			return err
		}
		r.add(drained, c.name(), "/s", float64(b.jobs)/end.Sub(begin).Seconds())
		return nil
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
		r.add(startP50, c.name(), "ms", quantile(took, 0.5))
		r.add(startP99, c.name(), "ms", quantile(took, 0.99))
		return nil
	})
	if err != nil {
		return err
	}
	r.compare("start p50 across processes, ms", "≤ 5", startP50, namePostgres)
	return nil
}
