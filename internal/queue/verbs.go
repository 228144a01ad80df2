package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// chunk is how many rows a verb changes in one transaction, so that none of
// them stands in the way of intake.
const chunk = 200

// Bulk is what a verb over many jobs did.
type Bulk struct {
	Matched int `json:"matched"`
	Changed int `json:"changed"`
	Failed  int `json:"failed"` // matched, but moved by somebody else in between
}

// RetryOptions narrow or widen what Retry moves.
type RetryOptions struct {
	Route  string // only this route; started, where the event has no job for it
	Force  bool   // completed jobs, too
	DryRun bool
}

// Retry makes an event's dead and failed jobs pending, due now, and returns
// how many it moved. ErrRefused when none can move; the error says why.
func (q *Queue) Retry(ctx context.Context, id int64, o RetryOptions) (int, error) {
	e, err := q.store.Event(ctx, id)
	if err != nil {
		return 0, err
	}
	if e.PurgedAt != 0 {
		return 0, fmt.Errorf("event %d: %w: its payload was purged at %s", id, ErrRefused, e.PurgedAt)
	}
	jobs, err := q.store.Jobs(ctx, id)
	if err != nil {
		return 0, err
	}
	if o.Route != "" {
		jobs = slices.DeleteFunc(jobs, func(j Job) bool { return j.Route != o.Route })
		if len(jobs) == 0 {
			return q.start(ctx, id, o)
		}
	}
	movable := slices.DeleteFunc(slices.Clone(jobs), func(j Job) bool { return !retryable(j, o.Force) })
	if len(movable) == 0 {
		return 0, refuseRetry(id, jobs)
	}
	if o.DryRun {
		return len(movable), nil
	}
	n, err := q.store.Move(ctx, movable, Move{To: StatusPending, Now: q.Now()})
	if err != nil {
		return 0, fmt.Errorf("retry event %d: %w", id, err)
	}
	if n == 0 {
		return 0, fmt.Errorf("event %d: %w: its jobs moved meanwhile; look again: orchestrate events show %d", id, ErrRefused, id)
	}
	q.log.InfoContext(ctx, "requeued", "event_id", id, "delivery_id", e.DeliveryID, "event", e.Kind(), "jobs", n)
	q.Wake()
	return n, nil
}

func retryable(j Job, force bool) bool {
	return j.Status == StatusDeadLetter || j.Status == StatusFailed || force && j.Status == StatusCompleted
}

func refuseRetry(id int64, jobs []Job) error {
	if len(jobs) == 0 {
		return fmt.Errorf("event %d: %w: no route wanted it; start one with --route NAME", id, ErrRefused)
	}
	states := make([]string, len(jobs))
	hint := "wait until it has ended"
	for i, j := range jobs {
		states[i] = j.Route + " is " + string(j.Status)
		if j.Status == StatusCompleted {
			hint = "completed jobs run again with --force"
		}
	}
	return fmt.Errorf("event %d: %w: %s; %s", id, ErrRefused, strings.Join(states, ", "), hint)
}

// start gives the event a job for a route that did not want it, or that did not
// exist when it came.
func (q *Queue) start(ctx context.Context, id int64, o RetryOptions) (int, error) {
	cfg := q.cfg.Load()
	r := cfg.Route(o.Route)
	if r == nil {
		return 0, UnknownRoute(o.Route, "the configuration has", cfg.RouteNames())
	}
	if o.DryRun {
		return 1, nil
	}
	now := q.Now()
	j := Job{
		Claim: Claim{JobKey: JobKey{EventID: id, Route: r.Name}}, Status: StatusPending,
		MaxRetries: r.Retry.Max, DueAt: now,
	}
	if err := q.store.AddJob(ctx, j, now); err != nil {
		return 0, fmt.Errorf("start route %s for event %d: %w", r.Name, id, err)
	}
	q.log.InfoContext(ctx, "requeued", "event_id", id, "route", r.Name, "new", true)
	q.Wake()
	return 1, nil
}

// BulkOptions bound and watch a verb over many jobs.
type BulkOptions struct {
	Limit    int        // jobs; 0: no limit
	Progress func(Bulk) // told after each chunk, if not nil
}

// RequeueDead makes the dead jobs of the events that match pending, due now,
// over a snapshot: what dies again meanwhile is not fed again. What is done
// when an error or ctx ends it stays done, and is told.
func (q *Queue) RequeueDead(ctx context.Context, f Filter, o BulkOptions) (Bulk, error) {
	b, err := q.bulk(ctx, f, []Status{StatusDeadLetter}, Move{To: StatusPending}, o)
	if b.Changed > 0 {
		q.log.InfoContext(ctx, "requeued", "jobs", b.Changed)
		q.Wake()
	}
	return b, err
}

// Open lists the states of a job that has not ended.
func Open() []Status { return []Status{StatusPending, StatusProcessing, StatusFailed} }

// Cancel moves what has not ended to the dead letters, with the reason. A
// running handler is stopped by its worker's next heartbeat.
func (q *Queue) Cancel(ctx context.Context, f Filter, reason string, o BulkOptions) (Bulk, error) {
	b, err := q.bulk(ctx, f, Open(), Move{To: StatusDeadLetter, Reason: reason}, o)
	if b.Changed > 0 {
		q.log.InfoContext(ctx, "cancelled", "jobs", b.Changed, "reason", reason)
	}
	return b, err
}

