package queue_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"orchestrate/internal/queue"
)

// faulty is a store in which single calls can be made to go wrong.
type faulty struct {
	queue.Store
	nothing func(queue.ClaimParams) bool                  // a claim that finds nothing
	answer  func([]queue.Job, error) ([]queue.Job, error) // of a claim that was made
	stall   atomic.Pointer[chan struct{}]                 // heartbeats and settles wait for it
	beats   time.Duration                                 // how long a heartbeat takes
	load    func() error
	away    atomic.Int32 // registrations that find no store
}

func (f *faulty) Register(ctx context.Context, w queue.Worker, earlier queue.Text) error {
	if f.away.Add(-1) >= 0 {
		return queue.ErrUnavailable
	}
	return f.Store.Register(ctx, w, earlier)
}

func (f *faulty) Claim(ctx context.Context, p queue.ClaimParams) ([]queue.Job, error) {
	if f.nothing != nil && f.nothing(p) {
		return nil, nil
	}
	jobs, err := f.Store.Claim(ctx, p)
	if f.answer != nil {
		return f.answer(jobs, err)
	}
	return jobs, err
}

func (f *faulty) wait() {
	if stall := f.stall.Load(); stall != nil {
		<-*stall
	}
}

func (f *faulty) Heartbeat(ctx context.Context, w queue.Worker) ([]queue.Job, error) {
	f.wait()
	<-time.After(f.beats)
	return f.Store.Heartbeat(ctx, w)
}

func (f *faulty) Settle(ctx context.Context, c queue.Claim, s queue.Settlement) error {
	f.wait()
	return f.Store.Settle(ctx, c, s)
}

func (f *faulty) Load(ctx context.Context, id int64) (*queue.Event, *queue.Payload, error) {
	if f.load != nil {
		if err := f.load(); err != nil {
			return nil, nil, err
		}
	}
	return f.Store.Load(ctx, id)
}

// TestRequeuedWhileItsHandlerIsBeingStopped: a job that is cancelled and
// requeued between two heartbeats does not run beside itself.
func TestRequeuedWhileItsHandlerIsBeingStopped(t *testing.T) {
	var now, most atomic.Int32
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d")
		b.work(queue.WorkerOptions{})
		pass(5*time.Second + 100*time.Millisecond) // just after a heartbeat
		if _, err := b.Cancel(t.Context(), queue.Filter{IDs: []int64{id}}, "cancelled by ops", queue.BulkOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Retry(t.Context(), id, queue.RetryOptions{}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if most.Load() != 1 {
			t.Errorf("%d handlers of the job ran at once, want 1", most.Load())
		}
		b.wantStatus(id, queue.StatusCompleted)
		if got, want := b.endings(id), "[cancelled completed]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}, route("r", func(ctx context.Context, task *queue.Task) (queue.Result, error) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		length := 30 * time.Second
		if task.Attempt == 1 {
			length = time.Hour
		}
		select {
		case <-ctx.Done():
			<-time.After(time.Second) // it takes its time to end
			return queue.Result{}, context.Cause(ctx)
		case <-time.After(length):
			return queue.Result{}, nil
		}
	}))
}

// TestStopDuringAClaim: a claim whose commit happens while the worker is told
// to stop leaves nothing behind, and condemns nobody.
func TestStopDuringAClaim(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d")
		f := &faulty{Store: b.store}
		f.answer = func(jobs []queue.Job, err error) ([]queue.Job, error) {
			<-time.After(2 * time.Second) // committed, but slow to answer
			return jobs, err
		}
		stop := start(t, newQueue(t, f, route("r", succeeds)), queue.WorkerOptions{})
		pass(time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		b.wantStatus(id, queue.StatusPending)
		if j := b.show(id).Jobs[0]; j.CrashCount != 0 || j.RetryCount != 0 {
			t.Errorf("crash_count %d, retry_count %d; want none", j.CrashCount, j.RetryCount)
		}
		if st, err := b.Stats(t.Context()); err != nil || len(st.Workers) != 0 {
			t.Errorf("workers left: %+v, %v", st.Workers, err)
		}
	}, route("r", succeeds))
}

