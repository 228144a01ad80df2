package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"orchestrate/internal/queue"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// model is what the store should hold, as plainly as it can be said.
type model struct {
	events  map[int64]*modelEvent
	workers map[queue.Text]int64 // beats
	ended   []queue.Claim        // of these no result counts any more
	born    int                  // workers so far
	sent    int                  // deliveries so far
}

type modelEvent struct {
	delivery, body        string
	received, requeued    queue.Time
	duplicates, conflicts int
	purged                bool
	status                queue.Status // of a purged one
	jobs                  map[string]*modelJob
}

type modelJob struct {
	queue.Job
	attempts int
}

// Model runs at least so many random operations, in rounds that begin with an
// empty store, and compares what each answers, and what the store then holds, with the model.
func Model(t *testing.T, s queue.Store, steps int) {
	done, rounds := 0, 0
	for done < steps && !t.Failed() {
		rapid.Check(t, func(rt *rapid.T) {
			if done >= steps { // it asks for a number of rounds
				return
			}
			rounds++
			r := &modelRound{
				// It lies behind the store's clock, so that what that one told is later than all else.
				fixture: &fixture{Store: s, now: s.Now().Add(-time.Hour)}, t: rt, number: rounds,
				model: model{events: map[int64]*modelEvent{}, workers: map[queue.Text]int64{}},
			}
			r.empty()
			r.register()
			rt.Repeat(map[string]func(*rapid.T){
				"receive": r.receive, "receive again": r.receiveAgain, "claim": r.claim, "claim more": r.claim,
				"settle": r.settle, "settle another": r.settle, "settle late": r.settleLate, "requeue": r.requeue, "cancel": r.cancel, "add a job": r.add,
				"clean": r.clean, "list": r.list, "beat": r.beat, "rescue": r.rescue, "worker comes": r.workerComes,
				"worker goes": r.workerGoes, "time passes": func(rt *rapid.T) {
					r.now = r.now.Add(time.Duration(rapid.IntRange(1, 4).Draw(rt, "seconds")) * time.Second)
				},
				"": func(*rapid.T) {
					if done++; done%25 == 0 { // it takes longer than an operation, which is compared by itself
						r.compare()
					}
				},
			})
			r.compare()
			r.compareHistory()
		})
	}
	t.Logf("%d operations in %d rounds", done, rounds)
}

type modelRound struct {
	*fixture
	model
	t      *rapid.T
	number int
}

func (r *modelRound) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *modelRound) want(what string, got, want any) {
	r.t.Helper()
	if !reflect.DeepEqual(got, want) { // the diff takes longer than the database
		r.t.Fatalf("%s (-model +store):\n%s", what, gocmp.Diff(want, got))
	}
}

func (r *modelRound) wantErr(what string, got, want error) {
	r.t.Helper()
	if !errors.Is(got, want) {
		r.t.Fatalf("%s: error %v, the model says %v", what, got, want)
	}
}

// routes are a round's own: PostgreSQL remembers by route where to search from.
func (r *modelRound) routes() []string {
	var names []string
	for _, c := range "abc" {
		names = append(names, fmt.Sprintf("%d%c", r.number, c))
	}
	return names
}

// empty takes away what the last round left.
func (r *modelRound) empty() {
	ctx, now := r.t.Context(), r.Now()
	workers, err := r.Workers(ctx)
	r.check(err)
	for _, w := range workers {
		r.check(r.Unregister(ctx, w.ID, now))
	}
	jobs, err := r.Select(ctx, queue.Filter{}, queue.Open(), queue.JobKey{}, 1000)
	r.check(err)
	_, err = r.Move(ctx, jobs, queue.Move{To: queue.StatusDeadLetter, Now: now})
	r.check(err)
	later := now.Add(time.Hour)
	c, err := r.Clean(ctx, queue.CleanParams{Before: later, Forget: later, IncludeDead: true, Limit: 1000})
	r.check(err)
	r.want("kept after everything was cleaned", c.KeptOpen+c.KeptDead+c.Missed, 0)
}

