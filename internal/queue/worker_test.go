package queue_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store"
)

// always matches every event.
type always struct{}

func (always) Match(*queue.Event, *queue.Payload) (bool, error) { return true, nil }

// handlerFunc is a handler as a function.
type handlerFunc func(context.Context, *queue.Task) (queue.Result, error)

func (f handlerFunc) Handle(ctx context.Context, t *queue.Task) (queue.Result, error) { return f(ctx, t) }

func route(name string, f handlerFunc) queue.Route {
	return queue.Route{Name: name, Matcher: always{}, Handler: f, Retry: queue.DefaultRetry()}
}

// openStore opens a store that is closed with the test.
func openStore(t *testing.T, path string) *store.SQLite {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{Path: path, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newQueue(t *testing.T, s queue.Store, routes ...queue.Route) *queue.Queue {
	t.Helper()
	return queue.New(s, &queue.Config{Routes: routes, RequeueDead: true, Hash: "test"}, slog.New(slog.DiscardHandler))
}

func receive(t *testing.T, q *queue.Queue, delivery string) int64 {
	t.Helper()
	body := []byte(`{"action":"opened"}`)
	sum := sha256.Sum256(body)
	r, err := q.Receive(t.Context(), &queue.Event{
		Source: "github", DeliveryID: delivery, EventType: "push", ReceivedAt: queue.Now(),
		BodySize: int64(len(body)), BodySHA256: hex.EncodeToString(sum[:]),
	}, &queue.Payload{Headers: map[string]string{"Content-Type": "application/json"}, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	return r.EventID
}

func TestRetriesAfter1And2And4Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, filepath.Join(t.TempDir(), "q.db"))
		var mu sync.Mutex
		var starts []time.Time
		q := newQueue(t, s, route("fails", func(context.Context, *queue.Task) (queue.Result, error) {
			mu.Lock()
			defer mu.Unlock()
			starts = append(starts, time.Now())
			return queue.Result{}, errors.New("no")
		}))
		id := receive(t, q, "d1")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- q.Work(ctx, queue.WorkerOptions{}) }()
		time.Sleep(time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		var waits []string
		for i := 1; i < len(starts); i++ {
			waits = append(waits, starts[i].Sub(starts[i-1]).Round(time.Second).String())
		}
		if got, want := fmt.Sprint(waits), "[1s 2s 4s]"; got != want {
			t.Errorf("waits between attempts: got %s, want %s", got, want)
		}
		d, err := q.Show(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if d.Status != queue.StatusDeadLetter || len(d.Attempts) != 4 {
			t.Errorf("got %s after %d attempts, want dead_letter after 4", d.Status, len(d.Attempts))
		}
	})
}