// TestBusyWorkerGivesBackALostClaim, although it claims all the time.
func TestBusyWorkerGivesBackALostClaim(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "lost")
		q := newQueue(t, &faulty{Store: &forgetful{Store: b.store}, beats: 300 * time.Millisecond}, route("r", succeeds))
		start(t, q, queue.WorkerOptions{})
		for i := range 400 {
			receive(t, q, fmt.Sprint("d", i))
			pass(50 * time.Millisecond)
		}
		b.wantStatus(id, queue.StatusCompleted)
		if got, want := b.endings(id), "[lost completed]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}, route("r", succeeds))
}

// TestSuspectIsNotStarved by a backlog of newer jobs.
func TestSuspectIsNotStarved(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "suspect")
		b.claimAsDead(1)
		if _, err := b.store.Rescue(t.Context(), map[queue.Text]int64{"dead": 0}, queue.Now()); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		for i := range 100 {
			receive(t, b.Queue, fmt.Sprint("d", i))
		}
		b.size(queue.Sizes{Concurrency: 2})
		b.work(queue.WorkerOptions{})
		pass(3 * time.Second)
		b.wantStatus(id, queue.StatusCompleted)
	}, route("r", func(context.Context, *queue.Task) (queue.Result, error) {
		<-time.After(time.Second)
		return queue.Result{}, nil
	}))
}

// TestStallCondemnsNobody: when nobody could beat for longer than a lease, as
// on a disk that hangs, nobody is taken for dead.
func TestStallCondemnsNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		first, second := &faulty{Store: b.store}, &faulty{Store: b.store}
		var ids []int64
		for i := range 4 {
			ids = append(ids, receive(t, b.Queue, fmt.Sprint("d", i)))
		}
		for _, f := range []*faulty{first, second} {
			start(t, sized(f, queue.Sizes{Concurrency: 2}, route("r", func(ctx context.Context, _ *queue.Task) (queue.Result, error) {
				select {
				case <-ctx.Done():
					return queue.Result{}, context.Cause(ctx)
				case <-time.After(40 * time.Second):
					return queue.Result{}, nil
				}
			})), queue.WorkerOptions{})
			pass(time.Second)
		}
		pass(11 * time.Second) // they know each other
		before, err := b.store.Workers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			stalls := []chan struct{}{make(chan struct{}), make(chan struct{})}
			first.stall.Store(&stalls[0])
			second.stall.Store(&stalls[1])
			pass(16 * time.Second)
			second.stall.Store(nil) // one is back a little earlier, and has seen the other's last beat
			close(stalls[1])
			pass(time.Second)
			first.stall.Store(nil)
			close(stalls[0])
			pass(time.Second)
		}
		pass(2 * time.Minute)
		after, err := b.store.Workers(t.Context())
		if err != nil || len(after) != 2 || after[0].ID != before[0].ID || after[1].ID != before[1].ID {
			t.Errorf("workers: got %+v, %v; want the two from before the stall", after, err)
		}
		for _, id := range ids {
			b.wantStatus(id, queue.StatusCompleted)
			for _, a := range b.show(id).Attempts {
				if a.Ending == queue.EndCrashed {
					t.Errorf("event %d: %s; nobody had died", id, b.endings(id))
				}
			}
		}
	}, route("r", succeeds))
}

// TestOnceLeavesNothingDue, also where a handler ends while a claim that finds
// nothing is under way.
func TestOnceLeavesNothingDue(t *testing.T) {
	slow := route("slow", func(context.Context, *queue.Task) (queue.Result, error) {
		<-time.After(time.Second)
		return queue.Result{}, nil
	})
	slow.Concurrency = 1
	inBubble(t, func(t *testing.T, b *bench) {
		f := &faulty{Store: b.store}
		n := 0
		f.nothing = func(p queue.ClaimParams) bool {
			if p.Route != "quick" {
				return false
			}
			if n++; n != 3 {
				return false
			}
			<-time.After(2 * time.Second) // the slow one ends meanwhile, and somebody else was first
			return true
		}
		for i := range 3 {
			receive(t, b.Queue, fmt.Sprint("d", i))
		}
		if err := sized(f, queue.Sizes{BatchSize: 1}, slow, route("quick", succeeds)).Work(t.Context(), queue.WorkerOptions{Once: true}); err != nil {
			t.Fatal(err)
		}
		st, err := b.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range st.Routes {
			if r.Pending != 0 || r.Completed != 3 {
				t.Errorf("%+v, want all completed", r)
			}
		}
	}, slow, route("quick", succeeds))
}

