package queue

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"
)

// WorkerOptions say how a worker works. Zero values take the defaults.
type WorkerOptions struct {
	Routes  []string // claim only from these; nil: all that are configured; empty: claim nothing
	Once    bool     // process what is due at the start, then return
	Limit   int      // claims at most, then return; 0: no limit
	Host    string
	PID     int
	Version string

	// Beat is how often the worker shows that it lives, 5 s; Lease is after how
	// long without a beat others take over its jobs, 15 s. All workers of a
	// database must agree, so no setting reaches these.
	Beat, Lease time.Duration
	// Sweep, if not nil, is called at the start and before each rescue, to end
	// and remove what dead workers left behind.
	Sweep func()
}

func (o WorkerOptions) withDefaults() WorkerOptions {
	o.Beat = cmp.Or(o.Beat, 5*time.Second)
	o.Lease = cmp.Or(o.Lease, Lease)
	return o
}

// Lease is after how long without a beat a worker's jobs are taken over.
const Lease = 15 * time.Second

// leaseMargin is how long before its lease ends a worker kills its handlers, so
// that none runs when another worker starts the job again.
const leaseMargin = 3 * time.Second

// errVanished is the cause of a handler's end when the store no longer holds
// its claim: it was cancelled or rescued.
var errVanished = errors.New("the claim is gone")

// worker is one Work call. Three contexts: ctx allows claims; handling, which
// handlers run in, outlives it by the drain; and background, which heartbeats
// and settles run in, outlives both.
type worker struct {
	q   *Queue
	o   WorkerOptions
	log *slog.Logger

	// What it follows now. The claim loop changes these, under mu.
	cfg    *Config
	sizes  Sizes
	routes []*Route // those that it claims from
	names  []string // of the routes, in their order

	handling   context.Context
	background context.Context
	fail       context.CancelCauseFunc // ends ctx, with the error that Work returns
	freed      chan struct{}           // a slot has become free
	wg         sync.WaitGroup

	mu       sync.Mutex
	id       Text
	runs     map[Claim]*run
	claiming int       // claims unanswered: 0 or 1
	claims   int       // claims asked for, ever
	beatAt   time.Time // start of the last committed heartbeat
	kill     *time.Timer
	lost     bool // the row is gone: no claims until registered anew
	silent   bool // another worker seems dead by the clocks; the lease will tell
	counts   struct{ claimed, completed, failed, dead, returned, stale int }

	// Owned by the heartbeat goroutine.
	unknown map[Claim]int // held by the store at the last heartbeat, but not running here; by claims then
	seen    map[Text]sighting
	looked  time.Time // at the other workers, last

	// Owned by the claim loop.
	turn    int // which route is asked first
	horizon Time
	clock   reading
	left    int // claims that the limit still allows
}

type run struct {
	suspect  bool
	settling bool
	cancel   context.CancelCauseFunc
	ended    chan struct{}
}

type sighting struct {
	beat  int64
	at    time.Time // since when it is that
	moved bool      // it was seen to move: that worker lives
}

// Work claims and runs jobs until ctx ends, then drains: no more claims,
// running handlers may end within the drain timeout, what is left is stopped
// and goes back. It returns nil after a drain, ErrSchema, ErrBroken or ErrDamaged when it
// can't go on, and an error when it couldn't begin: with Once also when the store
// is unavailable, else that is waited out.
func (q *Queue) Work(ctx context.Context, o WorkerOptions) error {
	w := &worker{
		q: q, o: o.withDefaults(), log: q.log, runs: map[Claim]*run{}, freed: make(chan struct{}, 1),
		seen: map[Text]sighting{}, horizon: q.Now(),
	}
	if w.left = o.Limit; o.Limit <= 0 {
		w.left = int(^uint(0) >> 1)
	}
	w.adopt(q.cfg.Load())
	ctx, w.fail = context.WithCancelCause(ctx)
	defer w.fail(nil)
	var stopHandling context.CancelCauseFunc
	w.handling, stopHandling = context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopHandling(nil)
	var stopBackground context.CancelFunc
	w.background, stopBackground = context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()

	if err := w.enrol(ctx); err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	defer w.kill.Stop()
	w.rescue(ctx)
	var helpers sync.WaitGroup
	helpers.Go(func() { w.heartbeats() })
	if w.o.Routes == nil || len(w.o.Routes) > 0 {
		helpers.Go(func() { w.watch() })
	}

	err := w.loop(ctx)
	if isBroken(err) {
		stopHandling(ErrStopped) // no result could be kept
	}
	w.drain(stopHandling)
	stopBackground()
	helpers.Wait()
	if isBroken(err) {
		return err
	}
	return errors.Join(err, w.unregister(ctx))
}

