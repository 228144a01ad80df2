//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"orchestrate/internal/chaos"
)

// mutant is a defect, and the check that must find it out.
type mutant struct {
	name  string
	what  string
	check string // the What of its finding
	also  string // that of another
	edits []chaos.Edit
	drill func(*drill, context.Context) error // nil: steady
}

const (
	writerFile = "internal/store/writer.go"
	insertFile = "internal/store/insert.go"
	claimFile  = "internal/store/claim.go"
	workerFile = "internal/queue/worker.go"
)

var mutants = []mutant{
	{name: "ack_before_commit", what: "200 before the commit", check: "acknowledged is stored", drill: (*drill).killAtAnswer},
	{name: "start_before_commit", what: "a claim's jobs are run before its commit", check: "a claim is run once", also: "a handler starts after its claim", drill: (*drill).killAtStart, edits: []chaos.Edit{{
		File: writerFile,
		Old: `				return errs[i]
			}
		}
		return nil
	})
	if err != nil && len(group) > 1`,
		New: `				return errs[i]
			}
		}
		for _, o := range group {
			if o.intake && mutant("ack_before_commit") || !o.intake && mutant("start_before_commit") {
				o.done <- nil
			}
		}
		if mutant("ack_before_commit") || mutant("start_before_commit") {
			time.Sleep(2 * time.Second) // the kill comes in this time
		}
		return nil
	})
	if err != nil && len(group) > 1`,
	}}},
	{name: "body_trimmed", what: "a body without its last line break", check: "stored bytes are those sent", edits: []chaos.Edit{{
		File: insertFile,
		Old:  `		id, headers, codecRaw, notNull(body))`,
		New: `		id, headers, codecRaw, func() []byte {
			if mutant("body_trimmed") {
				return body[:len(body)-1]
			}
			return notNull(body)
		}())`,
	}}},
	{name: "duplicate_as_new", what: "a duplicate is told as new", check: "a delivery id once", edits: []chaos.Edit{{
		File: insertFile,
		Old:  `DeliveryID: deliveryID, Duplicate: true, Routes`,
		New:  `DeliveryID: deliveryID, Duplicate: !mutant("duplicate_as_new"), Routes`,
	}}},
	{name: "duplicate_uncounted", what: "a duplicate leaves no mark", check: "duplicates and conflicts are counted", edits: []chaos.Edit{{
		File: insertFile,
		Old:  `		return redeliver(ctx, q, d.Insertion, known, r, d.now)`,
		New: `		if mutant("duplicate_uncounted") {
			_, err := exec(ctx, q, "UPDATE webhook_events SET duplicate_count = 0 WHERE id = $1", known.id)
			return r, err
		}
		return redeliver(ctx, q, d.Insertion, known, r, d.now)`,
	}}},
	{name: "route_forgotten", what: "the last of three routes gets no job", check: "a job for each route that wants it", edits: []chaos.Edit{{
		File: "internal/queue/queue.go",
		Old:  `	receipt, err := q.store.Insert(ctx, in)`,
		New: `	if mutant("route_forgotten") && len(in.Jobs) == 3 {
		in.Jobs = in.Jobs[:2]
	}
	receipt, err := q.store.Insert(ctx, in)`,
	}}},
	{name: "claim_lost", what: "a claim's result is lost and nobody looks", check: "every job has ended", edits: []chaos.Edit{
		{
			File: workerFile,
			Old:  `	jobs, err := w.q.store.Claim(claiming, p)`,
			New: `	jobs, err := w.q.store.Claim(claiming, p)
	if mutant("claim_lost") && w.claims%5 == 0 {
		jobs = nil
	}`,
		},
		{
			File: "internal/queue/heartbeat.go",
			Old:  `		asked, known := before[j.Claim]`,
			New: `		asked, known := before[j.Claim]
		if mutant("claim_lost") {
			continue
		}`,
		},
	}},
	{name: "claimed_twice", what: "what is processing is claimed, too", check: "a claim has one attempt", drill: (*drill).long, edits: []chaos.Edit{{
		File: claimFile,
		Old: `			WHERE j.route = $1 AND j.status IN ('pending', 'failed') AND j.crash_count ` + "` + crashed + `" + `
				AND`,
		New: `			WHERE j.route = $1 AND ` + "` + claimable() + `" + ` AND j.crash_count ` + "` + crashed + `" + `
				AND`,
	}, {
		File: claimFile,
		Old:  "func nextJobs(",
		New: `func claimable() statement {
	if mutant("claimed_twice") {
		return "j.status IN ('pending', 'failed', 'processing')"
	}
	return "j.status IN ('pending', 'failed')"
}

func nextJobs(`,
	}}},
	{name: "unfenced", what: "a late result counts, whoever claimed since", check: "a claim has one attempt", drill: (*drill).zombie, edits: []chaos.Edit{
		{
			File: claimFile,
			Old:  `			WHERE j.claim_seq = s.claim_seq AND j.worker_id = s.worker_id AND j.status = 'processing'`,
			New:  "			WHERE ` + fence() + `",
		},
		{
			File: claimFile,
			Old:  "	_, err := exec(ctx, q, `INSERT INTO webhook_attempts (",
			New: `	var insert statement = "INSERT"
	if mutant("unfenced") {
		insert = "INSERT OR REPLACE"
	}
	_, err := exec(ctx, q, insert+` + "` INTO webhook_attempts (",
		},
		{
			File: claimFile,
			Old:  "const settleNext = `",
			New: `func fence() statement {
	if mutant("unfenced") {
		return "1 = 1"
	}
	return "j.claim_seq = s.claim_seq AND j.worker_id = s.worker_id AND j.status = 'processing'"
}

const settleNext = ` + "`",
		},
	}},
	{name: "attempt_unwritten", what: "what a command printed and returned is not kept", check: "the state is what the last attempt left", edits: []chaos.Edit{{
		File: claimFile,
		Old:  `	if len(ended) == 0 {`,
		New:  `	if len(ended) == 0 || mutant("attempt_unwritten") && ended[0].Result.ExitCode != nil {`,
	}}},
	{name: "outcome_wrong", what: "an attempt is told as completed, the job as what it is", check: "a result is that of its own run", edits: []chaos.Edit{{
		File: claimFile,
		Old:  `s.WorkerID, string(s.Ending), s.startedAt`,
		New: `s.WorkerID, func() string {
				if mutant("outcome_wrong") {
					return "completed"
				}
				return string(s.Ending)
			}(), s.startedAt`,
	}}},
	{name: "failure_completed", what: "a failure counts as done", check: "a result is that of its own run", edits: []chaos.Edit{{
		File: "internal/queue/decide.go",
		Old:  `	if err == nil {`,
		New:  `	if err == nil || mutant("failure_completed") {`,
	}}},
	{name: "early_retry", what: "a retry does not wait", check: "no attempt before it is due", edits: []chaos.Edit{{
		File: "internal/queue/decide.go",
		Old:  `		s.DueAt = now.Add(r.wait(s.RetryCount, dice))`,
		New: `		if s.DueAt = now.Add(r.wait(s.RetryCount, dice)); mutant("early_retry") {
			s.DueAt = now
		}`,
	}}},
	{name: "rerun_completed", what: "a requeue takes what completed, too", check: "what completed is not run again", edits: []chaos.Edit{{
		File: "internal/queue/verbs.go",
		Old:  `	b, err := q.bulk(ctx, f, []Status{StatusDeadLetter}, Move{To: StatusPending}, o)`,
		New: `	from := []Status{StatusDeadLetter}
	if mutant("rerun_completed") {
		from = append(from, StatusCompleted)
	}
	b, err := q.bulk(ctx, f, from, Move{To: StatusPending}, o)`,
	}}},
	{name: "requeue_untold", what: "a requeue moves the jobs, and their events are not told", check: "a requeue is whole", edits: []chaos.Edit{{
		File: claimFile,
		Old:  `		d.tell = tellRequeued`,
		New: `		if d.tell = tellRequeued; mutant("requeue_untold") {
			d.tell = tellNothing
		}`,
	}}},
	{name: "payload_orphaned", what: "a payload of no event is stored, too", check: "the database is whole", edits: []chaos.Edit{{
		File: "internal/store/sqlite.go",
		Old:  `"foreign_keys(1)", "wal_autocheckpoint(0)"`,
		New:  `map[bool]string{true: "foreign_keys(0)", false: "foreign_keys(1)"}[mutant("payload_orphaned")], "wal_autocheckpoint(0)"`,
	}, {
		File: "internal/store/sqlite.go",
		Old:  `		if got != p.value {`,
		New:  `		if got != p.value && !(mutant("payload_orphaned") && p.name == "foreign_keys") {`,
	}, {
		File: "internal/store/insert.go",
		Old:  `	return d.started(known.id, deliveryID), insertJobs(ctx, q, known.id, d.Jobs)`,
		New: `	if mutant("payload_orphaned") {
		if err := insertPayload(ctx, q, known.id+1<<40, d.Payload.Body, d.headers); err != nil {
			return queue.Receipt{}, err
		}
	}
	return d.started(known.id, deliveryID), insertJobs(ctx, q, known.id, d.Jobs)`,
	}}},
	{name: "rescued_alive", what: "living workers are taken for dead", check: "no two run one job", drill: (*drill).long, edits: []chaos.Edit{{
		File: "internal/queue/heartbeat.go",
		Old:  `		case now.Sub(s.at) >= w.o.Lease:`,
		New:  `		case now.Sub(s.at) >= w.o.Lease || mutant("rescued_alive"):`,
	}}},
	{name: "rescue_forgets", what: "a dead worker's row goes, its jobs stay", check: "what is processing has a worker", drill: (*drill).killHolder, edits: []chaos.Edit{{
		File: "internal/store/workers.go",
		Old:  `	jobs, err := all(ctx, q, orphanQuery, nil, scanJob)`,
		New: `	if mutant("rescue_forgets") {
		return nil, nil
	}
	jobs, err := all(ctx, q, orphanQuery, nil, scanJob)`,
	}}},
	{name: "purges_open", what: "cleanup takes what is not finished", check: "cleanup takes what is finished", drill: (*drill).cleanUp, edits: []chaos.Edit{
		{
			File: "internal/store/clean.go",
			Old:  `		case c.open > 0:`,
			New:  `		case c.open > 0 && !mutant("purges_open"):`,
		},
		{
			File: "internal/store/clean.go",
			Old:  "	const cond = ` AND n_pending = 0",
			New: `	if mutant("purges_open") {
		return ""
	}
	const cond = ` + "` AND n_pending = 0",
		},
	}},
	{name: "input_changed", what: "a handler reads one byte more", check: "handlers get the bytes that were signed", edits: []chaos.Edit{{
		File: "internal/handler/workdir.go",
		Old:  `	if err := os.WriteFile(d.payload(), payload, 0o600); err != nil {`,
		New: `	if mutant("input_changed") {
		payload = append(payload[:len(payload):len(payload)], ' ')
	}
	if err := os.WriteFile(d.payload(), payload, 0o600); err != nil {`,
	}}},
	{name: "secret_leaked", what: "a handler is given a secret", check: "no secret in handlers, logs, database", edits: []chaos.Edit{{
		File: "internal/handler/run.go",
		Old:  `		varPayloadFile + "=" + payload,`,
		New: `		varPayloadFile + "=" + payload, func() string {
			if mutant("secret_leaked") {
				return "LEAK=" + os.Getenv("CHAOS_LEAK")
			}
			return "LEAK="
		}(),`,
	}}},
	{name: "orphaned_child", what: "only the leader of a group is killed", check: "no process is left", edits: []chaos.Edit{{
		File: "internal/handler/cgroup_linux.go",
		Old: `	if c == nil || c.parent == "" {
		return nil
	}
	dir, err := os.MkdirTemp(`,
		New: `	if c == nil || c.parent == "" || mutant("orphaned_child") {
		return nil
	}
	dir, err := os.MkdirTemp(`,
	}, {
		File: "internal/handler/process.go",
		Old: `	signalGroup(p.cmd, os.Kill)
	p.cgroup.kill()`,
		New: `	if mutant("orphaned_child") {
		_ = p.cmd.Process.Kill()
		return
	}
	signalGroup(p.cmd, os.Kill)
	p.cgroup.kill()`,
	}}},
	{name: "counter_off", what: "a dead letter is not counted", check: "counters agree with the jobs", edits: []chaos.Edit{{
		File: "internal/store/sql.go",
		Old: `	d.count(from, -1)
	d.count(to, 1)`,
		New: `	d.count(from, -1)
	if to == queue.StatusDeadLetter && mutant("counter_off") {
		return
	}
	d.count(to, 1)`,
	}}},
}

