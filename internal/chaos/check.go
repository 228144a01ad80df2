//go:build unix

package chaos

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
	"modernc.org/sqlite"

	"orchestrate/internal/queue"
)

// Finding is what a check looked at and what it found wrong.
type Finding struct {
	// Invariant is its number in docs/reliability.md; 0: of the tables themselves.
	Invariant int
	What      string
	Looked    int // at so many
	Bad       []string
}

func (f *Finding) look(ok bool, format string, args ...any) {
	f.Looked++
	if !ok {
		f.Bad = append(f.Bad, fmt.Sprintf(format, args...))
	}
}

// Facts are what the database is held against.
type Facts struct {
	Ledger *Ledger
	Out    string // of the handlers
	// Final says that the queue had time to come to rest.
	Final bool
	// Files are searched for the secret: logs, and the database where it is a file.
	Files []string
}

// Open opens a database for reading, beside those that use it.
func Open(database string) (*sql.DB, error) {
	if strings.Contains(database, "://") {
		return sql.Open("pgx", database)
	}
	if _, err := sqlite.OFDLocking(true); err != nil {
		return nil, err
	}
	if _, err := os.Stat(database); err != nil {
		return nil, err
	}
	q := url.Values{"_pragma": {"busy_timeout(10000)", "query_only(1)"}}
	return sql.Open("sqlite", "file:"+(&url.URL{Path: database}).EscapedPath()+"?"+q.Encode())
}