// newID names a worker so that an operator who meets it in the history of an
// attempt can tell where it ran. It is never used twice.
func (w *worker) newID() Text {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return Text(fmt.Sprintf("%s:%d:%s", Cut(Printable(w.o.Host), 64), w.o.PID, hex.EncodeToString(b[:])))
}

// enrol begins the first life. The store was there when it was opened: that it
// has gone since ends no process that is to stay, as later on it would not.
func (w *worker) enrol(ctx context.Context) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, w.o.Beat) {
		err := w.register(ctx)
		if err == nil || w.o.Once || !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		w.log.WarnContext(ctx, "start worker, trying again", "error", err.Error())
		sleep(ctx, wait)
	}
}

// register begins a new life; the row of the last one goes.
func (w *worker) register(ctx context.Context) error {
	at := Clock()
	w.mu.Lock()
	me, earlier := w.row(), w.id
	w.mu.Unlock()
	me.ID, me.StartedAt = w.newID(), w.q.Now()
	if err := w.q.store.Register(ctx, me, earlier); err != nil {
		return err
	}
	w.mu.Lock()
	w.id, w.lost = me.ID, false
	w.leased(at)
	w.mu.Unlock()
	w.log.InfoContext(ctx, "worker registered", "worker", me.ID, "routes", me.Routes, "slots", me.Slots)
	return nil
}

// row is how others see this worker. The caller holds mu.
func (w *worker) row() Worker {
	me := Worker{
		ID: w.id, Host: w.o.Host, PID: w.o.PID, Version: w.o.Version, Routes: w.names, Slots: w.sizes.Concurrency,
		ConfigHash: Clean(w.cfg.Hash), Reloads: w.q.reloadCounts(),
	}
	if len(w.names) == 0 {
		me.Slots = 0
	}
	return me
}

// adopt follows a configuration from now on; the next heartbeat tells the
// others.
func (w *worker) adopt(cfg *Config) {
	if cfg == w.cfg {
		return
	}
	routes, names := []*Route{}, []string{}
	for i := range cfg.Routes {
		if r := &cfg.Routes[i]; w.o.Routes == nil || slices.Contains(w.o.Routes, r.Name) {
			routes, names = append(routes, r), append(names, r.Name)
		}
	}
	first := w.cfg == nil
	w.mu.Lock()
	w.cfg, w.sizes, w.routes, w.names = cfg, cfg.Sizes.orDefaults(), routes, names
	w.mu.Unlock()
	if !first {
		signal(w.q.reloaded)
	}
}

// leased counts the lease from the start of a committed beat, and kills the
// handlers if no other comes in time. The caller holds mu.
func (w *worker) leased(at time.Time) {
	w.beatAt = at
	left := w.o.Lease - leaseMargin - Clock().Sub(at)
	if w.kill == nil {
		w.kill = time.AfterFunc(left, func() { w.killAll(ErrLeaseLost) })
		return
	}
	w.kill.Reset(left)
}

// holdsLease tells whether a handler may be started.
func (w *worker) holdsLease() bool {
	return !w.lost && Clock().Sub(w.beatAt) < w.o.Lease-leaseMargin
}

// killAll ends every handler. Nothing is logged under mu: a log that blocks must
// not keep heartbeats and kills from their time.
func (w *worker) killAll(cause error) {
	w.mu.Lock()
	id, n := w.id, len(w.runs)
	for _, r := range w.runs {
		r.cancel(cause)
	}
	w.mu.Unlock()
	if n > 0 {
		w.log.Error("handlers stopped", "worker", id, "running", n, "cause", cause.Error())
	}
}

// loop claims whenever something may have become due or a slot free.
func (w *worker) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return w.cause(ctx)
		case <-timer.C:
		case <-w.freed:
		case <-w.q.wake:
		case <-w.q.store.Broken():
			return w.q.store.WhyBroken()
		}
		w.adopt(w.q.cfg.Load())
		wait, idle, err := w.claimAll(ctx)
		switch {
		case isBroken(err) || errors.Is(err, ErrSchema):
			return err
		case err != nil && ctx.Err() == nil:
			if w.o.Once {
				return err
			}
			w.log.ErrorContext(ctx, "claim", "worker", w.name(), "error", err.Error())
			wait = min(time.Second, w.sizes.PollInterval)
		case idle && (w.left <= 0 || w.o.Once && !w.awaitsRescue()):
			return nil
		}
		timer.Reset(wait)
	}
}

