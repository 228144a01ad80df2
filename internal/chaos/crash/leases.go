//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"orchestrate/internal/chaos"
	"orchestrate/internal/queue"
)

// What leases promise: each drill on a site of its own, all at once, since they
// mostly wait for leases to end.
func (h *harness) leases(ctx context.Context) error {
	set, err := chaos.BuildBroken(ctx, h.dir, "clock", chaos.SettableClock)
	if err != nil {
		return err
	}
	drills := []struct {
		name, bin string
		run       func(context.Context, *rig) error
	}{
		{"poison", h.bin, h.poison},
		{"zombies", h.bin, h.zombies},
		{"long", h.bin, h.long},
		{"clocks", set, h.clocks},
	}
	errs := make([]error, len(drills))
	var wg sync.WaitGroup
	for i, d := range drills {
		wg.Go(func() {
			r, err := h.rig(d.name, d.bin)
			if err == nil {
				err = errors.Join(d.run(ctx, r), r.Close())
			}
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w", d.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// rig is a site whose one route, work, does what each payload says.
type rig struct {
	*chaos.Site
	sender *chaos.Sender
	sent   int
}

// order is a payload: what the handler is to do.
type order struct {
	MS     int    `json:"ms"`     // how long the first attempt takes
	Until  string `json:"until"`  // the first attempt waits until this file is there
	Fails  bool   `json:"fails"`  // the first attempt does
	Poison bool   `json:"poison"` // it kills its worker
}

const rigged = `listen: %s
admin_listen: %s
database: %q
secrets: ["file:%s/secret"]
log: {format: json, level: info}
drain_timeout: 2s
processor: {concurrency: %d, poll_interval: 500ms}
retry: {max: 3, base: %s}
routes:
  - name: work
    on: [push]
    run: {command: [%q, obey], env: {%s: %q}, timeout: 5m, grace: 1s}
`

const rigSlots = 10

// rigRetry is how long a retry waits.
const rigRetry = 4 * time.Second

func (h *harness) rig(name, bin string) (*rig, error) {
	s, err := h.site(name, bin, "")
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf(rigged, s.Listen, s.Admin, s.Database, s.Dir, rigSlots, rigRetry, h.handler, chaos.OutVariable, s.Out)
	r := &rig{Site: s, sender: chaos.NewSender(chaos.NewLedger(), s.Listen)}
	return r, os.WriteFile(filepath.Join(s.Dir, "config.yaml"), []byte(text), 0o600)
}

func (r *rig) Close() error {
	r.sender.Close()
	return r.Site.Close()
}

// obey is the handler. It writes down when it started and when it ended.
func obey(ctx context.Context, stdin io.Reader) int {
	event, err1 := strconv.ParseInt(os.Getenv("ORCHESTRATE_EVENT_ID"), 10, 64)
	attempt, err2 := strconv.ParseInt(os.Getenv("ORCHESTRATE_ATTEMPT"), 10, 64)
	var o order
	if errors.Join(err1, err2, json.NewDecoder(stdin).Decode(&o)) != nil {
		return 100
	}
	// The parent is told as Exit: who ran it.
	run := chaos.Run{EventID: event, Route: "work", Attempt: attempt, PID: os.Getpid(), Exit: os.Getppid()}
	run.Append("start")
	switch {
	case o.Poison:
		_ = syscall.Kill(os.Getppid(), syscall.SIGKILL) // it is missed when it fails
		chaos.Pause(ctx, time.Minute)
	case attempt == 1 && o.Until != "":
		_, _ = until(ctx, 5*time.Minute, o.Until, func() (bool, error) { // it is seen when it never ends
			_, err := os.Stat(o.Until)
			return err == nil, nil
		})
	case attempt == 1:
		chaos.Pause(ctx, time.Duration(o.MS)*time.Millisecond)
	}
	run.Append("end")
	if o.Fails && attempt == 1 {
		return 1
	}
	return 0
}

// send delivers until it is acknowledged.
func (r *rig) send(ctx context.Context, o order) (event int64, err error) {
	r.sent++
	body, err := json.Marshal(o)
	if err != nil {
		return 0, err
	}
	d := chaos.Delivery{ID: fmt.Sprintf("d-%d", r.sent), Event: "push", Body: body}
	for range 600 {
		if r.sender.Post(ctx, d) == http.StatusOK {
			entries := r.sender.Ledger.Entries()
			return entries[len(entries)-1].EventID, nil
		}
		if chaos.Pause(ctx, 100*time.Millisecond); ctx.Err() != nil {
			break
		}
	}
	return 0, fmt.Errorf("%s was not acknowledged: answers %v", d.ID, r.sender.Ledger.Statuses())
}

// sendAll sends the same n times.
func (r *rig) sendAll(ctx context.Context, n int, o order) (events []int64, err error) {
	for range n {
		id, err := r.send(ctx, o)
		if err != nil {
			return nil, err
		}
		events = append(events, id)
	}
	return events, nil
}

// until waits for something to be so.
func until(ctx context.Context, within time.Duration, what string, so func() (bool, error)) (time.Duration, error) {
	begun := queue.Clock()
	for {
		ok, err := so()
		took := queue.Clock().Sub(begun)
		switch {
		case err != nil:
			return took, fmt.Errorf("%s: %w", what, err)
		case ok:
			return took, nil
		case took > within:
			return took, fmt.Errorf("%s: not after %s", what, within)
		case ctx.Err() != nil:
			return took, context.Cause(ctx)
		}
		chaos.Pause(ctx, 50*time.Millisecond)
	}
}

// rested waits until no job is open.
func (r *rig) rested(ctx context.Context, within time.Duration) error {
	_, err := until(ctx, within, "all jobs have ended", func() (bool, error) {
		n, err := chaos.OpenJobs(ctx, r.Database)
		return n == 0, err
	})
	return err
}

// history is a job with its attempts.
type history struct {
	status, message string
	crashes         int
	attempts        []ending
}

type ending struct {
	seq      int64
	outcome  string
	worker   string
	finished int64
}

func (h *history) outcomes() string {
	var all []string
	for _, a := range h.attempts {
		all = append(all, a.outcome)
	}
	return strings.Join(all, " ")
}

func (r *rig) histories(ctx context.Context) (map[int64]*history, error) {
	db, err := chaos.Open(r.Database)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(ctx, `SELECT j.event_id, j.status, coalesce(j.error_message, ''), j.crash_count,
			coalesce(a.claim_seq, 0), coalesce(a.outcome, ''), coalesce(a.worker_id, ''), coalesce(a.finished_at, 0)
		FROM webhook_jobs j LEFT JOIN webhook_attempts a ON a.event_id = j.event_id AND a.route = j.route ORDER BY 1, 5`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // read-only
	all := map[int64]*history{}
	for rows.Next() {
		var id int64
		var h history
		var e ending
		if err := rows.Scan(&id, &h.status, &h.message, &h.crashes, &e.seq, &e.outcome, &e.worker, &e.finished); err != nil {
			return nil, err
		}
		if all[id] == nil {
			all[id] = &h
		}
		if e.seq > 0 {
			all[id].attempts = append(all[id].attempts, e)
		}
	}
	return all, rows.Err()
}

// lines are those of a log with the message, by a key of them.
func lines(n *chaos.Node, message string) (found []map[string]any, err error) {
	text, err := os.ReadFile(n.LogFile())
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(text) {
		var fields map[string]any
		if json.Unmarshal(line, &fields) == nil && strings.HasPrefix(fmt.Sprint(fields["msg"]), message) {
			found = append(found, fields)
		}
	}
	return found, nil
}

// violations collects what is wrong.
type violations struct{ errs []error }

func (v *violations) want(ok bool, format string, args ...any) {
	if !ok {
		v.errs = append(v.errs, fmt.Errorf(format, args...))
	}
}

func (v *violations) err() error {
	if len(v.errs) > 10 {
		return errors.Join(append(v.errs[:10:10], fmt.Errorf("and %d more", len(v.errs)-10))...)
	}
	return errors.Join(v.errs...)
}