// pick draws one of the events that will do, nil where there is none.
func (r *modelRound) pick(rt *rapid.T, will func(*modelEvent) bool) (int64, *modelEvent) {
	ids := slices.Sorted(maps.Keys(r.events))
	ids = slices.DeleteFunc(ids, func(id int64) bool { return !will(r.events[id]) })
	if len(ids) == 0 {
		return 0, nil
	}
	id := rapid.SampledFrom(ids).Draw(rt, "event")
	return id, r.events[id]
}

// jobsIn are those in one of the states, by key.
func (r *modelRound) jobsIn(states ...queue.Status) []*modelJob {
	var jobs []*modelJob
	for _, e := range r.events {
		for _, j := range e.jobs {
			if slices.Contains(states, j.Status) {
				jobs = append(jobs, j)
			}
		}
	}
	slices.SortFunc(jobs, byKey)
	return jobs
}

func byKey(x, y *modelJob) int {
	return cmp.Or(cmp.Compare(x.EventID, y.EventID), cmp.Compare(x.Route, y.Route))
}

func (r *modelRound) insertion(rt *rapid.T, delivery, body string) queue.Insertion {
	routes := r.routes()
	in := r.delivery(delivery, body, routes[:rapid.IntRange(0, len(routes)).Draw(rt, "routes")]...)
	if rapid.IntRange(0, 2).Draw(rt, "old") == 0 {
		in.Event.ReceivedAt = r.now.Add(-30 * 24 * time.Hour)
	}
	if n := len(in.Jobs); n > 0 && rapid.IntRange(0, 4).Draw(rt, "unmatched") == 0 {
		in.Jobs[n-1].Status, in.Jobs[n-1].MatchPending = queue.StatusDeadLetter, true
	}
	return in
}

func (r *modelRound) receive(rt *rapid.T) {
	if len(r.events) > 20 {
		rt.Skip("enough events")
	}
	r.sent++
	delivery := fmt.Sprintf("p%d-%d", r.number, r.sent)
	in := r.insertion(rt, delivery, delivery)
	got, err := r.Insert(rt.Context(), in)
	r.check(err)
	r.isNew(in, delivery, got)
}

func (r *modelRound) isNew(in queue.Insertion, delivery string, got queue.Receipt) {
	e := &modelEvent{delivery: delivery, body: string(in.Payload.Body), received: in.Event.ReceivedAt, jobs: map[string]*modelJob{}}
	started := []string{}
	for _, j := range in.Jobs {
		j.EventID = got.EventID
		e.jobs[j.Route] = &modelJob{Job: j}
		if j.Status == queue.StatusPending {
			started = append(started, j.Route)
		}
	}
	r.want("a new delivery", got, queue.Receipt{EventID: got.EventID, DeliveryID: delivery, Routes: started})
	if r.events[got.EventID] != nil {
		r.t.Fatalf("id %d was given twice", got.EventID)
	}
	r.events[got.EventID] = e
}

// receiveAgain sends a delivery id that is known, with its own body or another
// one, from its own hook or another one.
func (r *modelRound) receiveAgain(rt *rapid.T) {
	id, e := r.pick(rt, func(e *modelEvent) bool { return !strings.Contains(e.delivery, "#") })
	if e == nil {
		rt.Skip("no event")
	}
	in := r.insertion(rt, e.delivery, e.body)
	in.RequeueDead = rapid.Bool().Draw(rt, "requeue dead")
	delivery := e.delivery
	if rapid.IntRange(0, 2).Draw(rt, "other body") == 0 {
		in.Payload.Body, in.Event.BodySHA256 = []byte("[]"), strings.Repeat("1", 64)
		if rapid.Bool().Draw(rt, "other hook") {
			in.Event.HookID = 2
			delivery += "#2"
		}
	}
	before := r.Now()
	got, err := r.Insert(rt.Context(), in)
	r.check(err)
	for other, o := range r.events {
		if o.delivery == delivery {
			id, e = other, o
		}
	}
	switch {
	case e.delivery != delivery:
		r.isNew(in, delivery, got)
	case e.body != string(in.Payload.Body):
		e.conflicts++
		r.want("a conflict", got, queue.Receipt{EventID: id, DeliveryID: delivery, Conflict: true, Routes: []string{}})
	default:
		e.duplicates++
		r.isDuplicate(in.RequeueDead, id, e, got, before)
	}
}

