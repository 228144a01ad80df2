package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"orchestrate/internal/chaos"
)

// path is a way of writing, killed at each of its system calls.
type path struct {
	name string
	// prepare makes something to do, beside a server that lives.
	prepare func(c *callKills, ctx context.Context) error
	// args of the command that is killed.
	args func(c *callKills) []string
	// beside runs while the command does; the context is the command's life.
	beside func(c *callKills, ctx context.Context)
	// after looks at what is left, beside what is always checked.
	after func(c *callKills, ctx context.Context) error
}

var paths = []path{
	{name: "receive", args: (*callKills).receiver, beside: (*callKills).deliver},
	{name: "claim and settle", prepare: (*callKills).fill, args: fixed("process", "--once", "--limit", "2")},
	{name: "requeue", prepare: (*callKills).bury, args: fixed("events", "requeue-dead", "--all", "--yes")},
	{name: "cleanup", prepare: (*callKills).finish, args: fixed("cleanup", "--older-than", "1ms")},
	{name: "migrate", args: (*callKills).migration, after: (*callKills).migrated},
}

func fixed(args ...string) func(*callKills) []string {
	return func(*callKills) []string { return args }
}

var kinds = []string{"fsync", "pwrite64", "ftruncate", "fcntl"}

// callKills is one path, on a site of its own with a server that only receives.
type callKills struct {
	*drill
	n      int // of the delivery, and of the database
	listen string
}

func (h *harness) killAtCalls(ctx context.Context) error {
	rows, errs := make([]bytes.Buffer, len(paths)), make([]error, len(paths))
	var wg sync.WaitGroup
	for i, p := range paths {
		wg.Go(func() { errs[i] = h.killPath(ctx, p, &rows[i]) })
	}
	wg.Wait()
	t := tabwriter.NewWriter(h.out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "PATH\tKILLED BEFORE\tOF CALLS\tKILLS\tACKNOWLEDGED\tVIOLATIONS")
	for i := range rows {
		_, _ = t.Write(rows[i].Bytes())
	}
	_ = t.Flush()
	return errors.Join(errs...)
}

