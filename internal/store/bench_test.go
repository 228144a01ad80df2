package store

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store/pgtest"
)

// The benchmarks run on disks that are synced, as the program does.

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

// benchBody is JSON that compresses about as a webhook does.
func benchBody(size int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, `{"id":%d,"node_id":"%x","url":"https://api.github.com/repos/acme/api/issues/%d"},`, i*7919, i*104729, i)
	}
	return b.Bytes()[:size]
}

// fill inserts n events of 300 bytes and registers a worker.
func fill(b *testing.B, s queue.Store, n int) {
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

// both runs a benchmark on each database.
func both(b *testing.B, bench func(*testing.B, func(*testing.B) queue.Store)) {
	b.Run("sqlite", func(b *testing.B) {
		bench(b, func(b *testing.B) queue.Store { return open(b, filepath.Join(b.TempDir(), "q.db")) })
	})
	b.Run("postgres", func(b *testing.B) {
		bench(b, func(b *testing.B) queue.Store { return openServer(b, pgtest.Private(b, pgtest.Durable).Database(b)) })
	})
}

func BenchmarkInsert(b *testing.B) { both(b, benchInsert) }

func benchInsert(b *testing.B, open func(*testing.B) queue.Store) {
	body := benchBody(10 << 10)
	for _, senders := range []int{1, 64} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			s := open(b)
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
func BenchmarkClaimSettle(b *testing.B) { both(b, benchClaimSettle) }

func benchClaimSettle(b *testing.B, open func(*testing.B) queue.Store) {
	const batch = 10
	s := open(b)
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

func BenchmarkList(b *testing.B) { both(b, benchList) }

func benchList(b *testing.B, open func(*testing.B) queue.Store) {
	s := open(b)
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

// BenchmarkCopy moves events of 1 KB, each with a job that has completed;
// 100,000 of them by -benchtime 100000x.
func BenchmarkCopy(b *testing.B) {
	engines := map[string]func(testing.TB) string{
		"sqlite":   engines["sqlite"],
		"postgres": func(t testing.TB) string { return pgtest.Private(t, pgtest.Durable).Database(t) },
	}
	for _, d := range directions {
		b.Run(d[0]+" to "+d[1], func(b *testing.B) {
			from, to := engines[d[0]](b), engines[d[1]](b)
			s := openStore(b, from)
			fill(b, s, b.N)
			execIn(b, s, `DELETE FROM workers`)
			execIn(b, s, `UPDATE webhook_payloads SET body = $1`, benchBody(1<<10))
			execIn(b, s, `UPDATE webhook_jobs SET status = 'completed', claim_seq = 1, worker_id = 'w', finished_at = 1`)
			execIn(b, s, `INSERT INTO webhook_attempts (event_id, route, claim_seq, worker_id, outcome, finished_at, output)
				SELECT event_id, route, 1, 'w', 'completed', 1, webhook_payloads.headers FROM webhook_jobs JOIN webhook_payloads USING (event_id)`)
			b.ResetTimer()
			if _, err := Copy(b.Context(), CopyOptions{From: Options{Database: from}, To: Options{Database: to}}); err != nil {
				b.Fatal(err)
			}
		})
	}
}