func (r *modelRound) isDuplicate(requeueDead bool, id int64, e *modelEvent, got queue.Receipt, before queue.Time) {
	expected := queue.Receipt{EventID: id, DeliveryID: e.delivery, Duplicate: true, Routes: []string{}}
	var dead []*modelJob
	for _, j := range e.jobs {
		if requeueDead && !e.purged && j.Status == queue.StatusDeadLetter {
			dead = append(dead, j)
		}
	}
	slices.SortFunc(dead, byKey)
	// What was requeued by the clock of the store was so a moment ago; all else
	// lies an hour back.
	expected.Limited = len(dead) > 0 && before.Sub(e.requeued) < queue.RedeliveryPause/2
	if len(dead) == 0 || expected.Limited {
		r.want("a duplicate", got, expected)
		return
	}
	jobs, err := r.Jobs(r.t.Context(), id)
	r.check(err)
	for _, j := range dead {
		expected.Routes = append(expected.Routes, j.Route)
		i := slices.IndexFunc(jobs, func(stored queue.Job) bool { return stored.Route == j.Route })
		if i < 0 || jobs[i].DueAt < before || jobs[i].DueAt > r.Now() {
			r.t.Fatalf("requeued at %v, and due not then: %+v", before, jobs)
		}
		j.requeue(jobs[i].DueAt)
		e.requeued = jobs[i].DueAt
	}
	r.want("a duplicate that requeues", got, expected)
}

func (j *modelJob) requeue(now queue.Time) {
	j.Status, j.DueAt, j.RetryCount, j.CrashCount = queue.StatusPending, now, 0, 0
}

func (r *modelRound) worker(rt *rapid.T) queue.Text {
	return rapid.SampledFrom(slices.Sorted(maps.Keys(r.workers))).Draw(rt, "worker")
}

func (r *modelRound) claim(rt *rapid.T) {
	p := queue.ClaimParams{
		Route: rapid.SampledFrom(r.routes()).Draw(rt, "route"), Now: r.now, DueBy: r.now, Limit: rapid.IntRange(1, 4).Draw(rt, "limit"),
		WorkerID: r.worker(rt), Suspects: rapid.IntRange(0, 2).Draw(rt, "suspects") == 0,
	}
	if ready := r.jobsIn(queue.StatusPending, queue.StatusFailed); len(ready) > 0 && rapid.IntRange(0, 3).Draw(rt, "any route") > 0 {
		j := rapid.SampledFrom(ready).Draw(rt, "ready") // else most would find none
		p.Route, p.Suspects = j.Route, j.CrashCount > 0
	}
	r.claims(p)
}

func (r *modelRound) claims(p queue.ClaimParams) {
	ready := r.jobsIn(queue.StatusPending, queue.StatusFailed)
	ready = slices.DeleteFunc(ready, func(j *modelJob) bool {
		return j.Route != p.Route || j.DueAt > p.DueBy || (j.CrashCount > 0) != p.Suspects
	})
	slices.SortStableFunc(ready, func(x, y *modelJob) int { return cmp.Compare(x.DueAt, y.DueAt) })
	ready = ready[:min(len(ready), p.Limit)]
	got, err := r.Claim(r.t.Context(), p)
	r.check(err)
	slices.SortFunc(got, func(x, y queue.Job) int { return cmp.Compare(x.EventID, y.EventID) })
	slices.SortFunc(ready, byKey)
	var expected []queue.Job
	for _, j := range ready {
		j.Status, j.Seq, j.WorkerID = queue.StatusProcessing, j.Seq+1, p.WorkerID
		expected = append(expected, j.Job)
	}
	r.want("claimed", followed(got), followed(expected))
}

// followed leaves out what the model does not follow.
func followed(jobs []queue.Job) []queue.Job {
	jobs = slices.Clone(jobs)
	for i := range jobs {
		j := &jobs[i]
		j.ErrorMessage, j.StartedAt, j.FinishedAt, j.UnavailableSince = "", 0, 0, 0
		if j.Status != queue.StatusProcessing {
			j.WorkerID = ""
		}
	}
	if len(jobs) == 0 {
		return nil
	}
	return jobs
}