func (h *harness) killPath(ctx context.Context, p path, t io.Writer) (err error) {
	s, err := h.site("calls-"+p.name, h.bin, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	c := &callKills{drill: &drill{Site: s, out: h, ledger: chaos.NewLedger()}}
	if c.serve, err = s.Start("serve", "serve", "--no-process"); err != nil {
		return err
	}
	if _, err := s.AwaitReady(ctx, c.serve, 30*time.Second); err != nil {
		return err
	}
	for _, kind := range kinds {
		met, _, _, err := c.kill(ctx, p, kind, 0)
		if err != nil {
			return fmt.Errorf("%s, to count %s: %w", p.name, kind, err)
		}
		killed, violations := 0, 0
		for _, k := range spread(met, h.calls) {
			_, dead, findings, err := c.kill(ctx, p, kind, k)
			if err != nil {
				return fmt.Errorf("%s, before %s %d: %w", p.name, kind, k, err)
			}
			for _, f := range findings {
				violations += len(f.Bad)
			}
			if violations > 0 {
				return fmt.Errorf("%s, before %s %d: %d violations\n%s", p.name, kind, k, violations, reported(findings))
			}
			if dead { // not each time does it make as many
				killed++
			}
		}
		if killed == 0 && (kind == "fsync" || kind == "pwrite64") {
			return fmt.Errorf("%s ended without a single %s: nothing is shown", p.name, kind)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\n", p.name, kind, met, killed, c.ledger.Acked(), violations)
	}
	return c.settle(ctx)
}

// spread chooses so many of n, from the first to the last.
func spread(n, most int) (chosen []int) {
	if n <= most {
		most = n
	}
	for i := range most {
		chosen = append(chosen, 1+i*(n-1)/max(1, most-1))
	}
	return chosen
}

// kill runs the path once, and tells how many of the calls it met.
func (c *callKills) kill(ctx context.Context, p path, kind string, k int) (met int, dead bool, findings []chaos.Finding, err error) {
	if p.prepare != nil {
		if err := p.prepare(c, ctx); err != nil {
			return 0, false, nil, fmt.Errorf("prepare: %w", err)
		}
	}
	whole := c.Command(ctx, p.args(c)...)
	cmd := exec.CommandContext(ctx, c.out.handler, chaos.KillAtArgs(kind, k, whole.Args...)...) //nolint:gosec // our own
	cmd.Env = whole.Env
	log, err := os.Create(filepath.Join(c.Dir, "killed.log"))
	if err != nil {
		return 0, false, nil, err
	}
	defer func() { _ = log.Close() }()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return 0, false, nil, err
	}
	alive, ended := context.WithCancel(ctx)
	var wg sync.WaitGroup
	if p.beside != nil {
		wg.Go(func() {
			p.beside(c, alive)
			_ = cmd.Process.Signal(syscall.SIGTERM) // if it has not been killed yet
		})
	}
	_ = cmd.Wait() // the code tells
	ended()
	wg.Wait()
	code := cmd.ProcessState.ExitCode()
	text, err := os.ReadFile(log.Name())
	if err != nil || code != 0 && code != 137 {
		return 0, false, nil, errors.Join(err, fmt.Errorf("%v ended with %d: %s", whole.Args, code, text))
	}
	text = bytes.TrimSpace(text)
	if met, err = strconv.Atoi(string(text[bytes.LastIndexByte(text, '\n')+1:])); err != nil {
		return 0, false, nil, err
	}
	if p.after != nil {
		if err := p.after(c, ctx); err != nil {
			return 0, false, nil, err
		}
	}
	findings, err = chaos.Check(ctx, c.Database, c.facts(false))
	return met, code == 137, findings, err
}

// settle has the queue come to rest in the end, and checks once more.
func (c *callKills) settle(ctx context.Context) error {
	w, err := c.Start("worker", "process")
	if err != nil {
		return err
	}
	c.workers = []*chaos.Node{w}
	if err := c.rest(ctx, 2*time.Minute); err != nil {
		return err
	}
	if _, err := w.Stop(20 * time.Second); err != nil {
		return err
	}
	findings, err := chaos.Check(ctx, c.Database, c.facts(true))
	for _, f := range findings {
		if len(f.Bad) > 0 {
			return errors.Join(err, fmt.Errorf("at rest: violations\n%s", reported(findings)))
		}
	}
	return err
}

// post sends deliveries to the server that lives.
func (c *callKills) send(ctx context.Context, event string, n int) error {
	for range n {
		c.n++
		if err := c.post(ctx, fmt.Sprint("calls-", c.n), event); err != nil {
			return err
		}
	}
	return nil
}

func (c *callKills) fill(ctx context.Context) error {
	open, err := chaos.OpenJobs(ctx, c.Database)
	if err != nil || open >= 4 {
		return err
	}
	return errors.Join(c.send(ctx, "push", 3), c.send(ctx, "issues", 1))
}

// bury makes dead letters.
func (c *callKills) bury(ctx context.Context) error {
	if c.n == 0 {
		if err := c.send(ctx, "delete", 3); err != nil {
			return err
		}
	}
	return c.Command(ctx, "process", "--once").Run()
}

func (c *callKills) finish(ctx context.Context) error { return c.send(ctx, "ping", 3) }

// receiver is a second server, which is killed.
func (c *callKills) receiver() []string {
	listen, err1 := chaos.FreeAddress()
	admin, err2 := chaos.FreeAddress()
	if errors.Join(err1, err2) != nil {
		return nil // the command tells
	}
	c.listen = listen
	return []string{"serve", "--no-process", "--listen", listen, "--admin-listen", admin}
}

// deliver sends to it until it has been killed, or has answered many: new ones,
// each twice.
func (c *callKills) deliver(ctx context.Context) {
	sender := chaos.NewSender(c.ledger, c.listen)
	defer sender.Close()
	events := []string{"push", "fork", "ping"}
	for answered := 0; answered < 40 && ctx.Err() == nil; {
		c.n++
		d := chaos.Delivery{ID: fmt.Sprint("received-", c.n), Event: events[c.n%len(events)], Body: fmt.Appendf(nil, "{\"n\": %d}\n", c.n)}
		for range 2 {
			if sender.Post(context.WithoutCancel(ctx), d) == 0 { // what was answered counts, whatever ended since
				chaos.Pause(ctx, 10*time.Millisecond) // not up yet, or dead
			} else {
				answered++
			}
		}
	}
}

// migration makes a new database each time.
func (c *callKills) migration() []string {
	c.n++
	return []string{"migrate", "--database", c.fresh()}
}

func (c *callKills) fresh() string { return filepath.Join(c.Dir, fmt.Sprint("new-", c.n), "q.db") }

// migrated makes the same once more, which must do what is left.
func (c *callKills) migrated(ctx context.Context) error {
	for _, args := range [][]string{
		{"migrate", "--database", c.fresh()},
		{"migrate", "status", "--exit-code", "--database", c.fresh()},
		{"events", "list", "--database", c.fresh()},
	} {
		if out, err := c.Command(ctx, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v after a kill: %w: %s", args, err, out)
		}
	}
	return os.RemoveAll(filepath.Dir(c.fresh()))
}

func reported(findings []chaos.Finding) string {
	bad := slices.DeleteFunc(findings, func(f chaos.Finding) bool { return len(f.Bad) == 0 })
	var text []byte
	for _, f := range bad {
		text = fmt.Appendf(text, "%s: %v\n", f.What, f.Bad)
	}
	return string(text)
}
