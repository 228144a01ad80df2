//go:build unix

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"orchestrate/internal/chaos"
	"orchestrate/internal/queue"
)

// zombies stops workers until another has finished their jobs, and lets them go
// on: half of their handlers have ended by then, half run still.
func (h *harness) zombies(ctx context.Context, r *rig) error {
	serve, err := r.Start("serve", "serve", "--no-process")
	if err != nil {
		return err
	}
	if _, err := r.AwaitReady(ctx, serve, 30*time.Second); err != nil {
		return err
	}
	var v violations
	claims, slowest := 0, time.Duration(0)
	for round := 0; claims < h.stopped; round++ {
		workers := min(6, (h.stopped-claims+rigSlots-1)/rigSlots)
		late, err := h.rise(ctx, r, round, workers, &v)
		if err != nil {
			return err
		}
		claims, slowest = claims+workers*rigSlots, max(slowest, late)
	}
	if err := v.err(); err != nil {
		return err
	}
	h.say("zombies: %d claims of stopped workers were finished by others; each result dropped, counted, logged once; handlers gone %s after going on",
		claims, slowest.Round(10*time.Millisecond))
	return nil
}

// rise is one round. It returns how long handlers outlived the moment at which
// their worker went on.
func (h *harness) rise(ctx context.Context, r *rig, round, workers int, v *violations) (late time.Duration, err error) {
	var stopped []*chaos.Node
	for i := range workers {
		n, err := r.Start(fmt.Sprintf("zombie-%d-%d", round, i), "process")
		if err != nil {
			return 0, err
		}
		stopped = append(stopped, n)
	}
	if err := r.registered(ctx, workers); err != nil {
		return 0, err
	}
	half, release := workers*rigSlots/2, filepath.Join(r.Dir, fmt.Sprint("release-", round))
	ended, err1 := r.sendAll(ctx, half, order{Until: release})
	running, err2 := r.sendAll(ctx, half, order{MS: 300_000})
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	events := append(ended, running...)
	if _, err := until(ctx, 30*time.Second, "all have started", func() (bool, error) { return r.ran(events, "start", 1) }); err != nil {
		return 0, err
	}
	for _, z := range stopped {
		if err := r.stop(ctx, z); err != nil {
			return 0, err
		}
	}
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		return 0, err
	}
	if _, err := until(ctx, 30*time.Second, "half have ended", func() (bool, error) { return r.ran(ended, "end", 1) }); err != nil {
		return 0, err
	}
	healthy, err := r.Start(fmt.Sprint("healthy-", round), "process")
	if err != nil {
		return 0, err
	}
	// One worker takes them one by one: they are suspects.
	if err := r.rested(ctx, time.Minute+time.Duration(len(events))*time.Second); err != nil {
		return 0, err
	}
	before, err := r.histories(ctx)
	if err != nil {
		return 0, err
	}
	for _, z := range stopped {
		if err := z.Signal(syscall.SIGCONT); err != nil {
			return 0, err
		}
	}
	late, err = until(ctx, 2*time.Second, "handlers of workers that went on are gone", func() (bool, error) { return r.gone(running, 1) })
	v.want(err == nil, "%w", err)
	if _, err := healthy.Stop(20 * time.Second); err != nil {
		return 0, err
	}
	if err := r.worksAgain(ctx, stopped, v); err != nil {
		return 0, err
	}
	after, err := r.histories(ctx)
	if err != nil {
		return 0, err
	}
	for _, id := range events {
		was, is := before[id], after[id]
		v.want(is != nil && is.status == "completed" && is.outcomes() == "crashed completed", "event %d: %+v, want crashed, then completed", id, is)
		v.want(was != nil && is != nil && fmt.Sprint(*was) == fmt.Sprint(*is), "event %d: a late result changed %+v to %+v", id, was, is)
	}
	return late, countStale(stopped, events, v)
}

// stop stops a worker, but not in a transaction: it would hold the lock of all
// who write for as long as it stands, and nobody could take over from it.
func (r *rig) stop(ctx context.Context, n *chaos.Node) error {
	_, err := until(ctx, 30*time.Second, "a worker stands outside of a transaction", func() (bool, error) {
		if err := n.Signal(syscall.SIGSTOP); err != nil {
			return false, err
		}
		free, err := r.writable(ctx)
		if err == nil && !free {
			err = n.Signal(syscall.SIGCONT)
		}
		return free, err
	})
	return err
}

// writable tells whether the lock of writers is to be had within a second.
func (r *rig) writable(ctx context.Context) (bool, error) {
	db, err := r.writer(time.Second)
	if err != nil {
		return false, err
	}
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, ctx.Err() // busy
	}
	return true, tx.Rollback()
}

// writer opens the database for transactions that write.
func (r *rig) writer(timeout time.Duration) (*sql.DB, error) {
	q := url.Values{"_pragma": {fmt.Sprintf("busy_timeout(%d)", timeout.Milliseconds())}, "_txlock": {"immediate"}}
	return sql.Open("sqlite", "file:"+(&url.URL{Path: r.Database}).EscapedPath()+"?"+q.Encode())
}