func (r *modelRound) settle(rt *rapid.T) {
	running := r.jobsIn(queue.StatusProcessing)
	if len(running) == 0 {
		rt.Skip("nothing runs")
	}
	j := rapid.SampledFrom(running).Draw(rt, "job")
	s := queue.Settlement{
		Status: rapid.SampledFrom([]queue.Status{queue.StatusCompleted, queue.StatusFailed, queue.StatusDeadLetter, queue.StatusPending}).Draw(rt, "to"),
		Ending: queue.EndFailed, RetryCount: j.RetryCount, DueAt: j.DueAt, MatchPending: j.MatchPending, FinishedAt: r.now,
	}
	switch s.Status {
	case queue.StatusFailed:
		s.RetryCount = min(s.RetryCount+1, j.MaxRetries)
		s.DueAt = r.now.Add(time.Duration(rapid.IntRange(0, 5).Draw(rt, "wait")) * time.Second)
	case queue.StatusPending:
		s.CrashCount = j.CrashCount
	case queue.StatusCompleted:
		s.Ending, s.MatchPending = queue.EndCompleted, false
	case queue.StatusDeadLetter, queue.StatusProcessing:
		s.Ending = queue.EndDeadLetter
	}
	r.check(r.Settle(rt.Context(), j.Claim, s))
	j.RetryCount, j.CrashCount, j.DueAt, j.MatchPending = s.RetryCount, s.CrashCount, s.DueAt, s.MatchPending
	r.end(j, s.Status)
}

// end is what becomes of a claim, whoever ends it.
func (r *modelRound) end(j *modelJob, to queue.Status) {
	j.Status = to
	j.attempts++
	r.ended = append(r.ended, j.Claim)
}

func (r *modelRound) settleLate(rt *rapid.T) {
	if len(r.ended) == 0 {
		rt.Skip("no claim has ended")
	}
	c := rapid.SampledFrom(r.ended).Draw(rt, "claim")
	if running := r.jobsIn(queue.StatusProcessing); len(running) > 0 && rapid.Bool().Draw(rt, "runs again") {
		c = rapid.SampledFrom(running).Draw(rt, "job").Claim
		if c.Seq--; rapid.Bool().Draw(rt, "of another worker") {
			c.Seq, c.WorkerID = c.Seq+1, "another"
		}
	}
	err := r.Settle(rt.Context(), c, queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, DueAt: r.now, FinishedAt: r.now})
	r.wantErr("a late result", err, queue.ErrStale)
}

// some draws jobs as an operator selected them, now and then before they moved
// on; it returns those that are still so, too.
func (r *modelRound) some(rt *rapid.T, states ...queue.Status) (selected []queue.Job, still []*modelJob) {
	jobs := r.jobsIn(states...)
	if len(jobs) == 0 {
		rt.Skip("none is there")
	}
	from := rapid.IntRange(0, len(jobs)-1).Draw(rt, "first")
	for _, j := range jobs[from:min(len(jobs), from+rapid.IntRange(1, 4).Draw(rt, "jobs"))] {
		seen := j.Job
		switch rapid.IntRange(0, 7).Draw(rt, "moved on") {
		case 0:
			seen.Seq--
		case 1:
			seen.Status = states[(slices.Index(states, seen.Status)+1)%len(states)]
		}
		if seen.Seq == j.Seq && seen.Status == j.Status {
			still = append(still, j)
		}
		selected = append(selected, seen)
	}
	return selected, still
}

func (r *modelRound) requeue(rt *rapid.T) {
	selected, still := r.some(rt, queue.StatusDeadLetter, queue.StatusFailed, queue.StatusCompleted)
	n, err := r.Move(rt.Context(), selected, queue.Move{To: queue.StatusPending, Now: r.now})
	r.check(err)
	r.want("requeued", n, len(still))
	for _, j := range still {
		j.requeue(r.now)
		r.events[j.EventID].requeued = r.now
	}
}

