// Package storetest is the suite that every queue.Store passes: what the domain
// relies on, told as tests.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"orchestrate/internal/queue"

	"github.com/google/go-cmp/cmp"
)

// Opener opens the database of a test; the same one again when it is called
// again in that test.
type Opener func(t *testing.T) queue.Store

// Run runs the suite.
func Run(t *testing.T, open Opener) {
	tests := []struct {
		name string
		fn   func(*testing.T, *fixture)
	}{
		{"keeps what was received", keepsBytes},
		{"counts a duplicate", countsDuplicate},
		{"counts a conflict", countsConflict},
		{"tells hooks with one delivery id apart", tellsHooksApart},
		{"a redelivery requeues the dead, once a minute", redeliveryRequeues},
		{"claims are never shared", claimsNotShared},
		{"claims the earliest due of one route, up to the limit", claimsInOrder},
		{"claims nothing before it is due", claimsWhenDue},
		{"follows a clock that was set", restamps},
		{"claims suspects apart", claimsSuspectsApart},
		{"a worker without a row claims nothing", deadWorkerClaimsNothing},
		{"settles a claim once", settlesOnce},
		{"a late result is stale", lateResultIsStale},
		{"tells of the job last settled", tellsOfLastSettled},
		{"holds what a heartbeat should know", heartbeatTellsHeld},
		{"a heartbeat without a row has lost the lease", heartbeatWithoutRow},
		{"rescues the jobs of a dead worker", rescuesDead},
		{"rescues nothing from a living worker", rescueSparesLiving},
		{"registers anew", registersAnew},
		{"a worker that goes holds nothing", unregisterGivesBack},
		{"a retry is told while one is due", tellsNextRetry},
		{"a clock that was ahead does not end a cleanup", cleansPastFuture},
		{"filters and pages", filtersAndPages},
		{"finds a delivery by prefix", findsDelivery},
		{"takes hostile texts for what they are", resistsHostileTexts},
		{"moves what is as it was selected", movesGuarded},
		{"cancels a running job", cancelsRunning},
		{"adds a job", addsJob},
		{"cleans by age, state and consent", cleans},
		{"a cleaned delivery is remembered", remembersPurged},
		{"counts jobs by route", stats},
		{"counts each job once, whatever moves meanwhile", statsAtOnce},
		{"is as it was after reopening", reopens},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.fn(t, &fixture{Store: open(t), open: open, now: queue.Now()})
		})
	}
}

type fixture struct {
	queue.Store
	open Opener
	now  queue.Time
}

// delivery makes an insertion with jobs for the routes.
func (f *fixture) delivery(id, body string, routes ...string) queue.Insertion {
	sum := sha256.Sum256([]byte(body))
	in := queue.Insertion{
		Event: &queue.Event{
			Source: "github", DeliveryID: id, EventType: "pull_request", Action: "opened", Repository: "acme/api",
			Sender: "octocat", Number: 7, HookID: 1, ReceivedAt: f.now, BodySize: int64(len(body)),
			BodySHA256: hex.EncodeToString(sum[:]),
		},
		Payload: &queue.Payload{Headers: map[string]string{"Content-Type": "application/json"}, Body: []byte(body)},
	}
	for _, r := range routes {
		in.Jobs = append(in.Jobs, queue.Job{
			Claim: queue.Claim{JobKey: queue.JobKey{Route: r}}, Status: queue.StatusPending, MaxRetries: 3, DueAt: f.now,
		})
	}
	return in
}

func (f *fixture) insert(t *testing.T, in queue.Insertion) queue.Receipt {
	t.Helper()
	r, err := f.Insert(t.Context(), in)
	check(t, err)
	return r
}

// add inserts an event with jobs for the routes and returns its id.
func (f *fixture) add(t *testing.T, delivery string, routes ...string) int64 {
	t.Helper()
	return f.insert(t, f.delivery(delivery, `{"n":"`+delivery+`"}`, routes...)).EventID
}

func (f *fixture) worker(t *testing.T, id queue.Text) queue.Text {
	t.Helper()
	check(t, f.Register(t.Context(), queue.Worker{ID: id, Host: "h", Routes: []string{"a"}, Slots: 5, StartedAt: f.now}, ""))
	return id
}

func (f *fixture) claim(t *testing.T, worker queue.Text, route string, limit int) []queue.Job {
	t.Helper()
	jobs, err := f.Claim(t.Context(), queue.ClaimParams{Route: route, Now: f.now, DueBy: f.now, Limit: limit, WorkerID: worker})
	check(t, err)
	return jobs
}

func (f *fixture) settle(t *testing.T, j queue.Job, s queue.Settlement) {
	t.Helper()
	if s.FinishedAt == 0 {
		s.FinishedAt = f.now
	}
	if s.DueAt == 0 {
		s.DueAt = j.DueAt
	}
	check(t, f.Settle(t.Context(), j.Claim, s))
}

// kill runs a job of the event into the dead letters.
func (f *fixture) kill(t *testing.T, worker queue.Text, route string) queue.Job {
	t.Helper()
	j := f.claim(t, worker, route, 1)[0]
	f.settle(t, j, queue.Settlement{Status: queue.StatusDeadLetter, Ending: queue.EndDeadLetter, ErrorMessage: "exit 1"})
	return j
}