// bulk walks the matching jobs once, in order of their keys, up to the newest
// event there was when it began.
func (q *Queue) bulk(ctx context.Context, f Filter, from []Status, m Move, o BulkOptions) (b Bulk, err error) {
	err = q.EachJob(ctx, f, from, o.Limit, func(jobs []Job) error {
		b.Matched += len(jobs)
		m.Now = q.Now()
		start := Clock()
		n, err := q.store.Move(ctx, jobs, m)
		if err != nil {
			b.Failed += len(jobs)
			return fmt.Errorf("move jobs to %s: %w", m.To, err)
		}
		b.Changed += n
		b.Failed += len(jobs) - n
		if o.Progress != nil {
			o.Progress(b)
		}
		breathe(ctx, start)
		return nil
	})
	return b, err
}

// breathe pauses for as long as the last chunk took, so that a verb of one
// process takes at most half of the disk from the intake of another.
func breathe(ctx context.Context, start time.Time) {
	sleep(ctx, min(max(Clock().Sub(start), time.Millisecond), 100*time.Millisecond))
}

// EachJob calls fn for chunks of the jobs in one of the states, of events that
// match, over a snapshot: each job once, none of an event that came later, and
// no more than limit (0: no limit).
func (q *Queue) EachJob(ctx context.Context, f Filter, from []Status, limit int, fn func([]Job) error) error {
	newest, err := q.store.List(ctx, Filter{}, 1)
	if err != nil || len(newest) == 0 {
		return err
	}
	if f.Before == 0 {
		f.Before = newest[0].ID + 1
	}
	after := JobKey{}
	for seen := 0; limit == 0 || seen < limit; {
		want := chunk
		if limit > 0 {
			want = min(chunk, limit-seen)
		}
		jobs, err := q.store.Select(ctx, f, from, after, want)
		if err != nil {
			return err
		}
		if len(jobs) == 0 {
			return nil
		}
		if err := fn(jobs); err != nil {
			return err
		}
		seen += len(jobs)
		after = jobs[len(jobs)-1].JobKey
	}
	return nil
}

// Remember is how long the delivery id of a cleaned event is kept, counted from
// its receipt, so that a redelivery of it is known as a duplicate: GitHub
// redelivers for 3 days, GitHub Enterprise Server for 7 (docs.github.com,
// "Redelivering webhooks").
const Remember = 7 * 24 * time.Hour

// CleanupOptions says what Cleanup may take.
type CleanupOptions struct {
	Before      Time // only events received before this
	IncludeDead bool // dead letters, too
	Batch       int  // rows a transaction; 0: 200
	DryRun      bool
}

// CleanupResult tells what a cleanup did, or would do.
type CleanupResult struct {
	Before  Time  `json:"received_before"`
	Matched int   `json:"matched"`
	Changed int   `json:"changed"` // deleted + purged + forgotten; none in a dry run
	Failed  int   `json:"failed"`
	Deleted int   `json:"deleted"`     // gone
	Purged  int   `json:"purged"`      // younger than a week: gone but for the delivery id
	Forgot  int   `json:"forgotten"`   // delivery ids of purged events, a week old now
	Dead    int   `json:"kept_dead"`   // old enough, but dead letters
	Open    int   `json:"kept_open"`   // old enough, but not finished
	Freed   int64 `json:"freed_bytes"` // what the file shrank by
	DryRun  bool  `json:"dry_run"`
	Checked
}

// Cleanup deletes events that are old enough and finished. The row of a young
// one stays, without payload, jobs and attempts, so that its delivery id is
// remembered. What is done when an error or ctx ends it stays done, and is told.
// The database is checked before; from one that is damaged nothing is deleted.
func (q *Queue) Cleanup(ctx context.Context, o CleanupOptions, progress func(CleanupResult)) (res CleanupResult, err error) {
	now := q.Now()
	p := CleanParams{
		Before: o.Before, Forget: min(o.Before, now.Add(-Remember)), IncludeDead: o.IncludeDead,
		DryRun: o.DryRun, Limit: chunk,
	}
	if o.Batch > 0 {
		p.Limit = o.Batch
	}
	res = CleanupResult{Before: o.Before, DryRun: o.DryRun, Checked: Checked{State: CheckNone}}
	if !o.DryRun {
		if res.Checked, err = q.store.Check(ctx); err != nil {
			return res, err
		}
	}
	before, err := q.store.Size(ctx)
	if err != nil {
		return res, err
	}
	for done := false; !done; {
		if err := ctx.Err(); err != nil {
			return res, err
		}
		start := Clock()
		c, err := q.store.Clean(ctx, p)
		if err != nil {
			return res, fmt.Errorf("cleanup after event %d: %w", p.After, err)
		}
		res.add(c)
		p.After, done = c.Last, c.Done
		breathe(ctx, start)
		if progress != nil {
			progress(res)
		}
	}
	if res.Changed == 0 || o.DryRun {
		return res, nil
	}
	if err := q.store.Shrink(ctx); err != nil {
		return res, fmt.Errorf("give space back: %w", err)
	}
	after, err := q.store.Size(ctx)
	if err != nil {
		return res, err
	}
	res.Freed = max(0, before-after)
	q.log.InfoContext(ctx, "cleaned", "deleted", res.Deleted, "purged", res.Purged, "forgotten", res.Forgot,
		"kept_dead", res.Dead, "kept_open", res.Open, "received_before", o.Before, "freed_bytes", res.Freed)
	return res, nil
}

func (r *CleanupResult) add(c Cleaned) {
	r.Deleted += c.Deleted
	r.Purged += c.Purged
	r.Forgot += c.Forgot
	r.Dead += c.KeptDead
	r.Open += c.KeptOpen
	r.Failed += c.Missed
	r.Matched = r.Deleted + r.Purged + r.Forgot + r.Failed
	if !r.DryRun {
		r.Changed = r.Matched - r.Failed
	}
}
