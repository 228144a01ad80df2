package store

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"orchestrate/internal/queue"
)

// The benchmarks run on a file with synchronous=FULL, as the program does.

func benchInsertion(id string, body []byte) queue.Insertion {
	return queue.Insertion{
		Event: &queue.Event{
			Source: "github", DeliveryID: id, EventType: "push", Repository: "acme/api", Sender: "octocat",
			ReceivedAt: queue.Now(), BodySize: int64(len(body)), BodySHA256: strings.Repeat("0", 64),
		},
		Payload: &queue.Payload{Headers: map[string]string{"Content-Type": "application/json"}, Body: body},
		Jobs:    []queue.Job{{Claim: queue.Claim{JobKey: queue.JobKey{Route: "a"}}, Status: queue.StatusPending, MaxRetries: 3, DueAt: 1}},
	}
}

// fill inserts n events of 300 bytes and registers a worker.
func fill(b *testing.B, s *SQLite, n int) {
	b.Helper()
	var next atomic.Int64
	done := make(chan error, 64)
	for range 64 {
		go func() {
			for {
				i := next.Add(1)
				if i > int64(n) {
					done <- nil
					return
				}
				if _, err := s.Insert(b.Context(), benchInsertion(fmt.Sprint("fill-", i), make([]byte, 300))); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for range 64 {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Register(b.Context(), queue.Worker{ID: "w", StartedAt: 1}, ""); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkInsert(b *testing.B) {
	body := make([]byte, 10<<10)
	for _, senders := range []int{1, 64} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "q.db"))
			var n atomic.Int64
			b.SetParallelism((senders + 1) / 2) // times GOMAXPROCS, 2 on the machine of the figures
			if senders == 1 {
				for b.Loop() {
					if _, err := s.Insert(b.Context(), benchInsertion(fmt.Sprint(n.Add(1)), body)); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Insert(b.Context(), benchInsertion(fmt.Sprint(n.Add(1)), body)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkClaimSettle claims and completes a batch of ten, as a busy worker
// does.
func BenchmarkClaimSettle(b *testing.B) {
	const batch = 10
	s := open(b, filepath.Join(b.TempDir(), "q.db"))
	fill(b, s, min(max(b.N, 1), 20_000)*batch)
	b.ResetTimer()
	var claiming time.Duration
	for range b.N {
		now, begin := queue.Now(), time.Now()
		jobs, err := s.Claim(b.Context(), queue.ClaimParams{Route: "a", Now: now, DueBy: now, Limit: batch, WorkerID: "w"})
		if err != nil {
			b.Fatal(err)
		}
		claiming += time.Since(begin)
		errs := make(chan error, len(jobs))
		for _, j := range jobs {
			go func() {
				errs <- s.Settle(b.Context(), j.Claim, queue.Settlement{Status: queue.StatusCompleted, Ending: queue.EndCompleted, FinishedAt: now, DueAt: j.DueAt})
			}()
		}
		for range jobs {
			if err := <-errs; err != nil {
				b.Fatal(err)
			}
		}
	}
	perJob := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(b.N*batch) }
	b.ReportMetric(perJob(claiming), "claim-µs/job")
	b.ReportMetric(perJob(b.Elapsed()-claiming), "settle-µs/job")
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "jobs/s")
}

func BenchmarkList(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "q.db"))
	fill(b, s, 20_000)
	now := queue.Now()
	for range 50 {
		jobs, err := s.Claim(b.Context(), queue.ClaimParams{Route: "a", Now: now, DueBy: now, Limit: 1, WorkerID: "w"})
		if err != nil || len(jobs) == 0 {
			b.Fatal(jobs, err)
		}
		if err := s.Settle(b.Context(), jobs[0].Claim, queue.Settlement{Status: queue.StatusDeadLetter, Ending: queue.EndDeadLetter, FinishedAt: now, DueAt: now}); err != nil {
			b.Fatal(err)
		}
	}
	for name, f := range map[string]queue.Filter{
		"newest": {}, "dead": {Status: queue.StatusDeadLetter}, "delivery": {Delivery: "fill-777"}, "none": {Repository: "x/y"},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := s.List(b.Context(), f, 50); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