func (f *fixture) event(t *testing.T, id int64) *queue.Event {
	t.Helper()
	e, err := f.Event(t.Context(), id)
	check(t, err)
	return e
}

func (f *fixture) job(t *testing.T, id int64, route string) queue.Job {
	t.Helper()
	jobs, err := f.Jobs(t.Context(), id)
	check(t, err)
	i := slices.IndexFunc(jobs, func(j queue.Job) bool { return j.Route == route })
	if i < 0 {
		t.Fatalf("event %d has no job for route %s", id, route)
	}
	return jobs[i]
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func keepsBytes(t *testing.T, f *fixture) {
	body := "{\"a\":\"\\u0000\\ud800\"}\x00\xff\xfe\r\n"
	in := f.delivery("d", body, "a", "b")
	r := f.insert(t, in)
	want(t, "receipt", r, queue.Receipt{EventID: r.EventID, DeliveryID: "d", Routes: []string{"a", "b"}})
	e, p, err := f.Load(t.Context(), r.EventID)
	check(t, err)
	if !bytes.Equal(p.Body, []byte(body)) {
		t.Errorf("body: got %q, want %q", p.Body, body)
	}
	want(t, "headers", p.Headers, in.Payload.Headers)
	expected := *in.Event
	expected.ID, expected.Status, expected.NPending, expected.MaxRetries = r.EventID, queue.StatusPending, 2, 3
	expected.CreatedAt, expected.UpdatedAt, expected.Routes = e.CreatedAt, e.UpdatedAt, []string{"a", "b"}
	want(t, "event", f.event(t, r.EventID), &expected)
	e.Routes = expected.Routes // not loaded for a handler
	want(t, "event for a handler", *e, expected)
	_, err = f.Event(t.Context(), r.EventID+1)
	wantErr(t, err, queue.ErrNotFound)
	_, err = f.Payload(t.Context(), r.EventID+1)
	wantErr(t, err, queue.ErrNotFound)
	empty := f.insert(t, f.delivery("empty", ""))
	want(t, "no route", f.event(t, empty.EventID).Status, queue.StatusCompleted)
	if f.event(t, empty.EventID).ProcessedAt == 0 {
		t.Error("an event without jobs has no processed_at")
	}
}

func countsDuplicate(t *testing.T, f *fixture) {
	in := f.delivery("d", "{}", "a")
	first := f.insert(t, in)
	for range 2 {
		want(t, "receipt", f.insert(t, in), queue.Receipt{EventID: first.EventID, DeliveryID: "d", Duplicate: true, Routes: []string{}})
	}
	e := f.event(t, first.EventID)
	want(t, "duplicate_count", e.DuplicateCount, 2)
	want(t, "last_duplicate_at", e.LastDuplicateAt, f.now)
	in.Event.Source = "other"
	if r := f.insert(t, in); r.Duplicate || r.EventID == first.EventID {
		t.Errorf("the same id from another source: got %+v, want a new event", r)
	}
}

func countsConflict(t *testing.T, f *fixture) {
	first := f.insert(t, f.delivery("d", "{}", "a"))
	want(t, "receipt", f.insert(t, f.delivery("d", "[]", "a")), queue.Receipt{EventID: first.EventID, DeliveryID: "d", Conflict: true, Routes: []string{}})
	e, p, err := f.Load(t.Context(), first.EventID)
	check(t, err)
	want(t, "body", string(p.Body), "{}")
	want(t, "counts", []int{e.ConflictCount, e.DuplicateCount}, []int{1, 0})
	hookless := f.delivery("d", "[]", "a")
	hookless.Event.HookID = 0
	want(t, "a body without a hook id conflicts", f.insert(t, hookless).Conflict, true)
}

func tellsHooksApart(t *testing.T, f *fixture) {
	f.insert(t, f.delivery("d", "{}", "a"))
	in := f.delivery("d", "[]", "a")
	in.Event.HookID = 99
	second := f.insert(t, in)
	want(t, "delivery id", second.DeliveryID, "d#99")
	want(t, "new", second.Duplicate, false)
	again := f.insert(t, in)
	want(t, "again", again, queue.Receipt{EventID: second.EventID, DeliveryID: "d#99", Duplicate: true, Routes: []string{}})
	in = f.delivery("d", "[1]", "a")
	in.Event.HookID = 99
	want(t, "conflict", f.insert(t, in).Conflict, true)
}

func redeliveryRequeues(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	in := f.delivery("d", "{}", "a", "b")
	in.RequeueDead = true
	id := f.insert(t, in).EventID
	f.kill(t, w, "a")
	f.settle(t, f.claim(t, w, "b", 1)[0], queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted})
	want(t, "requeued", f.insert(t, in).Routes, []string{"a"})
	want(t, "completed stays", f.job(t, id, "b").Status, queue.StatusCompleted)
	f.now = queue.Now()
	f.kill(t, w, "a")
	r := f.insert(t, in)
	want(t, "limited", r.Limited, true)
	want(t, "nothing requeued", r.Routes, []string{})
	want(t, "status", f.event(t, id).Status, queue.StatusDeadLetter)
	in.RequeueDead = false
	want(t, "not wanted", f.insert(t, in).Limited, false)
}