// awaitsRescue keeps a worker that runs once from leaving the jobs of a dead one
// to nobody: where only such workers run, none would live for a lease to see it
// dead. The clocks are only a hint; the beat decides.
func (w *worker) awaitsRescue() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.silent
}

// name is the id of the present life.
func (w *worker) name() Text {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.id
}

// cause is nil when the worker was told to stop, else what made it fail.
func (w *worker) cause(ctx context.Context) error {
	if err := context.Cause(ctx); errors.Is(err, ErrSchema) || isBroken(err) {
		return err
	}
	return nil
}

// claimAll fills the free slots, route by route, beginning with another one
// each time so that none stands before the others. It returns how long to
// sleep, and whether nothing runs and nothing is due.
func (w *worker) claimAll(ctx context.Context) (wait time.Duration, idle bool, err error) {
	for {
		wait = w.sizes.PollInterval
		running, leased := w.state()
		if running >= w.sizes.Concurrency || w.left <= 0 || !leased || len(w.routes) == 0 {
			return wait, running == 0 && (leased || w.left <= 0), nil
		}
		now, err := w.readClock(ctx)
		if err != nil {
			return 0, false, err
		}
		due, err := w.due(ctx)
		if err != nil {
			return 0, false, err
		}
		claimed, partly := 0, false
		for i := range w.routes {
			r := w.routes[(w.turn+i)%len(w.routes)]
			at := slices.IndexFunc(due, func(d Due) bool { return d.Route == r.Name })
			if at < 0 {
				continue
			}
			n, next, err := w.claimRoute(ctx, r, due[at], now)
			if err != nil {
				return 0, false, err
			}
			claimed += n
			partly = partly || due[at].Partly
			if next != 0 {
				wait = min(wait, max(next.Sub(now), 0))
			}
		}
		w.turn++
		if claimed == 0 {
			return wait, running == 0 && !partly, nil
		}
	}
}

// claimRoute claims what is due and fits. next is when something will be due
// that no free slot waits for now; a job that finds no slot needs no timer, as
// a freed slot wakes the loop.
func (w *worker) claimRoute(ctx context.Context, r *Route, d Due, now Time) (n int, next Time, err error) {
	type kind struct {
		due      Time
		room     int
		suspects bool
	}
	room, suspects := w.room(r)
	kinds := []kind{{d.Due, room, false}, {d.Suspect, min(room, 1-suspects), true}}
	if d.Suspect < d.Due {
		slices.Reverse(kinds) // what has waited longest is first
	}
	for _, kind := range kinds {
		if kind.due == 0 {
			continue
		}
		if kind.due > now {
			if next == 0 || kind.due < next {
				next = kind.due
			}
			continue
		}
		limit := min(kind.room, room-n, w.left)
		if limit <= 0 || w.o.Once && kind.due > w.horizon {
			continue
		}
		got, err := w.claim(ctx, ClaimParams{Route: r.Name, Now: now, DueBy: w.dueBy(now), Clock: w.q.Now, Limit: limit, Suspects: kind.suspects})
		if err != nil {
			return n, next, err
		}
		n += got
	}
	return n, next, nil
}

func (w *worker) due(ctx context.Context) ([]Due, error) {
	ctx, cancel := context.WithTimeout(ctx, w.o.Lease) // a read that hangs is asked again
	defer cancel()
	return w.q.store.Due(ctx, w.names)
}

func (w *worker) dueBy(now Time) Time {
	if w.o.Once {
		return min(now, w.horizon)
	}
	return now
}

func (w *worker) state() (running int, leased bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.runs), w.holdsLease()
}

// room is how many jobs of a route can be claimed now: nothing is claimed that
// no slot can start. suspects is how many of them run.
func (w *worker) room(r *Route) (room, suspects int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	room = min(w.sizes.Concurrency-len(w.runs), w.sizes.BatchSize)
	mine := 0
	for claim, run := range w.runs {
		if claim.Route == r.Name {
			mine++
		}
		if run.suspect {
			suspects++
		}
	}
	if r.Concurrency > 0 {
		room = min(room, r.Concurrency-mine)
	}
	return room, suspects
}

