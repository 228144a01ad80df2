package queue_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"orchestrate/internal/queue"
)

func (b *bench) worker() queue.Worker {
	b.t.Helper()
	workers, err := b.store.Workers(b.t.Context())
	if err != nil || len(workers) != 1 {
		b.t.Fatalf("got %d workers, %v; want 1", len(workers), err)
	}
	return workers[0]
}

// TestReload: what runs goes on as it began, what comes next follows the new
// configuration, and the worker shows that within a moment.
func TestReload(t *testing.T) {
	var before, after atomic.Int32
	counts := func(n *atomic.Int32) handlerFunc {
		return func(context.Context, *queue.Task) (queue.Result, error) {
			<-time.After(time.Minute)
			n.Add(1)
			return queue.Result{}, nil
		}
	}
	inBubble(t, func(t *testing.T, b *bench) {
		b.work(queue.WorkerOptions{})
		first := receive(t, b.Queue, "first")
		pass(time.Second)
		next := []queue.Route{route("r", counts(&after)), route("new", succeeds)}
		b.Reload(t.Context(), &queue.Config{
			Routes: next, Matcher: always(next), Hash: "next", Sizes: queue.Sizes{Concurrency: 7},
		})
		second := receive(t, b.Queue, "second")
		pass(time.Millisecond)
		w := b.worker()
		got := []any{w.ConfigHash, w.Routes, w.Slots, w.Reloads}
		if diff := cmp.Diff([]any{queue.Text("next"), []string{"r", "new"}, 7, queue.Reloads{ReloadCount: 1}}, got); diff != "" {
			t.Errorf("the worker's row (-want +got):\n%s", diff)
		}
		pass(2 * time.Minute)
		if before.Load() != 1 || after.Load() != 1 {
			t.Errorf("the old handler ran %d times, the new one %d; want 1 and 1", before.Load(), after.Load())
		}
		if got := len(b.show(second).Jobs); got != 2 {
			t.Errorf("%d jobs of what came after the reload, want 2", got)
		}
		for id, want := range map[int64]string{first: "test", second: "next"} {
			if got := b.show(id).Attempts[0].ConfigHash; string(got) != want {
				t.Errorf("event %d ran under configuration %s, want %s", id, got, want)
			}
		}
		// A route that is gone is not claimed any more.
		b.Reload(t.Context(), &queue.Config{Routes: next[:1], Matcher: always(next[:1]), Hash: "gone"})
		waiting := receive(t, sized(b.store, queue.Sizes{}, next[1]), "waiting")
		pass(time.Minute)
		b.wantStatus(waiting, queue.StatusPending)
	}, route("r", counts(&before)))
}

func TestRefusedReloadIsShown(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.work(queue.WorkerOptions{})
		pass(time.Second)
		b.RefuseReload(t.Context(), errors.New("config.yaml:3: no"))
		pass(time.Millisecond)
		if got, want := b.worker().Reloads, (queue.Reloads{ReloadsFailed: 1, ReloadError: "config.yaml:3: no"}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		b.Reload(t.Context(), &queue.Config{Routes: b.routes, Matcher: always(b.routes), Hash: "test"})
		pass(time.Millisecond)
		if got, want := b.worker().Reloads, (queue.Reloads{ReloadCount: 1, ReloadsFailed: 1}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}, route("r", succeeds))
}

// TestReceiverShowsItself: a process that only receives claims nothing, and
// still takes over from dead workers.
func TestReceiverShowsItself(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		id := receive(t, b.Queue, "d")
		b.claimAsDead(1)
		b.work(queue.WorkerOptions{Routes: []string{}})
		pass(30 * time.Second)
		if w := b.worker(); w.Slots != 0 || len(w.Routes) != 0 {
			t.Errorf("got %d slots, routes %v; want none", w.Slots, w.Routes)
		}
		b.wantStatus(id, queue.StatusPending)
	}, route("r", succeeds))
}

// TestReloadUnderLoad: no delivery that comes while configurations change is
// refused, lost or run by a route that its configuration did not have.
func TestReloadUnderLoad(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.work(queue.WorkerOptions{})
		sets := [][]queue.Route{{route("r", succeeds)}, {route("r", succeeds), route("extra", succeeds)}}
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				routes := sets[i%2]
				b.Reload(t.Context(), &queue.Config{Routes: routes, Matcher: always(routes), Hash: fmt.Sprint(i)})
			}
		}()
		var ids []int64
		for i := range 100 {
			ids = append(ids, receive(t, b.Queue, fmt.Sprint("d", i)))
		}
		close(stop)
		<-stopped
		b.Reload(t.Context(), &queue.Config{Routes: sets[1], Matcher: always(sets[1])})
		pass(time.Minute)
		jobs := 0
		for _, id := range ids {
			b.wantStatus(id, queue.StatusCompleted)
			jobs += len(b.show(id).Jobs)
		}
		if jobs < 100 || jobs > 200 {
			t.Errorf("%d jobs of 100 events, want one or two each", jobs)
		}
	}, route("r", succeeds))
}