func claimsNotShared(t *testing.T, f *fixture) {
	const events, claimers = 200, 8
	for i := range events {
		f.add(t, fmt.Sprint("d", i), "a")
	}
	f.now = queue.Now()
	var mu sync.Mutex
	got := map[queue.JobKey]int{}
	var wg sync.WaitGroup
	for i := range claimers {
		w := f.worker(t, queue.Text(fmt.Sprint("w", i)))
		wg.Go(func() {
			for {
				jobs, err := f.Claim(t.Context(), queue.ClaimParams{Route: "a", Now: f.now, DueBy: f.now, Limit: 7, WorkerID: w})
				if err != nil {
					t.Error(err)
					return
				}
				if len(jobs) > 7 {
					t.Errorf("claimed %d, want at most 7", len(jobs))
				}
				mu.Lock()
				for _, j := range jobs {
					got[j.JobKey]++
				}
				mu.Unlock()
				if len(jobs) == 0 {
					return
				}
			}
		})
	}
	wg.Wait()
	want(t, "jobs claimed", len(got), events)
	for k, n := range got {
		if n != 1 {
			t.Errorf("%v was claimed %d times", k, n)
		}
	}
}

func claimsInOrder(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	late := f.delivery("late", "{}", "a")
	late.Jobs[0].DueAt = f.now - 10
	soon := f.delivery("soon", "{}", "a", "b")
	soon.Jobs[0].DueAt = f.now - 20
	lateID, soonID := f.insert(t, late).EventID, f.insert(t, soon).EventID
	due, err := f.Due(t.Context(), []string{"a", "b", "none"})
	check(t, err)
	slices.SortFunc(due, func(x, y queue.Due) int { return bytes.Compare([]byte(x.Route), []byte(y.Route)) })
	want(t, "due", due, []queue.Due{{Route: "a", Due: f.now - 20}, {Route: "b", Due: f.now}})
	jobs := f.claim(t, w, "a", 1)
	want(t, "first", jobs[0].JobKey, queue.JobKey{EventID: soonID, Route: "a"})
	want(t, "claim", jobs[0].Claim, queue.Claim{JobKey: jobs[0].JobKey, Seq: 1, WorkerID: w})
	want(t, "second", f.claim(t, w, "a", 5)[0].EventID, lateID)
	want(t, "no more", len(f.claim(t, w, "a", 5)), 0)
	e := f.event(t, soonID)
	want(t, "counters", []int{e.NPending, e.NProcessing}, []int{1, 1})
	want(t, "status", e.Status, queue.StatusProcessing)
}

func claimsWhenDue(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	f.add(t, "d", "a")
	j := f.claim(t, w, "a", 1)[0]
	dueAt := f.now.Add(2 * time.Second)
	f.settle(t, j, queue.Settlement{Status: queue.StatusFailed, Ending: queue.EndFailed, RetryCount: 1, DueAt: dueAt, ErrorMessage: "no"})
	f.now = dueAt - 1
	want(t, "before", len(f.claim(t, w, "a", 1)), 0)
	f.now = dueAt
	jobs := f.claim(t, w, "a", 1)
	want(t, "at the time", len(jobs), 1)
	want(t, "retry", []int{jobs[0].RetryCount, int(jobs[0].Seq)}, []int{1, 2})
	e := f.event(t, j.EventID)
	want(t, "counters", []int{e.NFailed, e.NProcessing}, []int{0, 1})
}

// restamps what a clock has stamped that was an hour ahead, or behind.
func restamps(t *testing.T, f *fixture) {
	right := f.now
	f.now = right.Add(time.Hour)
	w := f.worker(t, "w")
	pending, failed := f.add(t, "d1", "a"), f.add(t, "d2", "b")
	j := f.claim(t, w, "b", 1)[0]
	f.settle(t, j, queue.Settlement{
		Status: queue.StatusFailed, Ending: queue.EndUnavailable, DueAt: f.now.Add(time.Minute), UnavailableSince: f.now.Add(-20 * time.Minute),
	})
	j = f.claim(t, w, "a", 1)[0] // given back, in an outage
	f.settle(t, j, queue.Settlement{Status: queue.StatusPending, Ending: queue.EndStopped, DueAt: j.DueAt, UnavailableSince: f.now.Add(-20 * time.Minute)})
	move := func(p queue.Restamp) (all []int) {
		t.Helper()
		for _, p.Route = range []string{"a", "b"} {
			p.Limit = 10
			n, err := f.Restamp(t.Context(), p)
			check(t, err)
			all = append(all, n)
		}
		return all
	}
	dues := func() []queue.Time {
		return []queue.Time{f.job(t, pending, "a").DueAt, f.job(t, failed, "b").DueAt, f.event(t, failed).NextRetryAt}
	}

	outages := func() []queue.Time {
		return []queue.Time{f.job(t, pending, "a").UnavailableSince, f.job(t, failed, "b").UnavailableSince}
	}

	want(t, "by the same clock", move(queue.Restamp{Now: f.now, After: f.now.Add(time.Second)}), []int{0, 0})
	ahead := queue.Restamp{Now: right, After: right.Add(time.Second)}
	want(t, "stamped ahead", move(ahead), []int{1, 1})
	want(t, "due, after the whole wait", dues(), []queue.Time{right, right.Add(time.Minute), right.Add(time.Minute)})
	want(t, "the outages are no longer", outages(), []queue.Time{right.Add(-20 * time.Minute), right.Add(-20 * time.Minute)})
	want(t, "again", move(ahead), []int{0, 0})

	later := queue.Restamp{Now: right.Add(2 * time.Hour), After: right, Before: right.Add(time.Hour), By: 2 * time.Hour}
	want(t, "later, which pending is not", move(later), []int{0, 1})
	want(t, "due by the new clock", dues(), []queue.Time{right, right.Add(121 * time.Minute), right.Add(121 * time.Minute)})
	want(t, "the outage is as long", outages()[1], right.Add(100*time.Minute))
	want(t, "again", move(later), []int{0, 0})
	late := queue.Restamp{Now: right.Add(210 * time.Minute), After: right.Add(90 * time.Minute), Before: right.Add(210 * time.Minute), By: 2 * time.Hour}
	want(t, "again, by one who noticed late", move(late), []int{0, 0})
	e := f.event(t, failed)
	want(t, "counters", []int{e.NPending, e.NProcessing, e.NFailed, e.NDead}, []int{0, 0, 1, 0})
}