// claim asks for jobs and starts them. A handler starts only after the claim's
// commit has returned, under a lease, and not after a stop. A claim that is
// under way is not broken off by a stop: its commit may have happened.
func (w *worker) claim(ctx context.Context, p ClaimParams) (int, error) {
	w.mu.Lock()
	p.WorkerID = w.id
	w.claiming++
	w.claims++
	w.mu.Unlock()
	claiming, cancel := context.WithTimeout(w.background, w.o.Lease)
	defer cancel()
	jobs, err := w.q.store.Claim(claiming, p)
	w.mu.Lock()
	w.claiming--
	w.left -= len(jobs)
	w.counts.claimed += len(jobs)
	start := p.WorkerID == w.id && w.holdsLease() && ctx.Err() == nil
	for _, j := range jobs {
		if start {
			w.start(j, w.cfg)
		}
	}
	w.mu.Unlock()
	if start || err != nil {
		return len(jobs), err
	}
	return 0, w.giveBack(claiming, jobs, "claimed too late")
}

// giveBack returns claims that nothing runs.
func (w *worker) giveBack(ctx context.Context, jobs []Job, why string) error {
	for _, j := range jobs {
		w.log.WarnContext(ctx, "given back", "reason", why, "event_id", j.EventID, "route", j.Route, "attempt", j.Seq)
		if err := w.q.store.Settle(ctx, j.Claim, GiveBack(j, why, w.q.Now())); err != nil && !errors.Is(err, ErrStale) {
			return err
		}
		w.q.Wake()
	}
	return nil
}

// start begins an attempt. A handler of an older claim of the same job may
// still run, if that was cancelled and requeued: it is ended first. The caller
// holds mu.
func (w *worker) start(j Job, cfg *Config) {
	ctx, cancel := context.WithCancelCause(w.handling)
	var older []*run
	for claim, run := range w.runs {
		if claim.JobKey == j.JobKey {
			run.cancel(errVanished)
			older = append(older, run)
		}
	}
	this := &run{suspect: j.CrashCount > 0, cancel: cancel, ended: make(chan struct{})}
	w.runs[j.Claim] = this
	w.wg.Go(func() {
		defer cancel(nil)
		for _, run := range older {
			<-run.ended
		}
		w.attempt(ctx, j, cfg)
		w.release(j.Claim, this)
	})
}

// attempt runs one job to its settlement.
func (w *worker) attempt(ctx context.Context, j Job, cfg *Config) {
	log := w.log.With("event_id", j.EventID, "route", j.Route, "attempt", j.Seq)
	at, began := Clock(), w.q.Now()
	res, err := w.perform(ctx, j, cfg, &log)
	if errors.Is(err, errVanished) {
		w.count(func() { w.counts.stale++ })
		log.WarnContext(ctx, "cancelled: the claim is gone, its handler was stopped")
		return
	}
	w.count(func() { w.runs[j.Claim].settling = true })
	now := w.q.Now()
	j = j.setBy(now.Sub(began) - Clock().Sub(at))
	s := decide(j, cfg.Route(j.Route).Retry, err, now, mathrand.Float64()) //nolint:gosec // jitter, not a secret
	s.Result, s.Version, s.ConfigHash = res, w.o.Version, cfg.Hash
	w.settle(log, j, s)
}

func (w *worker) load(ctx context.Context, id int64) (*Event, *Payload, error) {
	ctx, cancel := context.WithTimeout(ctx, w.o.Lease)
	defer cancel()
	return w.q.store.Load(ctx, id)
}

// perform loads the event and runs the handler. It adds what it learns of the
// event to the logger.
func (w *worker) perform(ctx context.Context, j Job, cfg *Config, log **slog.Logger) (Result, error) {
	e, p, err := w.load(ctx, j.EventID)
	if err != nil { // no fault of the event's
		return Result{}, interrupted(ctx, &UnavailableError{Err: fmt.Errorf("load: %w", err)})
	}
	*log = (*log).With("delivery_id", e.DeliveryID, "event", e.Kind(), "repository", e.Repository)
	(*log).InfoContext(ctx, "claimed", "waited_ms", int64(w.q.Now()-max(j.DueAt, e.ReceivedAt)))
	if j.MatchPending {
		switch wanted, err := cfg.Matcher.Wants(j.Route, e, p); {
		case err != nil:
			return Result{}, Permanent("match: %w", err)
		case !wanted:
			return Result{}, errSkip
		}
	}
	res, err := w.q.handle(ctx, cfg.Route(j.Route).Handler, NewTask(e, p, j.Route, j.Seq))
	return res, interrupted(ctx, err)
}

