//go:build unix

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"orchestrate/internal/chaos"
	"orchestrate/internal/queue"
	"orchestrate/internal/store/pgtest"
)

func (h *harness) killsSQLite(ctx context.Context) error {
	s, err := h.site("kills", h.bin, "")
	if err != nil {
		return err
	}
	return h.kills(ctx, s, h.cycles)
}

func (h *harness) killsPostgres(ctx context.Context) error {
	server, err := pgtest.Start(pgtest.Durable)
	if errors.Is(err, pgtest.ErrMissing) {
		return errMissing{err.Error()}
	}
	if err != nil {
		return err
	}
	s, err := h.site("postgres", h.bin, server.URL("postgres"))
	if err == nil {
		err = h.kills(ctx, s, h.postgres)
	}
	return errors.Join(err, server.Remove())
}

// drill is a server, workers, cleanups, an operator and a sender at work.
type drill struct {
	*chaos.Site
	out     *harness
	dice    *rand.Rand
	ledger  *chaos.Ledger
	serve   *chaos.Node
	workers []*chaos.Node

	pause time.Duration // between the bursts of a sender; 0: a second

	commands atomic.Int64 // that ended by themselves
	killed   atomic.Int64 // processes
	mu       sync.Mutex
	bad      []error // of commands that failed by themselves

	red   []string // the checks that found something before the end
	ready time.Duration
	late  int // times that it took longer than 2 s
}

// kills is the main part: after every cycle one more process was killed.
func (h *harness) kills(ctx context.Context, s *chaos.Site, cycles int) (err error) {
	d := &drill{Site: s, out: h, dice: rand.New(rand.NewPCG(h.seed, 0)), ledger: chaos.NewLedger()} //nolint:gosec // seeded
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := d.up(ctx, 3); err != nil {
		return err
	}
	stop := d.work(ctx)
	for range cycles {
		if err = d.cycle(ctx); err != nil || ctx.Err() != nil {
			break
		}
	}
	stop()
	if err != nil || ctx.Err() != nil {
		return err
	}
	return d.end(ctx, cycles)
}

func (d *drill) up(ctx context.Context, workers int) (err error) {
	if d.serve, err = d.Start("serve", "serve"); err != nil {
		return err
	}
	if _, err := d.AwaitReady(ctx, d.serve, 30*time.Second); err != nil {
		return err
	}
	for i := range workers {
		w, err := d.Start(fmt.Sprint("worker-", i), "process")
		if err != nil {
			return err
		}
		d.workers = append(d.workers, w)
	}
	return nil
}

// work sends, cleans up and requeues until it is stopped.
func (d *drill) work(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		sender := chaos.NewSender(d.ledger, d.Listen)
		defer sender.Close()
		load := chaos.Load{
			Seed: d.out.seed, Name: "kill", Senders: 8, Burst: 10, Pause: cmp.Or(d.pause, time.Second), MaxBody: 100_000,
			Events: []string{"push", "issues", "watch", "fork", "push"},
		}
		sender.Run(ctx, load)
	})
	commands := [][]string{
		{"events", "requeue-dead", "--all", "--yes"},
		{"cleanup", "--older-than", "3s"},
		{"process", "--once", "--limit", "5"},
		{"events", "list", "-o", "ndjson", "--limit", "50"},
	}
	for i, args := range commands {
		dice := rand.New(rand.NewPCG(d.out.seed, uint64(100+i))) //nolint:gosec // seeded
		wg.Go(func() { d.operate(ctx, dice, args) })
	}
	return func() { cancel(); wg.Wait() }
}

// operate runs a command again and again; each third one is killed. None may
// fail by itself.
func (d *drill) operate(ctx context.Context, dice *rand.Rand, args []string) {
	for ctx.Err() == nil {
		if err := d.command(ctx, dice, args); err != nil {
			d.mu.Lock()
			d.bad = append(d.bad, err)
			d.mu.Unlock()
		}
		chaos.Pause(ctx, time.Duration(300+dice.IntN(700))*time.Millisecond)
	}
}