func claimsSuspectsApart(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	suspect, clean := f.add(t, "d1", "a"), f.add(t, "d2", "a")
	f.now = queue.Now()
	j := f.claim(t, w, "a", 1)[0]
	f.settle(t, j, queue.Settlement{Status: queue.StatusPending, Ending: queue.EndCrashed, CrashCount: 1})
	due, err := f.Due(t.Context(), []string{"a"})
	check(t, err)
	if len(due) != 1 || due[0].Due == 0 || due[0].Suspect == 0 {
		t.Errorf("due: got %+v, want a job and a suspect", due)
	}
	jobs := f.claim(t, w, "a", 5)
	want(t, "without suspects", []int64{jobs[0].EventID, int64(len(jobs))}, []int64{clean, 1})
	jobs, err = f.Claim(t.Context(), queue.ClaimParams{Route: "a", Now: f.now, DueBy: f.now, Limit: 5, WorkerID: w, Suspects: true})
	check(t, err)
	want(t, "suspects", []int64{jobs[0].EventID, int64(len(jobs)), int64(jobs[0].CrashCount)}, []int64{suspect, 1, 1})
}

func deadWorkerClaimsNothing(t *testing.T, f *fixture) {
	f.add(t, "d", "a")
	want(t, "never registered", len(f.claim(t, "ghost", "a", 1)), 0)
	w := f.worker(t, "w")
	check(t, f.Unregister(t.Context(), w, f.now))
	want(t, "unregistered", len(f.claim(t, w, "a", 1)), 0)
}

func settlesOnce(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	id := f.add(t, "d", "a")
	j := f.claim(t, w, "a", 1)[0]
	exit := 0
	s := queue.Settlement{
		Status: queue.StatusCompleted, Ending: queue.EndCompleted, FinishedAt: f.now + 5, DueAt: j.DueAt,
		Result: queue.Result{ExitCode: &exit, HTTPStatus: 204, Output: []byte("out\x00\xff")}, Version: "v1", ConfigHash: "c1",
	}
	f.settle(t, j, s)
	wantErr(t, f.Settle(t.Context(), j.Claim, s), queue.ErrStale)
	attempts, err := f.Attempts(t.Context(), id)
	check(t, err)
	want(t, "attempts", attempts, []queue.Attempt{{
		Claim: j.Claim, Ending: queue.EndCompleted, StartedAt: f.now, FinishedAt: f.now + 5, ExitCode: &exit, HTTPStatus: 204,
		Output: "out\x00\xff", Version: "v1", ConfigHash: "c1",
	}})
	e := f.event(t, id)
	want(t, "status", e.Status, queue.StatusCompleted)
	want(t, "processed_at", e.ProcessedAt, f.now+5)
	want(t, "not claimable", len(f.claim(t, w, "a", 1)), 0)
}

func lateResultIsStale(t *testing.T, f *fixture) {
	old, w := f.worker(t, "old"), f.worker(t, "w")
	id := f.add(t, "d", "a")
	late := f.claim(t, old, "a", 1)[0]
	_, err := f.Rescue(t.Context(), map[queue.Text]int64{old: 0}, f.now)
	check(t, err)
	// It is a suspect now.
	jobs, err := f.Claim(t.Context(), queue.ClaimParams{Route: "a", Now: f.now, DueBy: f.now, Limit: 1, WorkerID: w, Suspects: true})
	check(t, err)
	done := queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, FinishedAt: f.now, DueAt: f.now}
	wantErr(t, f.Settle(t.Context(), late.Claim, done), queue.ErrStale)
	forged := jobs[0].Claim
	forged.WorkerID = old
	wantErr(t, f.Settle(t.Context(), forged, done), queue.ErrStale)
	want(t, "untouched", f.event(t, id).Status, queue.StatusProcessing)
	f.settle(t, jobs[0], done)
	want(t, "settled", f.event(t, id).Status, queue.StatusCompleted)
}

