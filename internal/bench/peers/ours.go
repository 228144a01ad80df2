package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store"

	"github.com/google/uuid"
)

// ours is this program's queue: its store, and its worker with a handler that
// does nothing.
type ours struct {
	label, database string
	store           queue.Store
	queue           *queue.Queue
}

const ourRoute = "all"

// everything is a matcher with one route for every event.
type everything struct{}

func (everything) Match(*queue.Event, *queue.Payload) []queue.Match {
	return []queue.Match{{Route: ourRoute}}
}
func (everything) Wants(string, *queue.Event, *queue.Payload) (bool, error) { return true, nil }

// handler is one that calls a function.
type handler func([]byte)

func (h handler) Handle(_ context.Context, t *queue.Task) (queue.Result, error) {
	h(t.Payload.Body)
	return queue.Result{}, nil
}

func ourConfig(slots int, handle func([]byte)) *queue.Config {
	return &queue.Config{
		Routes:  []queue.Route{{Name: ourRoute, Handler: handler(handle), Retry: queue.DefaultRetry()}},
		Matcher: everything{},
		Sizes:   queue.Sizes{Concurrency: slots, BatchSize: slots},
	}
}

func newOurs(ctx context.Context, label, database string, slots int) (*ours, error) {
	s, err := store.Open(ctx, store.Options{Database: database, Create: true})
	if err != nil {
		return nil, err
	}
	q := queue.New(s, ourConfig(slots, func([]byte) {}), slog.New(slog.DiscardHandler))
	return &ours{label, database, s, q}, nil
}

func (o *ours) name() string { return o.label }

func (o *ours) insert(ctx context.Context, body []byte) error {
	sum := sha256.Sum256(body)
	_, err := o.queue.Receive(ctx, &queue.Event{
		Source: "github", DeliveryID: uuid.NewString(), EventType: "push", Repository: "acme/api", Sender: "octocat", HookID: 1,
		ReceivedAt: queue.Now(), BodySize: int64(len(body)), BodySHA256: hex.EncodeToString(sum[:]),
	}, &queue.Payload{Headers: map[string]string{"Content-Type": "application/json"}, Body: body})
	return err
}

func (o *ours) url() string { return o.database }

// work: a worker with a limit returns once what it claimed is settled.
func (o *ours) work(ctx context.Context, n int) (time.Time, error) {
	err := o.queue.Work(ctx, queue.WorkerOptions{Host: "bench", PID: os.Getpid(), Limit: n})
	return time.Now(), err
}

func (o *ours) close() error { return o.store.Close() }

// workOurs is the worker of another process.
func workOurs(ctx context.Context, _, database string, slots int, handle func([]byte)) error {
	s, err := store.Open(ctx, store.Options{Database: database})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // settled is settled
	q := queue.New(s, ourConfig(slots, handle), slog.New(slog.DiscardHandler))
	return q.Work(ctx, queue.WorkerOptions{Host: "bench", PID: os.Getpid()})
}

// sentAt reads the time that body wrote.
func sentAt(body []byte) time.Time {
	n := int64(0)
	for _, c := range body[len(`{"at":`):] {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int64(c-'0')
	}
	return time.Unix(0, n)
}