func (r *modelRound) cancel(rt *rapid.T) {
	selected, still := r.some(rt, queue.Open()...)
	n, err := r.Move(rt.Context(), selected, queue.Move{To: queue.StatusDeadLetter, Reason: "cancelled", Now: r.now})
	r.check(err)
	r.want("cancelled", n, len(still))
	for _, j := range still {
		if j.Status == queue.StatusProcessing {
			r.end(j, queue.StatusDeadLetter)
		}
		j.Status = queue.StatusDeadLetter
	}
}

func (r *modelRound) add(rt *rapid.T) {
	id, e := r.pick(rt, func(*modelEvent) bool { return true })
	if e == nil {
		id = 1 << 40
	}
	j := queue.Job{Status: queue.StatusPending, MaxRetries: 1, DueAt: r.now}
	j.EventID, j.Route = id, rapid.SampledFrom(r.routes()).Draw(rt, "route")
	err := r.AddJob(rt.Context(), j, r.now)
	switch {
	case e == nil:
		r.wantErr("a job for no event", err, queue.ErrNotFound)
	case e.purged || e.jobs[j.Route] != nil:
		r.wantErr("a job too many", err, queue.ErrRefused)
	default:
		r.check(err)
		e.jobs[j.Route], e.requeued = &modelJob{Job: j}, r.now
	}
}

// clean takes a little at a time, as the command does.
func (r *modelRound) clean(rt *rapid.T) {
	p := queue.CleanParams{
		Before: r.now.Add(-time.Duration(rapid.SampledFrom([]int{-1, 2, 24 * 20}).Draw(rt, "hours")) * time.Hour),
		Forget: r.now.Add(-queue.Remember), IncludeDead: rapid.Bool().Draw(rt, "dead"), DryRun: rapid.Bool().Draw(rt, "dry"),
		Limit: rapid.IntRange(1, 5).Draw(rt, "limit"),
	}
	p.Forget = min(p.Forget, p.Before)
	expected, got := r.cleaned(p), queue.Cleaned{}
	for done := false; !done; {
		c, err := r.Clean(rt.Context(), p)
		r.check(err)
		if c.Deleted+c.Purged+c.Forgot > p.Limit {
			rt.Fatalf("cleaned %+v, more than %d", c, p.Limit)
		}
		got.Deleted, got.Purged, got.Forgot, got.Missed = got.Deleted+c.Deleted, got.Purged+c.Purged, got.Forgot+c.Forgot, got.Missed+c.Missed
		got.KeptDead, got.KeptOpen = got.KeptDead+c.KeptDead, got.KeptOpen+c.KeptOpen
		p.After, done = c.Last, c.Done
	}
	r.want("cleaned", got, expected)
}

func (r *modelRound) cleaned(p queue.CleanParams) (c queue.Cleaned) {
	for id, e := range r.events {
		s := e.counts()
		switch {
		case e.received >= p.Before:
		case e.purged && e.received < p.Forget:
			c.Forgot++
			r.forget(id, p)
		case e.purged:
		case s[queue.StatusPending]+s[queue.StatusProcessing]+s[queue.StatusFailed] > 0:
			c.KeptOpen++
		case s[queue.StatusDeadLetter] > 0 && !p.IncludeDead:
			c.KeptDead++
		case e.received < p.Forget:
			c.Deleted++
			r.forget(id, p)
		default:
			c.Purged++
			if !p.DryRun {
				e.status, e.purged = e.state(), true
				clear(e.jobs)
			}
		}
	}
	return c
}

func (r *modelRound) forget(id int64, p queue.CleanParams) {
	if !p.DryRun {
		delete(r.events, id)
	}
}

func (e *modelEvent) counts() map[queue.Status]int {
	n := map[queue.Status]int{}
	for _, j := range e.jobs {
		n[j.Status]++
	}
	return n
}

// state is the worst that its jobs are in.
func (e *modelEvent) state() queue.Status {
	if e.purged {
		return e.status
	}
	n := e.counts()
	for _, s := range []queue.Status{queue.StatusProcessing, queue.StatusPending, queue.StatusFailed, queue.StatusDeadLetter} {
		if n[s] > 0 {
			return s
		}
	}
	return queue.StatusCompleted
}