func tellsOfLastSettled(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	id := f.add(t, "d", "a", "b")
	retryAt := f.now.Add(time.Second)
	f.settle(t, f.claim(t, w, "a", 1)[0], queue.Settlement{
		Status: queue.StatusFailed, Ending: queue.EndFailed, RetryCount: 1, DueAt: retryAt, ErrorMessage: "exit 1",
	})
	f.settle(t, f.claim(t, w, "b", 1)[0], queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted})
	e := f.event(t, id)
	want(t, "failure is still told", []any{e.Status, e.ErrorMessage, e.RetryCount, e.NextRetryAt},
		[]any{queue.StatusFailed, queue.Text("a: exit 1"), 1, retryAt})
	want(t, "not processed", e.ProcessedAt, 0)
	f.now = retryAt
	f.settle(t, f.claim(t, w, "a", 1)[0], queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, RetryCount: 1})
	e = f.event(t, id)
	want(t, "told after success", []any{e.Status, e.ErrorMessage, e.NextRetryAt}, []any{queue.StatusCompleted, queue.Text(""), queue.Time(0)})
}

func heartbeatTellsHeld(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	f.add(t, "d", "a", "b")
	j := f.claim(t, w, "a", 1)[0]
	now := queue.Worker{
		ID: w, Routes: []string{"b", "c"}, Slots: 7, HeartbeatAt: f.now + 5, ConfigHash: "abc",
		Reloads: queue.Reloads{ReloadCount: 2, ReloadsFailed: 1, ReloadError: "no such word"},
	}
	held, err := f.Heartbeat(t.Context(), now)
	check(t, err)
	want(t, "held", len(held), 1)
	want(t, "claim", held[0].Claim, j.Claim)
	workers, err := f.Workers(t.Context())
	check(t, err)
	now.Host, now.StartedAt, now.Beat = "h", f.now, 1
	want(t, "workers", workers, []queue.Worker{now})
}

func heartbeatWithoutRow(t *testing.T, f *fixture) {
	_, err := f.Heartbeat(t.Context(), queue.Worker{ID: "ghost", HeartbeatAt: f.now})
	wantErr(t, err, queue.ErrLeaseLost)
}

func rescuesDead(t *testing.T, f *fixture) {
	dead := f.worker(t, "dead")
	first, second := f.add(t, "d1", "a"), f.add(t, "d2", "a")
	f.now = queue.Now()
	want(t, "claimed", len(f.claim(t, dead, "a", 2)), 2)
	rescued, err := f.Rescue(t.Context(), map[queue.Text]int64{dead: 0}, f.now)
	check(t, err)
	want(t, "rescued", len(rescued), 2)
	for _, id := range []int64{first, second} {
		j := f.job(t, id, "a")
		want(t, "job", []any{j.Status, j.CrashCount, j.RetryCount}, []any{queue.StatusPending, 1, 0})
		attempts, err := f.Attempts(t.Context(), id)
		check(t, err)
		want(t, "attempt", []any{len(attempts), attempts[0].Ending, attempts[0].WorkerID}, []any{1, queue.EndCrashed, dead})
	}
	workers, err := f.Workers(t.Context())
	check(t, err)
	want(t, "workers left", len(workers), 0)
}

func rescueSparesLiving(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	id := f.add(t, "d", "a")
	f.claim(t, w, "a", 1)
	_, err := f.Heartbeat(t.Context(), queue.Worker{ID: w, HeartbeatAt: f.now})
	check(t, err)
	rescued, err := f.Rescue(t.Context(), map[queue.Text]int64{w: 0}, f.now)
	check(t, err)
	want(t, "a beat came in between", len(rescued), 0)
	want(t, "status", f.event(t, id).Status, queue.StatusProcessing)
}

func registersAnew(t *testing.T, f *fixture) {
	f.worker(t, "w1")
	id := f.add(t, "d", "a")
	f.claim(t, "w1", "a", 1)
	check(t, f.Register(t.Context(), queue.Worker{ID: "w2", StartedAt: f.now}, "w1"))
	j := f.job(t, id, "a")
	want(t, "given back uncounted", []any{j.Status, j.CrashCount}, []any{queue.StatusPending, 0})
	workers, err := f.Workers(t.Context())
	check(t, err)
	want(t, "workers", []any{len(workers), workers[0].ID}, []any{1, queue.Text("w2")})
}

func unregisterGivesBack(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	id := f.add(t, "d", "a")
	f.claim(t, w, "a", 1)
	check(t, f.Unregister(t.Context(), w, f.now))
	j := f.job(t, id, "a")
	want(t, "job", []any{j.Status, j.CrashCount}, []any{queue.StatusPending, 0})
	attempts, err := f.Attempts(t.Context(), id)
	check(t, err)
	want(t, "attempt", []any{len(attempts), attempts[0].Ending}, []any{1, queue.EndLost})
}

func tellsNextRetry(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	id := f.add(t, "d", "a", "b")
	retryAt := f.now.Add(time.Second)
	f.settle(t, f.claim(t, w, "b", 1)[0], queue.Settlement{
		Status: queue.StatusFailed, Ending: queue.EndFailed, RetryCount: 1, DueAt: retryAt, ErrorMessage: "exit 1",
	})
	f.kill(t, w, "a")
	want(t, "while one is due", f.event(t, id).NextRetryAt, retryAt)
	f.now = retryAt
	f.settle(t, f.claim(t, w, "b", 1)[0], queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, RetryCount: 1})
	e := f.event(t, id)
	want(t, "afterwards", []any{e.Status, e.NextRetryAt}, []any{queue.StatusDeadLetter, queue.Time(0)})
}