// OpenJobs counts the jobs that have not ended.
func OpenJobs(ctx context.Context, database string) (n int, err error) {
	db, err := Open(database)
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }()
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM webhook_jobs WHERE status IN ('pending', 'processing', 'failed')`).Scan(&n)
	return n, err
}

// Holders are the processes that hold a job, by their numbers.
func Holders(ctx context.Context, database string) (pids []int, err error) {
	db, err := Open(database)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(ctx, `SELECT pid FROM workers WHERE id IN (SELECT worker_id FROM webhook_jobs WHERE status = 'processing')`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // read-only
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, rows.Err()
}

// Attempt is what is recorded of the last attempt at a route.
type Attempt struct {
	Outcome, Error string
	Took           time.Duration
	Output         int // bytes that were kept
}

// Attempts are those of the newest event that has any, by route.
func Attempts(ctx context.Context, database string) (map[string]Attempt, error) {
	db, err := Open(database)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(ctx, `SELECT route, outcome, coalesce(error_message, ''), finished_at - started_at, coalesce(length(output), 0)
		FROM webhook_attempts WHERE event_id = (SELECT max(event_id) FROM webhook_attempts) ORDER BY claim_seq`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // read-only
	all := map[string]Attempt{}
	for rows.Next() {
		var route string
		var a Attempt
		var ms int64
		if err := rows.Scan(&route, &a.Outcome, &a.Error, &ms, &a.Output); err != nil {
			return nil, err
		}
		a.Took = time.Duration(ms) * time.Millisecond
		all[route] = a
	}
	return all, rows.Err()
}

// Check holds everything that was promised against the database, the ledger and
// what the handlers wrote down.
func Check(ctx context.Context, database string, f Facts) ([]Finding, error) {
	db, err := Open(database)
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	c := &checker{Facts: f, sqlite: !strings.Contains(database, "://")}
	if err := c.load(ctx, db); err != nil {
		return nil, err
	}
	all := []Finding{
		c.stored(), c.bytes(), c.once(), c.counted(), c.ended(), c.fannedOut(), c.claimedFirst(), c.startedOnce(), c.oneAttemptAClaim(),
		c.lastAttempt(), c.results(), c.alone(), c.held(), c.due(), c.notAgain(), c.requeued(), c.purged(), c.handed(), c.secret(),
		c.left(), c.counters(), c.whole(),
	}
	return all, nil
}

type event struct {
	id                                   int64
	delivery, kind, status, sha          string
	pending, processing, failed, dead    int
	size                                 int64
	purged, requeued                     bool
	duplicates, conflicts                int
	body                                 string // its digest; empty: there is none
	jobs                                 []*job
	actualPending, actualDead, actualRun int
	actualFailed                         int
}

type job struct {
	event      *event
	route      string
	status     string
	retries    int
	maxRetries int
	seq        int64
	worker     string
	attempts   []attempt
}

type attempt struct {
	seq               int64
	outcome           string
	started, finished int64
	exit              sql.NullInt64
}

type checker struct {
	Facts
	sqlite    bool
	events    map[int64]*event
	delivered map[string][]*event
	jobs      map[string]*job // by event and route
	workers   map[string]bool
	runs      []Run
	damage    []string
	survivors []string
}

func key(event int64, route string) string { return strconv.FormatInt(event, 10) + " " + route }

func (c *checker) load(ctx context.Context, db *sql.DB) error {
	c.events, c.delivered, c.jobs, c.workers = map[int64]*event{}, map[string][]*event{}, map[string]*job{}, map[string]bool{}
	var err error
	if c.runs, err = Runs(c.Out); err != nil {
		return err
	}
	c.survivors = Survivors(c.Out)
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: !c.sqlite, Isolation: c.isolation()})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	err = errors.Join(c.loadEvents(ctx, tx), c.loadBodies(ctx, tx), c.loadJobs(ctx, tx), c.loadAttempts(ctx, tx), c.loadWorkers(ctx, tx))
	if err != nil || !c.sqlite {
		return err
	}
	return c.loadDamage(ctx, tx)
}

func (c *checker) isolation() sql.IsolationLevel {
	if c.sqlite {
		return sql.LevelDefault
	}
	return sql.LevelRepeatableRead
}

// each calls fn for every row.
func each(ctx context.Context, tx *sql.Tx, query string, fn func(scan func(...any) error) error) error {
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	defer func() { _ = rows.Close() }() // read-only
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (c *checker) loadEvents(ctx context.Context, tx *sql.Tx) error {
	return each(ctx, tx, `SELECT id, delivery_id, event_type, status, n_pending, n_processing, n_failed, n_dead, purged_at IS NOT NULL,
		duplicate_count, conflict_count, body_size, body_sha256, requeued_at IS NOT NULL FROM webhook_events`, func(scan func(...any) error) error {
		e := &event{}
		err := scan(&e.id, &e.delivery, &e.kind, &e.status, &e.pending, &e.processing, &e.failed, &e.dead, &e.purged, &e.duplicates,
			&e.conflicts, &e.size, &e.sha, &e.requeued)
		c.events[e.id] = e
		c.delivered[e.delivery] = append(c.delivered[e.delivery], e)
		return err
	})
}

func (c *checker) loadBodies(ctx context.Context, tx *sql.Tx) error {
	return each(ctx, tx, `SELECT event_id, body FROM webhook_payloads WHERE codec = 0`, func(scan func(...any) error) error {
		var id int64
		var b []byte
		if err := scan(&id, &b); err != nil {
			return err
		}
		if e := c.events[id]; e != nil {
			e.body = digest(b)
		}
		return nil
	})
}

func (c *checker) loadJobs(ctx context.Context, tx *sql.Tx) error {
	return each(ctx, tx, `SELECT event_id, route, status, retry_count, max_retries, claim_seq, coalesce(worker_id, '') FROM webhook_jobs`,
		func(scan func(...any) error) error {
			var id int64
			j := &job{}
			if err := scan(&id, &j.route, &j.status, &j.retries, &j.maxRetries, &j.seq, &j.worker); err != nil {
				return err
			}
			if j.event = c.events[id]; j.event == nil {
				return fmt.Errorf("job %s of event %d has no event", j.route, id)
			}
			j.event.jobs = append(j.event.jobs, j)
			c.jobs[key(id, j.route)] = j
			return nil
		})
}

func (c *checker) loadAttempts(ctx context.Context, tx *sql.Tx) error {
	return each(ctx, tx, `SELECT event_id, route, claim_seq, outcome, coalesce(started_at, 0), finished_at, exit_code FROM webhook_attempts
		ORDER BY event_id, route, claim_seq`, func(scan func(...any) error) error {
		var id int64
		var name string
		var a attempt
		if err := scan(&id, &name, &a.seq, &a.outcome, &a.started, &a.finished, &a.exit); err != nil {
			return err
		}
		j := c.jobs[key(id, name)]
		if j == nil {
			return fmt.Errorf("attempt %d of event %d, route %s has no job", a.seq, id, name)
		}
		j.attempts = append(j.attempts, a)
		return nil
	})
}

func (c *checker) loadWorkers(ctx context.Context, tx *sql.Tx) error {
	return each(ctx, tx, `SELECT id FROM workers`, func(scan func(...any) error) error {
		var id string
		err := scan(&id)
		c.workers[id] = true
		return err
	})
}

func (c *checker) loadDamage(ctx context.Context, tx *sql.Tx) error {
	note := func(scan func(...any) error) error {
		var line string
		if err := scan(&line); err != nil || line == "ok" {
			return err
		}
		c.damage = append(c.damage, line)
		return nil
	}
	return errors.Join(each(ctx, tx, `PRAGMA integrity_check`, note),
		each(ctx, tx, `SELECT "table" || ' row ' || coalesce(rowid, '') FROM pragma_foreign_key_check`, note))
}

// stored: what was acknowledged is there, under the id that was told.
func (c *checker) stored() Finding {
	f := Finding{Invariant: 1, What: "acknowledged is stored"}
	for _, e := range c.Ledger.Entries() {
		if e.Acked == 0 {
			continue
		}
		at := c.events[e.EventID]
		f.look(at != nil && at.delivery == e.ID, "%s was acknowledged as event %d, which is %s", e.ID, e.EventID, at.shown())
	}
	f.Bad = append(f.Bad, c.Ledger.Bad()...)
	return f
}

func (e *event) shown() string {
	if e == nil {
		return "not there"
	}
	return "delivery " + e.delivery
}

// bytes: what is stored, acknowledged or not, is what was sent, byte by byte.
func (c *checker) bytes() Finding {
	f := Finding{Invariant: 1, What: "stored bytes are those sent"}
	sent := map[string]Entry{}
	for _, e := range c.Ledger.Entries() {
		sent[e.ID] = e
	}
	for _, e := range c.events {
		s, known := sent[e.delivery]
		f.look(known && e.sha == s.SHA256 && e.size == int64(len(s.Body)) && (e.purged || e.body == s.SHA256) && e.kind == s.Event,
			"event %d (%s): sent %s, digest stored %s, that of the body %q", e.id, e.delivery, s.SHA256, e.sha, e.body)
	}
	return f
}

func (c *checker) once() Finding {
	f := Finding{Invariant: 2, What: "a delivery id once"}
	for id, events := range c.delivered {
		f.look(len(events) == 1, "%s is stored %d times", id, len(events))
	}
	for _, e := range c.Ledger.Entries() {
		f.look(e.New <= 1, "%s was acknowledged %d times as new", e.ID, e.New)
	}
	return f
}

// counted: each acknowledged duplicate has left its mark, and nothing else has.
func (c *checker) counted() Finding {
	f := Finding{Invariant: 2, What: "duplicates and conflicts are counted"}
	for _, e := range c.Ledger.Entries() {
		at := c.events[e.EventID]
		if e.Acked == 0 || at == nil {
			continue
		}
		f.look(at.duplicates >= e.Acked-e.New && at.duplicates <= e.Tries-1, "%s: sent %d times, %d acknowledged, %d of them as new, but %d duplicates counted",
			e.ID, e.Tries, e.Acked, e.New, at.duplicates)
		f.look(at.conflicts >= e.Conflicts && at.conflicts <= e.Others, "%s: another body %d times, %d answered 409, %d conflicts counted",
			e.ID, e.Others, e.Conflicts, at.conflicts)
	}
	return f
}

func (c *checker) ended() Finding {
	f := Finding{Invariant: 3, What: "every job has ended"}
	if !c.Final {
		return f
	}
	for _, j := range c.jobs {
		f.look(j.status == "completed" || j.status == "dead_letter", "event %d, route %s is %s", j.event.id, j.route, j.status)
	}
	return f
}

func (c *checker) fannedOut() Finding {
	f := Finding{Invariant: 3, What: "a job for each route that wants it"}
	for _, e := range c.events {
		if e.purged {
			continue
		}
		var routes []string
		for _, j := range e.jobs {
			routes = append(routes, j.route)
		}
		slices.Sort(routes)
		want := slices.Sorted(slices.Values(Routes[e.kind]))
		f.look(slices.Equal(routes, want), "event %d (%s) has jobs %v, want %v", e.id, e.kind, routes, want)
	}
	return f
}

// claimedFirst: no handler has started for a claim that was never committed.
func (c *checker) claimedFirst() Finding {
	f := Finding{Invariant: 4, What: "a handler starts after its claim"}
	for _, r := range c.runs {
		e := c.events[r.EventID]
		if r.Phase != "start" || e != nil && e.purged {
			continue
		}
		j := c.jobs[key(r.EventID, r.Route)]
		f.look(j != nil && r.Attempt <= j.seq, "event %d, route %s: attempt %d was run, but the job says %s", r.EventID, r.Route, r.Attempt, j.claims())
	}
	return f
}

func (j *job) claims() string {
	if j == nil {
		return "nothing: there is none"
	}
	return fmt.Sprintf("%d claims", j.seq)
}

func (c *checker) startedOnce() Finding {
	f := Finding{Invariant: 4, What: "a claim is run once"}
	seen := map[string]bool{}
	for _, r := range c.runs {
		if r.Phase == "start" {
			k := fmt.Sprintf("event %d, route %s, attempt %d", r.EventID, r.Route, r.Attempt)
			f.look(!seen[k], "%s was started twice", k)
			seen[k] = true
		}
	}
	return f
}

func (c *checker) oneAttemptAClaim() Finding {
	f := Finding{Invariant: 5, What: "a claim has one attempt"}
	for _, j := range c.jobs {
		want := j.seq
		if j.status == "processing" {
			want--
		}
		seqs := make([]int64, len(j.attempts))
		ok := int64(len(j.attempts)) == want
		for i, a := range j.attempts {
			seqs[i] = a.seq
			ok = ok && a.seq == int64(i+1)
		}
		f.look(ok, "event %d, route %s is %s after %d claims, with the attempts %v", j.event.id, j.route, j.status, j.seq, seqs)
	}
	return f
}

// follows tells which states an attempt that ended so may leave its job in.
// A crash is the third at most, and the dead may have been requeued.
var follows = map[string][]string{
	"completed": {"completed"}, "skipped": {"completed"},
	"failed": {"failed", "processing"}, "unavailable": {"failed", "processing"},
	"dead_letter": {"dead_letter", "pending", "processing"}, "cancelled": {"dead_letter", "pending", "processing"},
	"stopped": {"pending", "processing"}, "lost": {"pending", "processing"},
	"crashed": {"pending", "processing", "dead_letter"},
}

func (c *checker) lastAttempt() Finding {
	f := Finding{Invariant: 5, What: "the state is what the last attempt left"}
	for _, j := range c.jobs {
		if len(j.attempts) == 0 {
			f.look(j.status == "pending" || j.status == "processing", "event %d, route %s is %s without an attempt", j.event.id, j.route, j.status)
			continue
		}
		last := j.attempts[len(j.attempts)-1]
		f.look(slices.Contains(follows[last.outcome], j.status), "event %d, route %s is %s after an attempt that ended as %s", j.event.id, j.route,
			j.status, last.outcome)
	}
	return f
}

// results: completed means done, and an exit code is the one that was returned.
func (c *checker) results() Finding {
	f := Finding{Invariant: 5, What: "a result is that of its own run"}
	exits := map[string]int{}
	for _, r := range c.runs {
		if r.Phase == "end" {
			exits[key(r.EventID, r.Route)+" "+strconv.FormatInt(r.Attempt, 10)] = r.Exit
		}
	}
	for k, j := range c.jobs {
		for _, a := range j.attempts {
			exit, ended := exits[k+" "+strconv.FormatInt(a.seq, 10)]
			switch {
			case a.outcome == "completed":
				f.look(ended && exit == 0, "event %d, route %s: attempt %d is completed, its handler ended: %t, with %d", j.event.id, j.route, a.seq, ended, exit)
			case a.exit.Valid && a.exit.Int64 >= 0:
				f.look(ended && int64(exit) == a.exit.Int64, "event %d, route %s: attempt %d has exit code %d, its handler ended: %t, with %d", j.event.id,
					j.route, a.seq, a.exit.Int64, ended, exit)
			}
		}
	}
	return f
}

func (c *checker) alone() Finding {
	f := Finding{Invariant: 6, What: "no two run one job"}
	for _, r := range c.runs {
		switch r.Phase {
		case "overlap":
			f.look(false, "event %d, route %s: attempt %d was started while another ran", r.EventID, r.Route, r.Attempt)
		case "start":
			f.look(true, "")
		}
	}
	return f
}

func (c *checker) held() Finding {
	f := Finding{Invariant: 7, What: "what is processing has a worker"}
	for _, j := range c.jobs {
		if j.status == "processing" {
			f.look(c.workers[j.worker], "event %d, route %s is held by %q, which is not there", j.event.id, j.route, j.worker)
		} else {
			f.look(true, "")
		}
	}
	return f
}

// due: no retry before its time.
func (c *checker) due() Finding {
	f := Finding{Invariant: 8, What: "no attempt before it is due"}
	for _, j := range c.jobs {
		f.look(j.retries <= j.maxRetries, "event %d, route %s has used %d of %d retries", j.event.id, j.route, j.retries, j.maxRetries)
		failures, crashes := 0, 0
		for i, a := range j.attempts[:max(0, len(j.attempts)-1)] {
			wait := time.Duration(0)
			switch a.outcome {
			case "failed":
				failures++
				wait = RetryBase << (failures - 1)
			case "unavailable":
				wait = UnavailableBase
			case "dead_letter": // requeued: the count begins again
				failures, crashes = 0, 0
			case "crashed":
				if crashes++; crashes == queue.MaxCrashes { // the same
					failures, crashes = 0, 0
				}
			}
			// A claim's time is that at which it was asked for: it may have waited for
			// the database while a rescue gave the job back.
			if wait == 0 {
				continue
			}
			waited := time.Duration(j.attempts[i+1].started-a.finished) * time.Millisecond
			f.look(waited >= wait, "event %d, route %s: attempt %d (%s) was followed after %s, not before %s", j.event.id, j.route, a.seq, a.outcome, waited, wait)
		}
	}
	return f
}

func (c *checker) notAgain() Finding {
	f := Finding{Invariant: 8, What: "what completed is not run again"}
	for _, j := range c.jobs {
		at := slices.IndexFunc(j.attempts, func(a attempt) bool { return a.outcome == "completed" })
		f.look(at < 0 || at == len(j.attempts)-1 && j.status == "completed", "event %d, route %s is %s, after %d attempts of which the %dth had completed",
			j.event.id, j.route, j.status, len(j.attempts), at+1)
	}
	return f
}

// requeued: what an operator took back from the dead is told of its event, in
// the same step, and of no other. One that three workers died of looks like one
// that was not taken back.
func (c *checker) requeued() Finding {
	f := Finding{Invariant: 9, What: "a requeue is whole"}
	for _, e := range c.events {
		if e.purged {
			continue
		}
		back, crashed := false, false
		for _, j := range e.jobs {
			for i, a := range j.attempts {
				crashed = crashed || a.outcome == "crashed"
				back = back || a.outcome == "dead_letter" && (i < len(j.attempts)-1 || j.status != "dead_letter")
			}
		}
		f.look(back == e.requeued || e.requeued && crashed, "event %d: a dead letter was taken back: %t; the event says %t", e.id, back, e.requeued)
	}
	return f
}

// purged: cleanup took only what was done, and all of it.
func (c *checker) purged() Finding {
	f := Finding{Invariant: 10, What: "cleanup takes what is finished"}
	done := map[string]bool{}
	for _, r := range c.runs {
		if r.Phase == "end" && r.Exit == 0 {
			done[key(r.EventID, r.Route)] = true
		}
	}
	for _, e := range c.events {
		if !e.purged {
			f.look(e.body != "", "event %d (%s) has no payload, and was not purged", e.id, e.delivery)
			continue
		}
		f.look(e.body == "" && len(e.jobs) == 0 && e.status == "completed", "event %d was purged, but has %d jobs, is %s", e.id, len(e.jobs), e.status)
		for _, r := range Routes[e.kind] {
			f.look(done[key(e.id, r)], "event %d was purged, but route %s had not completed", e.id, r)
		}
	}
	return f
}

func (c *checker) handed() Finding {
	f := Finding{Invariant: 11, What: "handlers get the bytes that were signed"}
	for _, r := range c.runs {
		if e := c.events[r.EventID]; r.Phase == "start" && e != nil {
			f.look(r.SHA256 == e.sha, "event %d, route %s: attempt %d read %s, stored is %s", r.EventID, r.Route, r.Attempt, r.SHA256, e.sha)
		}
	}
	return f
}

func (c *checker) secret() Finding {
	f := Finding{Invariant: 11, What: "no secret in handlers, logs, database"}
	for _, r := range c.runs {
		if r.Phase == "leak" {
			f.look(false, "event %d, route %s: the handler was given the secret", r.EventID, r.Route)
		}
	}
	for _, path := range c.Files {
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			continue
		}
		text, err := os.ReadFile(path) //nolint:gosec // a file of ours
		if !errors.Is(err, fs.ErrNotExist) {
			f.look(err == nil && !bytes.Contains(text, []byte(Secret)), "%s holds the secret, or can't be read: %v", path, err)
		}
	}
	return f
}

func (c *checker) left() Finding {
	f := Finding{Invariant: 12, What: "no process is left", Looked: 1, Bad: c.survivors}
	if !c.Final {
		f = Finding{Invariant: 12, What: "no process is left"}
	}
	return f
}

// counters: an event's four counters are those of its jobs.
func (c *checker) counters() Finding {
	f := Finding{What: "counters agree with the jobs"}
	for _, j := range c.jobs {
		switch j.status {
		case "pending":
			j.event.actualPending++
		case "processing":
			j.event.actualRun++
		case "failed":
			j.event.actualFailed++
		case "dead_letter":
			j.event.actualDead++
		}
	}
	for _, e := range c.events {
		f.look(e.pending == e.actualPending && e.processing == e.actualRun && e.failed == e.actualFailed && e.dead == e.actualDead,
			"event %d counts %d pending, %d processing, %d failed, %d dead; its jobs are %d, %d, %d, %d", e.id, e.pending, e.processing, e.failed, e.dead,
			e.actualPending, e.actualRun, e.actualFailed, e.actualDead)
	}
	return f
}

func (c *checker) whole() Finding {
	f := Finding{What: "the database is whole"}
	if c.sqlite {
		f.Looked, f.Bad = 1, c.damage
	}
	return f
}

// Survivors lists the processes that handlers are that write below out, or that
// were started by them.
func Survivors(out string) []string {
	var left []string
	for _, pid := range survivors(out) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		left = append(left, fmt.Sprintf("process %d: %s", pid, bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
	}
	return left
}

// Zombies are the children of a process that have ended and were not waited for.
func Zombies(parent int) (zombies []string) {
	entries, _ := os.ReadDir("/proc") // none: there is no such thing here
	for _, e := range entries {
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		_, rest, _ := bytes.Cut(stat, []byte(") ")) // behind the name, which may hold anything
		if bytes.HasPrefix(rest, fmt.Appendf(nil, "Z %d ", parent)) {
			zombies = append(zombies, e.Name())
		}
	}
	return zombies
}

func survivors(out string) (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	mark := []byte(OutVariable + "=" + out + "\x00")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environ, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err == nil && bytes.Contains(environ, mark) {
			pids = append(pids, pid)
		}
	}
	return pids
}