func (r *modelRound) list(rt *rapid.T) {
	f := queue.Filter{
		Status: rapid.SampledFrom(append(queue.Statuses(), "")).Draw(rt, "status"),
		Route:  rapid.SampledFrom(append(r.routes(), "")).Draw(rt, "route"),
		Until:  rapid.SampledFrom([]queue.Time{0, r.now.Add(-time.Hour)}).Draw(rt, "until"),
	}
	var expected []int64
	for id, e := range r.events {
		if !e.purged && (f.Status == "" || e.state() == f.Status) && (f.Route == "" || e.jobs[f.Route] != nil) && (f.Until == 0 || e.received < f.Until) {
			expected = append(expected, id)
		}
	}
	slices.Sort(expected)
	slices.Reverse(expected)
	limit := rapid.IntRange(1, 25).Draw(rt, "limit")
	events, err := r.List(rt.Context(), f, limit)
	r.check(err)
	var got []int64
	for _, e := range events {
		got = append(got, e.ID)
	}
	r.want("listed", got, expected[:min(len(expected), limit)])
}

func (r *modelRound) beat(rt *rapid.T) {
	id := r.worker(rt)
	held, err := r.Heartbeat(rt.Context(), queue.Worker{ID: id, Routes: []string{}, HeartbeatAt: r.now})
	r.check(err)
	r.workers[id]++
	var expected []queue.Job
	for _, j := range r.jobsIn(queue.StatusProcessing) {
		if j.WorkerID == id {
			expected = append(expected, j.Job)
		}
	}
	r.want("held", followed(held), followed(expected))
}

func (r *modelRound) workerComes(rt *rapid.T) {
	if len(r.workers) > 3 {
		rt.Skip("enough workers")
	}
	r.register()
}

func (r *modelRound) register() {
	r.born++
	id := queue.Text(fmt.Sprintf("w%d-%d", r.number, r.born))
	r.check(r.Register(r.t.Context(), queue.Worker{ID: id, Host: "h", Routes: []string{}, StartedAt: r.now}, ""))
	r.workers[id] = 0
}

// workerGoes ends one, by itself or in a new life; one is always left.
func (r *modelRound) workerGoes(rt *rapid.T) {
	id := r.worker(rt)
	if rapid.Bool().Draw(rt, "comes back") {
		r.born++
		next := queue.Text(fmt.Sprintf("w%d-%d", r.number, r.born))
		r.check(r.Register(rt.Context(), queue.Worker{ID: next, Host: "h", Routes: []string{}, StartedAt: r.now}, id))
		r.workers[next] = 0
	} else {
		if len(r.workers) == 1 {
			rt.Skip("the last one")
		}
		r.check(r.Unregister(rt.Context(), id, r.now))
	}
	delete(r.workers, id)
	for _, j := range r.jobsIn(queue.StatusProcessing) {
		if j.WorkerID == id {
			r.end(j, queue.StatusPending)
		}
	}
	_, err := r.Heartbeat(rt.Context(), queue.Worker{ID: id, HeartbeatAt: r.now})
	r.wantErr("a beat of one that has gone", err, queue.ErrLeaseLost)
}

// rescue takes over from a worker that was seen dead; one that has beaten since
// is spared.
func (r *modelRound) rescue(rt *rapid.T) {
	id := r.worker(rt)
	if suspects := r.jobsIn(queue.StatusPending); rapid.Bool().Draw(rt, "while it runs a suspect") {
		suspects = slices.DeleteFunc(suspects, func(j *modelJob) bool { return j.CrashCount == 0 })
		if len(suspects) > 0 {
			j := rapid.SampledFrom(suspects).Draw(rt, "suspect")
			r.claims(queue.ClaimParams{Route: j.Route, Now: r.now, DueBy: r.now, Limit: 1, WorkerID: id, Suspects: true})
		}
	}
	seen := r.workers[id] - int64(rapid.IntRange(0, 2).Draw(rt, "beats since")%2)
	if len(r.workers) == 1 {
		r.register()
	}
	got, err := r.Rescue(rt.Context(), map[queue.Text]int64{id: seen}, r.now)
	r.check(err)
	var keys, expected []queue.JobKey
	for _, g := range got {
		keys = append(keys, g.JobKey)
	}
	if seen == r.workers[id] {
		delete(r.workers, id)
		for _, j := range r.crash(id) {
			expected = append(expected, j.JobKey)
		}
	}
	r.want("rescued", keys, expected)
}