func cleansPastFuture(t *testing.T, f *fixture) {
	for i := range 1100 {
		in := f.delivery(fmt.Sprint("d", i), "{}")
		in.Event.ReceivedAt = f.now.Add(365 * 24 * time.Hour)
		if i >= 1000 {
			in.Event.ReceivedAt = f.now.Add(-365 * 24 * time.Hour)
		}
		f.insert(t, in)
	}
	p := queue.CleanParams{Before: f.now.Add(-time.Hour), Forget: f.now.Add(-queue.Remember), Limit: 200}
	deleted := 0
	for done := false; !done; {
		c, err := f.Clean(t.Context(), p)
		check(t, err)
		deleted, p.After, done = deleted+c.Deleted, c.Last, c.Done
	}
	want(t, "deleted", deleted, 100)
}

func filtersAndPages(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	var ids []int64
	for i := range 6 {
		in := f.delivery(fmt.Sprintf("guid-%d", i), "{}", "a")
		in.Event.ReceivedAt = f.now.Add(time.Duration(i) * time.Second)
		in.Jobs[0].DueAt = in.Event.ReceivedAt
		if i%2 == 1 {
			in.Event.EventType, in.Event.Action, in.Event.Repository, in.Event.Sender, in.Event.Source = "push", "", "acme/web", "hubot", "acme"
			in.Jobs[0].Route = "b"
		}
		ids = append(ids, f.insert(t, in).EventID)
	}
	f.now = f.now.Add(time.Minute)
	f.kill(t, w, "a")             // event 0
	f.claim(t, w, "b", 1)         // event 1
	j := f.claim(t, w, "a", 1)[0] // event 2
	f.settle(t, j, queue.Settlement{Status: queue.StatusFailed, Ending: queue.EndFailed, RetryCount: 1, DueAt: f.now.Add(time.Hour)})
	f.settle(t, f.claim(t, w, "b", 1)[0], queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted}) // 3
	base := f.event(t, ids[0]).ReceivedAt
	tests := []struct {
		name   string
		filter queue.Filter
		want   []int
	}{
		{"all", queue.Filter{}, []int{5, 4, 3, 2, 1, 0}},
		{"ids", queue.Filter{IDs: []int64{ids[1], ids[4], 99999}}, []int{4, 1}},
		{"no ids", queue.Filter{IDs: []int64{}}, nil},
		{"dead", queue.Filter{Status: queue.StatusDeadLetter}, []int{0}},
		{"processing", queue.Filter{Status: queue.StatusProcessing}, []int{1}},
		{"failed", queue.Filter{Status: queue.StatusFailed}, []int{2}},
		{"completed", queue.Filter{Status: queue.StatusCompleted}, []int{3}},
		{"pending", queue.Filter{Status: queue.StatusPending}, []int{5, 4}},
		{"event", queue.Filter{EventType: "push"}, []int{5, 3, 1}},
		{"action", queue.Filter{Action: "opened"}, []int{4, 2, 0}},
		{"repository", queue.Filter{Repository: "ACME/web"}, []int{5, 3, 1}},
		{"sender", queue.Filter{Sender: "Hubot"}, []int{5, 3, 1}},
		{"route", queue.Filter{Route: "b"}, []int{5, 3, 1}},
		{"delivery", queue.Filter{Delivery: "guid-3"}, []int{3}},
		{"delivery prefix", queue.Filter{Delivery: "guid-"}, []int{5, 4, 3, 2, 1, 0}},
		{"source", queue.Filter{Source: "acme"}, []int{5, 3, 1}},
		{"since", queue.Filter{Since: base + 4000}, []int{5, 4}},
		{"until", queue.Filter{Until: base + 1000}, []int{0}},
		{"page", queue.Filter{Before: ids[2]}, []int{1, 0}},
		{"anded", queue.Filter{EventType: "push", Status: queue.StatusPending}, []int{5}},
		{"none", queue.Filter{Repository: "x/y"}, nil},
	}
	for _, test := range tests {
		events, err := f.List(t.Context(), test.filter, 10)
		check(t, err)
		var got []int
		for _, e := range events {
			got = append(got, slices.Index(ids, e.ID))
		}
		want(t, test.name, got, test.want)
	}
	_, err := f.List(t.Context(), queue.Filter{Status: "x' OR 1=1 --"}, 10)
	wantErr(t, err, queue.ErrInvalid)
	events, err := f.List(t.Context(), queue.Filter{Status: queue.StatusDeadLetter}, 10)
	check(t, err)
	want(t, "routes of a page", events[0].Routes, []string{"a"})
}

func findsDelivery(t *testing.T, f *fixture) {
	one, two, three := f.add(t, "abc-1"), f.add(t, "abc-12"), f.add(t, "xyz")
	for _, test := range []struct {
		prefix string
		want   []int64
	}{{"abc-1", []int64{one}}, {"abc-12", []int64{two}}, {"abc", []int64{one, two}}, {"x", []int64{three}}, {"q", nil}} {
		got, err := f.FindDelivery(t.Context(), test.prefix)
		check(t, err)
		want(t, test.prefix, got, test.want)
	}
}