func (d *drill) command(ctx context.Context, dice *rand.Rand, args []string) error {
	cmd := d.Command(context.WithoutCancel(ctx), args...)
	log, err := os.OpenFile(filepath.Join(d.Dir, args[0]+".command.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	var output bytes.Buffer
	cmd.Stderr = io.MultiWriter(log, &output)
	if err := cmd.Start(); err != nil {
		return err
	}
	if dice.IntN(3) == 0 {
		time.AfterFunc(time.Duration(dice.IntN(60))*time.Millisecond, func() { _ = cmd.Process.Kill() })
	}
	err = cmd.Wait()
	ended, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case err == nil:
		d.commands.Add(1)
	case ended.Signal() == syscall.SIGKILL: // by us: nobody else does
		d.killed.Add(1)
	default:
		return fmt.Errorf("%v: %w: %s", args, err, output.Bytes())
	}
	return nil
}

// kill kills a process, which must not have ended by itself.
func (d *drill) kill(n *chaos.Node) error {
	select {
	case <-n.Ended():
		return fmt.Errorf("%s had ended with %d", n.LogFile(), n.ExitCode())
	default:
	}
	d.killed.Add(1)
	return n.Kill()
}

// cycle kills one process, or all, at some moment, and starts what was killed.
func (d *drill) cycle(ctx context.Context) error {
	chaos.Pause(ctx, time.Duration(100+d.dice.IntN(500))*time.Millisecond)
	victims := []*chaos.Node{d.serve}
	switch n := d.dice.IntN(10); {
	case n < 5:
		victims = []*chaos.Node{d.workers[d.dice.IntN(len(d.workers))]}
	case n == 9:
		victims = append(victims, d.workers...)
	}
	for _, v := range victims {
		if err := d.kill(v); err != nil {
			return err
		}
	}
	for _, v := range victims {
		if err := v.Start(); err != nil {
			return err
		}
	}
	if victims[0] != d.serve {
		return nil
	}
	took, err := d.AwaitReady(ctx, d.serve, 30*time.Second)
	d.ready = max(d.ready, took)
	if took > 2*time.Second {
		d.late++
	}
	return err
}

// end lets the queue come to rest, stops all and checks.
func (d *drill) end(ctx context.Context, cycles int) error {
	begun := queue.Clock()
	if err := d.rest(ctx, 3*time.Minute+time.Duration(cycles)*time.Second); err != nil { // the more was left undone
		return err
	}
	rested := queue.Clock().Sub(begun)
	errs := d.bad
	for _, n := range append(d.workers, d.serve) {
		code, err := n.Stop(20 * time.Second)
		if err == nil && code != 0 {
			err = fmt.Errorf("%s ended with %d", n.LogFile(), code)
		}
		errs = append(errs, err)
	}
	d.out.say("%d cycles, %d processes killed, %d commands ended by themselves, %d delivery ids acknowledged, answers %v",
		cycles, d.killed.Load(), d.commands.Load(), d.ledger.Acked(), d.ledger.Statuses())
	d.out.say("ready after a kill within %s, %d times later than 2 s; at rest after %s", d.ready.Round(time.Millisecond), d.late, rested.Round(100*time.Millisecond))
	findings, err := chaos.Check(ctx, d.Database, d.facts(true))
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if n := chaos.Report(d.out.out, findings); n > 0 {
		errs = append(errs, fmt.Errorf("%d violations", n))
	}
	if idle := chaos.Unlooked(findings); len(idle) > 0 && cycles >= 20 && d.Database == filepath.Join(d.Dir, "state", "q.db") {
		errs = append(errs, fmt.Errorf("these had nothing to look at, and prove nothing: %v", idle))
	}
	return errors.Join(errs...)
}

func (d *drill) facts(final bool) chaos.Facts {
	files, _ := filepath.Glob(filepath.Join(d.Dir, "*.log"))
	state, _ := filepath.Glob(filepath.Join(d.Dir, "state", "*"))
	return chaos.Facts{Ledger: d.ledger, Out: d.Out, Final: final, Files: append(files, state...)}
}

// rest waits until no job is open.
func (d *drill) rest(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("not at rest after %s", within))
	defer cancel()
	for {
		open, err := chaos.OpenJobs(ctx, d.Database)
		if err == nil && open == 0 {
			return nil
		}
		if chaos.Pause(ctx, 250*time.Millisecond); ctx.Err() != nil {
			return errors.Join(fmt.Errorf("%w: %d jobs are open", context.Cause(ctx), open), err)
		}
		for _, n := range append(d.workers, d.serve) { // none may end by itself
			select {
			case <-n.Ended():
				return fmt.Errorf("%s has ended", n.LogFile())
			default:
			}
		}
	}
}