// worksAgain: those that went on have registered anew, and complete what comes.
func (r *rig) worksAgain(ctx context.Context, stopped []*chaos.Node, v *violations) error {
	_, err := until(ctx, 30*time.Second, "workers registered anew", func() (bool, error) {
		for _, z := range stopped {
			found, err := lines(z, "worker registered")
			if err != nil || len(found) != 2 {
				return false, err
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	fresh, err := r.sendAll(ctx, len(stopped)*rigSlots, order{MS: 1000})
	if err != nil {
		return err
	}
	if err := r.rested(ctx, 30*time.Second); err != nil {
		return err
	}
	runs, err := chaos.Runs(r.Out)
	if err != nil {
		return err
	}
	by := map[int]int{}
	for _, run := range runs {
		if run.EventID >= fresh[0] && run.Phase == "start" {
			by[run.Exit]++
		}
	}
	for _, z := range stopped {
		v.want(by[z.PID()] > 0, "%s ran none of %d jobs after it had registered anew", z.LogFile(), len(fresh))
		code, err := z.Stop(20 * time.Second)
		if err != nil {
			return err
		}
		v.want(code == 0, "%s ended with %d", z.LogFile(), code)
	}
	return nil
}

// countStale: each dropped result is in the log once, and in the sum at the end.
func countStale(stopped []*chaos.Node, events []int64, v *violations) error {
	told := map[float64]int{}
	sum := 0.0
	for _, z := range stopped {
		stale, err1 := lines(z, "stale: the claim is not ours any more")
		vanished, err2 := lines(z, "cancelled: the claim is gone")
		ends, err3 := lines(z, "stopped")
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		for _, line := range append(stale, vanished...) {
			id, _ := line["event_id"].(float64)
			told[id]++
		}
		v.want(len(ends) == 1, "%s tells %d times that it stopped", z.LogFile(), len(ends))
		for _, line := range ends {
			n, _ := line["stale"].(float64)
			sum += n
		}
	}
	for _, id := range events {
		v.want(told[float64(id)] == 1, "the dropped result of event %d was logged %d times, want once", id, told[float64(id)])
	}
	v.want(sum == float64(len(events)), "%v results were counted as stale, want %d", sum, len(events))
	return nil
}

func (r *rig) registered(ctx context.Context, workers int) error {
	_, err := until(ctx, 30*time.Second, "workers registered", func() (bool, error) {
		n, err := r.number(ctx, `SELECT count(*) FROM workers WHERE slots > 0`)
		return n == workers, err
	})
	return err
}

func (r *rig) number(ctx context.Context, query string) (n int, err error) {
	db, err := chaos.Open(r.Database)
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }()
	return n, db.QueryRowContext(ctx, query).Scan(&n)
}

// ran tells whether an attempt of each of the events came to a phase.
func (r *rig) ran(events []int64, phase string, attempt int64) (bool, error) {
	runs, err := chaos.Runs(r.Out)
	did := map[int64]bool{}
	for _, run := range runs {
		if run.Phase == phase && run.Attempt == attempt {
			did[run.EventID] = true
		}
	}
	for _, id := range events {
		if !did[id] {
			return false, err
		}
	}
	return true, err
}

// gone tells whether no process of an attempt of the events is left.
func (r *rig) gone(events []int64, attempt int64) (bool, error) {
	runs, err := chaos.Runs(r.Out)
	of := map[int64]bool{}
	for _, id := range events {
		of[id] = true
	}
	for _, run := range runs {
		if of[run.EventID] && run.Attempt == attempt && run.Phase == "start" && syscall.Kill(run.PID, 0) == nil {
			return false, err
		}
	}
	return true, err
}

// long runs handlers for longer than a lease while the database is nearly always
// locked: nobody takes them over from workers that beat.
func (h *harness) long(ctx context.Context, r *rig) error {
	off, err := r.keepUp(ctx, []string{"serve"}, []string{"process"})
	if err != nil {
		return err
	}
	const took = queue.Lease + 10*time.Second
	events, err := r.sendAll(ctx, rigSlots, order{MS: int(took.Milliseconds())})
	held := 0
	if err == nil {
		held, err = r.lock(ctx, took)
	}
	if err == nil {
		err = r.rested(ctx, time.Minute)
	}
	if err = errors.Join(err, off()); err != nil {
		return err
	}
	all, err := r.histories(ctx)
	if err != nil {
		return err
	}
	var v violations
	for _, id := range events {
		v.want(all[id].outcomes() == "completed", "event %d: %s, want completed at once", id, all[id].outcomes())
	}
	if err := v.err(); err != nil {
		return err
	}
	h.say("long: %d handlers of %s each ran once, while another program held the database's lock %d times for %s", len(events), took, held, lockFor)
	return nil
}

const lockFor = 3 * time.Second

// lock holds the lock of writers, with short pauses, for a time.
func (r *rig) lock(ctx context.Context, during time.Duration) (times int, err error) {
	db, err := r.writer(10 * time.Second)
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }()
	for begun := queue.Clock(); queue.Clock().Sub(begun) < during; times++ {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return times, fmt.Errorf("lock the database: %w", err)
		}
		chaos.Pause(ctx, lockFor)
		if err := tx.Rollback(); err != nil {
			return times, err
		}
		chaos.Pause(ctx, 200*time.Millisecond)
	}
	return times, ctx.Err()
}