func movesGuarded(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	for i := range 3 {
		f.add(t, fmt.Sprint("d", i), "a")
	}
	f.now = queue.Now()
	for range 3 {
		f.kill(t, w, "a")
	}
	dead := []queue.Status{queue.StatusDeadLetter}
	jobs, err := f.Select(t.Context(), queue.Filter{Repository: "acme/api"}, dead, queue.JobKey{}, 2)
	check(t, err)
	want(t, "a chunk", len(jobs), 2)
	rest, err := f.Select(t.Context(), queue.Filter{Route: "a"}, dead, jobs[1].JobKey, 10)
	check(t, err)
	want(t, "the rest", len(rest), 1)
	none, err := f.Select(t.Context(), queue.Filter{Repository: "x/y"}, dead, queue.JobKey{}, 10)
	check(t, err)
	want(t, "filtered", len(none), 0)
	m := queue.Move{To: queue.StatusPending, Now: f.now + 1}
	for _, expected := range []int{2, 0} { // harmless when repeated
		n, err := f.Move(t.Context(), jobs, m)
		check(t, err)
		want(t, "moved", n, expected)
	}
	f.now++
	j := f.kill(t, w, "a") // what dies again is another claim
	n, err := f.Move(t.Context(), jobs, m)
	check(t, err)
	want(t, "died again", n, 0)
	e := f.event(t, jobs[1].EventID)
	want(t, "event", []any{e.Status, e.RetryCount, e.RequeuedAt, e.ProcessedAt}, []any{queue.StatusPending, 0, f.now, queue.Time(0)})
	want(t, "claim_seq only grows", j.Seq, int64(2))
}

func cancelsRunning(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	id := f.add(t, "d", "a", "b")
	j := f.claim(t, w, "a", 1)[0]
	open, err := f.Select(t.Context(), queue.Filter{IDs: []int64{id}}, queue.Open(), queue.JobKey{}, 10)
	check(t, err)
	want(t, "open", len(open), 2)
	n, err := f.Move(t.Context(), open, queue.Move{To: queue.StatusDeadLetter, Reason: "cancelled by ops", Now: f.now})
	check(t, err)
	want(t, "moved", n, 2)
	wantErr(t, f.Settle(t.Context(), j.Claim, queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, FinishedAt: f.now, DueAt: 1}), queue.ErrStale)
	held, err := f.Heartbeat(t.Context(), queue.Worker{ID: w, HeartbeatAt: f.now})
	check(t, err)
	want(t, "held", len(held), 0)
	attempts, err := f.Attempts(t.Context(), id)
	check(t, err)
	want(t, "attempt", []any{len(attempts), attempts[0].Ending}, []any{1, queue.EndCancelled})
	e := f.event(t, id)
	want(t, "event", []any{e.Status, e.NDead}, []any{queue.StatusDeadLetter, 2})
}

func addsJob(t *testing.T, f *fixture) {
	id := f.add(t, "d", "a")
	j := queue.Job{Claim: queue.Claim{JobKey: queue.JobKey{EventID: id, Route: "b"}}, Status: queue.StatusPending, MaxRetries: 1, DueAt: f.now}
	check(t, f.AddJob(t.Context(), j, f.now))
	wantErr(t, f.AddJob(t.Context(), j, f.now), queue.ErrRefused)
	want(t, "routes", f.event(t, id).Routes, []string{"a", "b"})
	want(t, "pending", f.event(t, id).NPending, 2)
	j.EventID = id + 1
	wantErr(t, f.AddJob(t.Context(), j, f.now), queue.ErrNotFound)
}

func cleans(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	start := f.now
	insert := func(name string, age time.Duration, route string) int64 {
		in := f.delivery(name, "{}", route)
		in.Event.ReceivedAt = start.Add(-age)
		in.Jobs[0].DueAt = in.Event.ReceivedAt
		return f.insert(t, in).EventID
	}
	day := 24 * time.Hour
	old, oldDead := insert("old", 40*day, "ok"), insert("dead", 40*day, "bad")
	open, young, fresh := insert("open", 40*day, "open"), insert("young", 2*day, "ok"), insert("fresh", 0, "ok")
	for range 3 {
		f.settle(t, f.claim(t, w, "ok", 1)[0], queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted})
	}
	f.kill(t, w, "bad")
	p := queue.CleanParams{Before: start.Add(-day), Forget: start.Add(-queue.Remember), Limit: 100, DryRun: true}
	c, err := f.Clean(t.Context(), p)
	check(t, err)
	expected := queue.Cleaned{Deleted: 1, Purged: 1, KeptDead: 1, KeptOpen: 1, Last: fresh, Done: true}
	want(t, "dry run", c, expected)
	p.DryRun = false
	c, err = f.Clean(t.Context(), p)
	check(t, err)
	want(t, "cleaned", c, expected)
	_, err = f.Event(t.Context(), old)
	wantErr(t, err, queue.ErrNotFound)
	want(t, "purged keeps its status", []any{f.event(t, young).Status, f.event(t, young).PurgedAt != 0}, []any{queue.StatusCompleted, true})
	_, err = f.Payload(t.Context(), young)
	wantErr(t, err, queue.ErrNotFound)
	events, err := f.List(t.Context(), queue.Filter{}, 10)
	check(t, err)
	want(t, "left", len(events), 3)
	c, err = f.Clean(t.Context(), p)
	check(t, err)
	want(t, "harmless when repeated", c, queue.Cleaned{KeptDead: 1, KeptOpen: 1, Last: fresh, Done: true})
	p.IncludeDead = true
	c, err = f.Clean(t.Context(), p)
	check(t, err)
	want(t, "dead ones, when named", c.Deleted, 1)
	_, err = f.Event(t.Context(), oldDead)
	wantErr(t, err, queue.ErrNotFound)
	want(t, "open stays", f.event(t, open).Status, queue.StatusPending)
	p.Forget = start.Add(-day)
	c, err = f.Clean(t.Context(), p)
	check(t, err)
	want(t, "forgotten later", c.Forgot, 1)
}