// crash is a death: the suspects that ran are counted, else all that ran.
func (r *modelRound) crash(id queue.Text) []*modelJob {
	ran := slices.DeleteFunc(r.jobsIn(queue.StatusProcessing), func(j *modelJob) bool { return j.WorkerID != id })
	suspect := slices.ContainsFunc(ran, func(j *modelJob) bool { return j.CrashCount > 0 })
	for _, j := range ran {
		if j.CrashCount > 0 || !suspect {
			j.CrashCount++
		}
		to := queue.StatusPending
		if j.CrashCount == queue.MaxCrashes {
			to = queue.StatusDeadLetter
		}
		r.end(j, to)
	}
	return ran
}

// shown is an event as far as the model follows it.
type shown struct {
	ID                    int64
	Delivery              string
	Status                queue.Status
	Pending, Processing   int
	Failed, Dead          int
	Duplicates, Conflicts int
	Requeued              queue.Time
	Ended, RetryDue       bool
	Routes                []string
}

func (r *modelRound) compare() {
	ctx := r.t.Context()
	events, err := r.List(ctx, queue.Filter{}, 1000)
	r.check(err)
	got, expected := []shown{}, []shown{}
	for _, e := range slices.Backward(events) {
		got = append(got, shown{
			e.ID, e.DeliveryID, e.Status, e.NPending, e.NProcessing, e.NFailed, e.NDead, e.DuplicateCount, e.ConflictCount,
			e.RequeuedAt, e.ProcessedAt != 0, e.NextRetryAt != 0, e.Routes,
		})
	}
	for _, id := range slices.Sorted(maps.Keys(r.events)) {
		e := r.events[id]
		if e.purged {
			continue
		}
		n := e.counts()
		routes := slices.AppendSeq([]string{}, maps.Keys(e.jobs))
		slices.Sort(routes)
		expected = append(expected, shown{
			id, e.delivery, e.state(), n[queue.StatusPending], n[queue.StatusProcessing], n[queue.StatusFailed], n[queue.StatusDeadLetter],
			e.duplicates, e.conflicts, e.requeued, n[queue.StatusPending]+n[queue.StatusProcessing]+n[queue.StatusFailed] == 0,
			n[queue.StatusFailed] > 0, routes,
		})
	}
	r.want("events", got, expected)
	jobs, err := r.Select(ctx, queue.Filter{}, queue.Statuses(), queue.JobKey{}, 1000)
	r.check(err)
	var stored []queue.Job
	for _, j := range r.jobsIn(queue.Statuses()...) {
		stored = append(stored, j.Job)
	}
	r.want("jobs", followed(jobs), followed(stored))
}

// compareHistory looks at what takes a read for each event.
func (r *modelRound) compareHistory() {
	ctx := r.t.Context()
	for id, e := range r.events {
		attempts, err := r.Attempts(ctx, id)
		r.check(err)
		n := 0
		for _, j := range e.jobs {
			n += j.attempts
		}
		r.want("attempts", len(attempts), n)
		p, err := r.Payload(ctx, id)
		if e.purged {
			r.wantErr("a purged payload", err, queue.ErrNotFound)
		} else {
			r.check(err)
			r.want("body", string(p.Body), e.body)
		}
		stored, err := r.Event(ctx, id)
		r.check(err)
		r.want("state", []any{stored.Status, stored.PurgedAt != 0, stored.DuplicateCount}, []any{e.state(), e.purged, e.duplicates})
	}
	workers, err := r.Workers(ctx)
	r.check(err)
	beats := map[queue.Text]int64{}
	for _, w := range workers {
		beats[w.ID] = w.Beat
	}
	r.want("workers", beats, r.workers)
}