// verdict is what became of a mutant.
type verdict struct {
	red []string
	err error
}

// inParallel is how many broken programs run at once: they wait, mostly.
const inParallel = 8

// breakIt builds the program with all mutants, once.
func (h *harness) breakIt(ctx context.Context) (string, error) {
	h.built.Do(func() {
		var edits []chaos.Edit
		for _, m := range mutants {
			edits = append(edits, m.edits...)
		}
		h.built.bin, h.built.err = chaos.BuildBroken(ctx, h.dir, "mutants", edits)
	})
	return h.built.bin, h.built.err
}

func (h *harness) findMutants(ctx context.Context) error {
	bin, err := h.breakIt(ctx)
	if err != nil {
		return err
	}
	// The program that was edited, but has no defect: what it would be accused
	// of, a mutant would not be killed by.
	all := append([]mutant{{name: "none", what: "the edited program, without a defect"}}, mutants...)
	verdicts := make([]verdict, len(all))
	places := make(chan struct{}, inParallel)
	var wg sync.WaitGroup
	for i, m := range all {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			verdicts[i] = h.try(ctx, bin, m)
		})
	}
	wg.Wait()
	return h.judge(all, verdicts)
}

// judge prints the table of the mutants.
func (h *harness) judge(all []mutant, verdicts []verdict) error {
	var errs []error
	killed := 0
	t := tabwriter.NewWriter(h.out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "MUTANT\tDEFECT\tMUST BE FOUND BY\tFOUND")
	for i, m := range all {
		v := verdicts[i]
		found := slices.Contains(v.red, m.check) && (m.also == "" || slices.Contains(v.red, m.also))
		switch {
		case v.err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", m.name, v.err))
		case m.check == "" && len(v.red) > 0:
			errs = append(errs, fmt.Errorf("%s: without a defect, but found were %v", m.name, v.red))
		case m.check != "" && !found:
			errs = append(errs, fmt.Errorf("%s was not found by %q, %q, only by %v", m.name, m.check, m.also, v.red))
		case m.check != "":
			killed++
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", m.name, m.what, strings.TrimSuffix(m.check+"; "+m.also, "; "), strings.Join(v.red, "; "))
	}
	_ = t.Flush()
	h.say("%d mutants, %d found out by the check that is to find them", len(all)-1, killed)
	return errors.Join(errs...)
}

// try runs the drill with one defect, and returns the checks that turned red.
func (h *harness) try(ctx context.Context, bin string, m mutant) (v verdict) {
	s, err := h.site("mutant-"+m.name, bin, "")
	if err != nil {
		return verdict{err: err}
	}
	s.Env = []string{chaos.MutantVariable + "=" + m.name, "CHAOS_LEAK=" + chaos.Secret}
	defer func() { v.err = errors.Join(v.err, s.Close()) }()
	d := &drill{Site: s, out: h, dice: rand.New(rand.NewPCG(h.seed, 1)), ledger: chaos.NewLedger()} //nolint:gosec // seeded
	run, workers := m.drill, 1
	if run == nil {
		run, workers = (*drill).steady, 0
	}
	if err := d.up(ctx, workers); err != nil {
		return verdict{err: err}
	}
	if err := run(d, ctx); err != nil {
		return verdict{err: err}
	}
	_ = d.rest(ctx, 40*time.Second) // a queue that does not come to rest is found below
	for _, n := range append(d.workers, d.serve) {
		_, _ = n.Stop(5 * time.Second) // with a defect it may end in any way
	}
	findings, err := chaos.Check(ctx, d.Database, d.facts(true))
	all := append(d.red, red(findings)...)
	slices.Sort(all)
	return verdict{red: slices.Compact(all), err: err}
}

// post sends one delivery until it is taken.
func (d *drill) post(ctx context.Context, id, event string) error {
	return d.postBody(ctx, id, event, fmt.Appendf(nil, "{\"id\": %q}\n", id))
}

func (d *drill) postBody(ctx context.Context, id, event string, body []byte) error {
	sender := chaos.NewSender(d.ledger, d.Listen)
	defer sender.Close()
	status := 0
	for range 5 {
		if status = sender.Post(ctx, chaos.Delivery{ID: id, Event: event, Body: body}); status == http.StatusOK {
			return nil
		}
	}
	return fmt.Errorf("%s was answered %d", id, status)
}

// steady has every route do all that it does, without a kill: which attempts
// fail depends on the ids of the events alone.
func (d *drill) steady(ctx context.Context) error {
	for n := range 24 {
		event := []string{"issues", "fork", "watch", "issues"}[n%4]
		for range 1 + n%2 { // every second comes again
			if err := d.post(ctx, fmt.Sprint("steady-", n), event); err != nil {
				return err
			}
		}
	}
	_ = d.rest(ctx, 25*time.Second) // a queue that does not come to rest is found in the end
	_ = d.Command(ctx, "events", "requeue-dead", "--all", "--yes").Run()
	return nil
}

// killAtAnswer kills the server at the moment of a 200.
func (d *drill) killAtAnswer(ctx context.Context) error {
	for n := range 3 {
		if err := d.post(ctx, fmt.Sprint("answer-", n), "ping"); err != nil {
			return err
		}
		if err := d.killAll(ctx); err != nil {
			return err
		}
	}
	return nil
}

// killAtStart kills all at the moment when a handler has begun.
func (d *drill) killAtStart(ctx context.Context) error {
	for n := range 3 {
		if err := d.post(ctx, fmt.Sprint("start-", n), "push"); err != nil {
			return err
		}
		err := d.await(ctx, "a handler starts", 30*time.Second, func(runs []chaos.Run) bool {
			ids := map[int64]bool{}
			for _, r := range runs {
				ids[r.EventID] = true
			}
			return len(ids) > n
		})
		if err := errors.Join(err, d.killAll(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// killAll kills every process, looks at what is left, and starts them again.
func (d *drill) killAll(ctx context.Context) error {
	all := append([]*chaos.Node{d.serve}, d.workers...)
	var errs []error
	for _, n := range all {
		errs = append(errs, n.Kill())
	}
	findings, err := chaos.Check(ctx, d.Database, d.facts(false))
	errs, d.red = append(errs, err), append(d.red, red(findings)...)
	for _, n := range all {
		errs = append(errs, n.Start())
	}
	_, err = d.AwaitReady(ctx, d.serve, 30*time.Second)
	return errors.Join(append(errs, err)...)
}

// red are the checks that found something.
func red(findings []chaos.Finding) (names []string) {
	for _, f := range findings {
		if len(f.Bad) > 0 {
			names = append(names, f.What)
		}
	}
	return names
}

// killHolder kills the worker of a long handler.
func (d *drill) killHolder(ctx context.Context) error {
	n, err := d.hold(ctx)
	if err != nil {
		return err
	}
	return errors.Join(n.Kill(), n.Start())
}

// cleanUp cleans up while a long handler runs.
func (d *drill) cleanUp(ctx context.Context) error {
	if _, err := d.hold(ctx); err != nil {
		return err
	}
	chaos.Pause(ctx, 1500*time.Millisecond)
	return d.Command(ctx, "cleanup", "--older-than", "1s").Run()
}

// zombie stops a worker while it runs a long handler, until another has taken
// the job over and runs it, and then lets it go on.
func (d *drill) zombie(ctx context.Context) error {
	z, err := d.hold(ctx)
	if err != nil {
		return err
	}
	if err := z.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	err = d.await(ctx, "the job is taken over", time.Minute, func(runs []chaos.Run) bool { return started(runs, 2) > 0 })
	return errors.Join(err, z.Signal(syscall.SIGCONT))
}

// long runs long handlers, and nothing else, for two heartbeats of each worker.
func (d *drill) long(ctx context.Context) error {
	if _, err := d.hold(ctx); err != nil {
		return err
	}
	for n := range 5 { // the one that looks first is never taken for dead
		if err := d.post(ctx, fmt.Sprint("more-", n), "release"); err != nil {
			return err
		}
	}
	chaos.Pause(ctx, 12*time.Second)
	return nil
}

// hold has a worker run a long handler, and returns that worker.
func (d *drill) hold(ctx context.Context) (*chaos.Node, error) {
	if err := d.post(ctx, "long-1", "release"); err != nil {
		return nil, err
	}
	if err := d.await(ctx, "a long handler runs", 30*time.Second, func(runs []chaos.Run) bool { return started(runs, 1) > 0 }); err != nil {
		return nil, err
	}
	holders, err := chaos.Holders(ctx, d.Database)
	if err != nil {
		return nil, err
	}
	for _, n := range append(d.workers, d.serve) {
		if slices.Contains(holders, n.PID()) {
			return n, nil
		}
	}
	return nil, fmt.Errorf("the job is held by none of ours: %v", holders)
}

// started counts the attempts of a number that have started.
func started(runs []chaos.Run, attempt int64) (n int) {
	for _, r := range runs {
		if r.Phase == "start" && r.Attempt == attempt {
			n++
		}
	}
	return n
}

func (d *drill) await(ctx context.Context, what string, within time.Duration, ask func([]chaos.Run) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("still not after %s: %s", within, what))
	defer cancel()
	for {
		runs, err := chaos.Runs(d.Out)
		if err != nil {
			return err
		}
		if ask(runs) {
			return nil
		}
		if chaos.Pause(ctx, 15*time.Millisecond); ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}