func remembersPurged(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	in := f.delivery("d", "{}", "a")
	in.RequeueDead = true
	id := f.insert(t, in).EventID
	f.kill(t, w, "a")
	p := queue.CleanParams{Before: f.now.Add(time.Hour), Forget: f.now.Add(-queue.Remember), Limit: 100, IncludeDead: true}
	c, err := f.Clean(t.Context(), p)
	check(t, err)
	want(t, "purged", c.Purged, 1)
	want(t, "a redelivery is a duplicate", f.insert(t, in), queue.Receipt{EventID: id, DeliveryID: "d", Duplicate: true, Routes: []string{}})
	j := queue.Job{Claim: queue.Claim{JobKey: queue.JobKey{EventID: id, Route: "z"}}, Status: queue.StatusPending, DueAt: f.now}
	wantErr(t, f.AddJob(t.Context(), j, f.now), queue.ErrRefused)
}

func stats(t *testing.T, f *fixture) {
	w := f.worker(t, "w")
	for i := range 4 {
		f.add(t, fmt.Sprint("d", i), "a", "b")
	}
	f.now = queue.Now()
	f.kill(t, w, "a")
	f.settle(t, f.claim(t, w, "a", 1)[0], queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted})
	f.settle(t, f.claim(t, w, "a", 1)[0], queue.Settlement{Status: queue.StatusFailed, Ending: queue.EndFailed, RetryCount: 1, DueAt: 5})
	f.claim(t, w, "b", 1)
	st, err := f.Stats(t.Context())
	check(t, err)
	for i := range st.Routes {
		if st.Routes[i].Route == "b" {
			st.Routes[i].OldestDue = 0
		}
	}
	want(t, "routes", st.Routes, []queue.RouteStats{
		{Route: "a", Pending: 1, Failed: 1, DeadLetter: 1, Completed: 1, OldestDue: 5},
		{Route: "b", Pending: 3, Processing: 1},
	})
	want(t, "events and workers", []int64{st.Events, int64(len(st.Workers))}, []int64{4, 1})
	if st.Bytes == 0 {
		t.Error("the database takes no space")
	}
}

func statsAtOnce(t *testing.T, f *fixture) {
	f.add(t, "d", "a")
	w := f.worker(t, "w")
	stop, moved := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				moved <- nil
				return
			default:
			}
			jobs, err := f.Claim(t.Context(), queue.ClaimParams{Route: "a", Now: f.now, DueBy: f.now, Limit: 1, WorkerID: w})
			if err == nil && len(jobs) == 1 {
				err = f.Settle(t.Context(), jobs[0].Claim, queue.GiveBack(jobs[0], "moved", f.now))
			}
			if err != nil {
				moved <- err
				return
			}
		}
	}()
	for range 300 {
		st, err := f.Stats(t.Context())
		check(t, err)
		if len(st.Routes) != 1 || st.Routes[0].Pending+st.Routes[0].Processing != 1 {
			t.Errorf("there is one job; the routes are %+v", st.Routes)
			break
		}
	}
	close(stop)
	check(t, <-moved)
}

func reopens(t *testing.T, f *fixture) {
	id := f.add(t, "d", "a")
	before := f.event(t, id)
	check(t, f.Close())
	f.Store = f.open(t)
	want(t, "event", f.event(t, id), before)
	want(t, "duplicate", f.insert(t, f.delivery("d", `{"n":"d"}`, "a")).Duplicate, true)
	if next := f.add(t, "d2"); next <= id {
		t.Errorf("id %d was reused", next)
	}
}

// Counters checks that the counters of an event are the sum of its jobs.
func Counters(ctx context.Context, s queue.Store, id int64) error {
	e, err := s.Event(ctx, id)
	if err != nil {
		return err
	}
	jobs, err := s.Jobs(ctx, id)
	if err != nil {
		return err
	}
	n := map[queue.Status]int{}
	for _, j := range jobs {
		n[j.Status]++
	}
	got := [...]int{e.NPending, e.NProcessing, e.NFailed, e.NDead}
	sum := [...]int{n[queue.StatusPending], n[queue.StatusProcessing], n[queue.StatusFailed], n[queue.StatusDeadLetter]}
	if got != sum {
		return fmt.Errorf("event %d: counters %v, jobs %v", e.ID, got, sum)
	}
	return nil
}