// interrupted makes sure that an error of an attempt that was stopped from
// outside is told as that.
func interrupted(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// settle tries until the result is on disk or the lease has ended; once in any
// case, since the fence tells whether the claim is still ours.
func (w *worker) settle(log *slog.Logger, j Job, s Settlement) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		ctx, cancel := context.WithTimeout(w.background, max(w.leaseLeft(), leaseMargin))
		err := w.q.store.Settle(ctx, j.Claim, s)
		cancel()
		switch {
		case err == nil:
			w.settled(log, j, s)
			return
		case errors.Is(err, ErrStale):
			w.count(func() { w.counts.stale++ })
			log.Warn("stale: the claim is not ours any more, its result is dropped", "outcome", string(s.Ending))
			return
		case isBroken(err), w.leaseLeft() <= 0, w.background.Err() != nil:
			log.Error("lost: the result could not be stored, the job will run again", "outcome", string(s.Ending), "error", err.Error())
			return
		}
		log.Warn("settle, trying again", "error", err.Error())
		if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrBusy) && s.Ending != EndDeadLetter {
			// The store will never take it: keep at least the fact.
			s.Status, s.Ending, s.Result = StatusDeadLetter, EndDeadLetter, Result{}
			s.ErrorMessage = Clean("the result could not be stored: " + err.Error())
		}
		sleep(w.background, wait)
	}
}

func (w *worker) leaseLeft() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.o.Lease - Clock().Sub(w.beatAt)
}

// settled logs what became of an attempt.
func (w *worker) settled(log *slog.Logger, j Job, s Settlement) {
	log = log.With("outcome", string(s.Ending), "duration_ms", int64(s.FinishedAt-j.StartedAt))
	if s.Result.ExitCode != nil {
		log = log.With("exit_code", *s.Result.ExitCode)
	}
	if s.ErrorMessage != "" {
		log = log.With("error", string(s.ErrorMessage))
	}
	switch s.Status {
	case StatusCompleted:
		w.count(func() { w.counts.completed++ })
		log.Info("attempt ended")
	case StatusFailed:
		w.count(func() { w.counts.failed++ })
		log.Warn("attempt ended; retry due", "due_at", s.DueAt, "retries", fmt.Sprintf("%d/%d", s.RetryCount, j.MaxRetries))
	case StatusDeadLetter:
		w.count(func() { w.counts.dead++ })
		log.Error("attempt ended; dead-lettered", "next", fmt.Sprintf("orchestrate events show %d", j.EventID))
	case StatusPending, StatusProcessing:
		w.count(func() { w.counts.returned++ })
		log.Info("attempt ended; given back")
	}
}

// count changes what mu guards.
func (w *worker) count(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// release frees the slot of an attempt.
func (w *worker) release(c Claim, r *run) {
	w.count(func() { delete(w.runs, c) })
	close(r.ended)
	signal(w.freed)
}

// drain lets running handlers end in time, then stops them.
func (w *worker) drain(stopHandling context.CancelCauseFunc) {
	if n, _ := w.state(); n > 0 {
		w.log.Info("draining", "worker", w.name(), "running", n, "timeout", w.sizes.DrainTimeout.String())
	}
	timeout := time.AfterFunc(w.sizes.DrainTimeout, func() { stopHandling(ErrStopped) })
	defer timeout.Stop()
	w.wg.Wait()
}

// unregister removes the row, which goes last: nothing is left running.
func (w *worker) unregister(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.o.Beat)
	defer cancel()
	c := w.counts
	w.log.InfoContext(ctx, "stopped", "worker", w.id, "claimed", c.claimed, "completed", c.completed, "failed", c.failed,
		"dead_lettered", c.dead, "given_back", c.returned, "stale", c.stale)
	if err := w.q.store.Unregister(ctx, w.id, w.q.Now()); err != nil {
		return fmt.Errorf("unregister worker %s: %w", w.id, err)
	}
	return nil
}

// watch wakes the loop when another process may have written.
func (w *worker) watch() {
	for w.background.Err() == nil {
		if err := w.q.store.Watch(w.background, w.q.Wake); err != nil && w.background.Err() == nil {
			w.log.Warn("watch for other processes' writes", "error", err.Error())
			sleep(w.background, w.o.Beat)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