// TestUnreadableEventSpendsNoRetry: that the store can't be read is no fault of
// the event's.
func TestUnreadableEventSpendsNoRetry(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d")
		var once sync.Once
		f := &faulty{Store: b.store}
		f.load = func() (err error) {
			once.Do(func() { err = queue.ErrUnavailable })
			return err
		}
		start(t, newQueue(t, f, route("r", succeeds)), queue.WorkerOptions{})
		pass(10 * time.Second)
		b.wantStatus(id, queue.StatusCompleted)
		if got, want := b.endings(id), "[unavailable completed]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}, route("r", succeeds))
}

// TestStoreAwayAtTheStart: a worker that is to stay waits, one that runs once
// tells.
func TestStoreAwayAtTheStart(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d")
		f := &faulty{Store: b.store}
		f.away.Store(1)
		if err := newQueue(t, f, b.routes...).Work(t.Context(), queue.WorkerOptions{Once: true}); !errors.Is(err, queue.ErrUnavailable) {
			t.Errorf("once: got %v, want ErrUnavailable", err)
		}
		f.away.Store(20)
		stop := start(t, newQueue(t, f, b.routes...), queue.WorkerOptions{})
		pass(time.Minute)
		b.wantStatus(id, queue.StatusPending)
		pass(time.Minute)
		b.wantStatus(id, queue.StatusCompleted)
		if err := stop(); err != nil {
			t.Error(err)
		}
	}, route("r", succeeds))
}

// TestResultThatCannotBeStored is not tried for ever.
func TestResultThatCannotBeStored(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d")
		b.work(queue.WorkerOptions{})
		pass(time.Minute)
		synctest.Wait()
		b.wantStatus(id, queue.StatusDeadLetter)
		if got := b.show(id).Jobs[0].ErrorMessage; got == "" {
			t.Error("it does not say why")
		}
	}, route("r", func(context.Context, *queue.Task) (queue.Result, error) {
		return queue.Result{Output: make([]byte, queue.MaxOutput+1)}, nil // against the handlers' contract
	}))
}

// TestHeartbeatsDoNotWaitForTheLog: nothing that must be in time
// waits for a log.
func TestHeartbeatsDoNotWaitForTheLog(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		gate := make(chan struct{})
		quick, slow := receive(t, b.Queue, "quick"), receive(t, b.Queue, "slow")
		q := queue.New(b.store, &queue.Config{Routes: []queue.Route{route("r", func(ctx context.Context, task *queue.Task) (queue.Result, error) {
			if task.Event.DeliveryID == "slow" {
				<-time.After(40 * time.Second)
			}
			return queue.Result{}, context.Cause(ctx)
		})}}, slog.New(&gatedLog{gate: gate}))
		start(t, q, queue.WorkerOptions{})
		pass(time.Minute)
		close(gate)
		pass(time.Second)
		b.wantStatus(quick, queue.StatusCompleted)
		b.wantStatus(slow, queue.StatusCompleted)
		if got := b.endings(slow); got != "[completed]" {
			t.Errorf("the slow one: got %s, want [completed]: its lease was kept", got)
		}
	}, route("r", succeeds))
}

// gatedLog blocks at the end of each attempt, until its gate is closed.
type gatedLog struct {
	slog.Handler
	gate chan struct{}
}

func (g *gatedLog) Enabled(context.Context, slog.Level) bool { return true }
func (g *gatedLog) WithAttrs([]slog.Attr) slog.Handler       { return g }
func (g *gatedLog) WithGroup(string) slog.Handler            { return g }
func (g *gatedLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "attempt ended" {
		<-g.gate
	}
	return nil
}
