package queue_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store"
)

// BenchmarkStartLatency is the time from Receive to the start of the handler,
// on an idle queue: received by the worker's own process, and by another one
// over the same file.
func BenchmarkStartLatency(b *testing.B) {
	for _, name := range []string{"same process", "other process"} {
		b.Run(name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "q.db")
			open := func() queue.Store {
				s, err := store.Open(b.Context(), store.Options{Database: path, Create: true})
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = s.Close() })
				return s
			}
			started := make(chan time.Time, 1)
			routes := []queue.Route{route("r", func(context.Context, *queue.Task) (queue.Result, error) {
				started <- time.Now()
				return queue.Result{}, nil
			})}
			cfg := &queue.Config{Routes: routes, Matcher: always(routes)}
			q := queue.New(open(), cfg, slog.New(slog.DiscardHandler))
			receiver := q
			if name == "other process" {
				receiver = queue.New(open(), cfg, slog.New(slog.DiscardHandler))
			}
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- q.Work(ctx, queue.WorkerOptions{}) }()
			var took []time.Duration
			body := []byte(`{}`)
			sum := sha256.Sum256(body)
			for n := 0; b.Loop(); n++ {
				at := time.Now()
				_, err := receiver.Receive(b.Context(), &queue.Event{
					Source: "github", DeliveryID: fmt.Sprint(n), EventType: "push", ReceivedAt: queue.Now(),
					BodySize: 2, BodySHA256: hex.EncodeToString(sum[:]),
				}, &queue.Payload{Body: body})
				if err != nil {
					b.Fatal(err)
				}
				took = append(took, (<-started).Sub(at))
			}
			cancel()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
			reportQuantiles(b, took)
		})
	}
}

func reportQuantiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50-ms", 0.5}, {"p99-ms", 0.99}} {
		b.ReportMetric(float64(took[int(q.at*float64(len(took)-1))].Microseconds())/1000, q.name)
	}
}
