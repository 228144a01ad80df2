package queue_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"orchestrate/internal/queue"
)

// ahead is a store whose clock is an hour ahead of this machine's, as another
// node's view of a server may be.
type ahead struct{ queue.Store }

const hour = time.Hour

func (a ahead) Now() queue.Time { return a.Store.Now().Add(hour) }

// TestTimesAreTheStores: a node whose own clock is an hour behind starts what is
// due, waits as long as it should, and writes no time of its own.
func TestTimesAreTheStores(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.db")
	synctest.Test(t, func(t *testing.T) {
		s := ahead{openStore(t, path)}
		var starts []time.Time
		r := route("r", func(context.Context, *queue.Task) (queue.Result, error) {
			if starts = append(starts, time.Now()); len(starts) < 3 {
				return queue.Result{}, errors.New("not yet")
			}
			return queue.Result{}, nil
		})
		routes := []queue.Route{r}
		q := queue.New(s, &queue.Config{Routes: routes, Matcher: always(routes), Hash: "test"}, slog.New(slog.DiscardHandler))
		earliest := s.Now()
		id := receive(t, q, "d")
		stop := start(t, q, queue.WorkerOptions{})
		<-time.After(8 * time.Second)
		synctest.Wait()
		workers, err := s.Workers(t.Context())
		if err != nil || len(workers) != 1 {
			t.Fatalf("workers = %v, %v", workers, err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		d, err := q.Show(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if len(starts) != 3 || starts[1].Sub(starts[0]) < time.Second || starts[2].Sub(starts[1]) < 2*time.Second {
			t.Fatalf("starts = %v, want three, 1 s and 2 s apart", starts)
		}
		times := map[string]queue.Time{
			"event.received_at": d.ReceivedAt, "event.processed_at": d.ProcessedAt, "job.started_at": d.Jobs[0].StartedAt,
			"job.finished_at": d.Jobs[0].FinishedAt, "job.due_at": d.Jobs[0].DueAt, "worker.started_at": workers[0].StartedAt,
			"worker.heartbeat_at": workers[0].HeartbeatAt,
		}
		for _, a := range d.Attempts {
			times["attempt.started_at"], times["attempt.finished_at"] = a.StartedAt, a.FinishedAt
		}
		for name, at := range times {
			if at < earliest {
				t.Errorf("%s = %s, want not before %s", name, at, earliest)
			}
		}
	})
}
