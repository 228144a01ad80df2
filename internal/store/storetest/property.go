package storetest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"

	"orchestrate/internal/queue"

	"pgregory.net/rapid"
)

// model is what the store should hold, as plainly as it can be said.
type model struct {
	jobs    map[queue.JobKey]queue.Status
	seq     map[queue.JobKey]int64
	claimed map[queue.JobKey]queue.Job // live claims
	events  map[string]int64           // by delivery id
}

func byKey(x, y queue.JobKey) int {
	return cmp.Or(cmp.Compare(x.EventID, y.EventID), cmp.Compare(x.Route, y.Route))
}

// property runs random operations against the model and compares after each.
func property(t *testing.T, f *fixture) {
	ctx := t.Context()
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		w := f.worker(t, queue.Text(fmt.Sprint("w", round)))
		m := model{map[queue.JobKey]queue.Status{}, map[queue.JobKey]int64{}, map[queue.JobKey]queue.Job{}, map[string]int64{}}
		var routes []string
		for _, r := range "abc" {
			routes = append(routes, fmt.Sprintf("%d%c", round, r)) // what earlier rounds left is no concern of this one
		}
		fail := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		pick := func(want func(queue.JobKey, queue.Status) bool) []queue.Job {
			var keys []queue.JobKey
			for k, s := range m.jobs {
				if want(k, s) {
					keys = append(keys, k)
				}
			}
			slices.SortFunc(keys, byKey)
			if len(keys) == 0 {
				return nil
			}
			k := rapid.SampledFrom(keys).Draw(rt, "job")
			return []queue.Job{{Claim: queue.Claim{JobKey: k, Seq: m.seq[k]}, Status: m.jobs[k]}}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"insert": func(rt *rapid.T) {
				delivery := fmt.Sprintf("p%d-%d", round, rapid.IntRange(0, 20).Draw(rt, "delivery"))
				wanted := routes[:rapid.IntRange(0, len(routes)).Draw(rt, "routes")]
				r, err := f.Insert(ctx, f.delivery(delivery, "{}", wanted...))
				fail(err)
				if id, known := m.events[delivery]; r.Duplicate != known || known && id != r.EventID {
					rt.Fatalf("insert %s: got %+v, known %v as %d", delivery, r, known, id)
				}
				if !r.Duplicate {
					m.events[delivery] = r.EventID
					for _, route := range wanted {
						m.jobs[queue.JobKey{EventID: r.EventID, Route: route}] = queue.StatusPending
					}
				}
			},
			"claim": func(rt *rapid.T) {
				limit := rapid.IntRange(1, 3).Draw(rt, "limit")
				route := rapid.SampledFrom(routes).Draw(rt, "route")
				jobs, err := f.Claim(ctx, queue.ClaimParams{Route: route, Now: f.now, DueBy: f.now, Limit: limit, WorkerID: w})
				fail(err)
				ready := 0
				for k, s := range m.jobs {
					if k.Route == route && (s == queue.StatusPending || s == queue.StatusFailed) {
						ready++
					}
				}
				if len(jobs) != min(limit, ready) {
					rt.Fatalf("claimed %d of %d ready, limit %d", len(jobs), ready, limit)
				}
				for _, j := range jobs {
					if j.Seq != m.seq[j.JobKey]+1 {
						rt.Fatalf("%v: claim %d after %d", j.JobKey, j.Seq, m.seq[j.JobKey])
					}
					m.jobs[j.JobKey], m.seq[j.JobKey], m.claimed[j.JobKey] = queue.StatusProcessing, j.Seq, j
				}
			},
			"settle": func(rt *rapid.T) {
				keys := slices.SortedFunc(maps.Keys(m.claimed), byKey)
				if len(keys) == 0 {
					rt.Skip("nothing is claimed")
				}
				j := m.claimed[rapid.SampledFrom(keys).Draw(rt, "claim")]
				to := rapid.SampledFrom([]queue.Status{queue.StatusCompleted, queue.StatusFailed, queue.StatusDeadLetter, queue.StatusPending}).Draw(rt, "to")
				fail(f.Settle(ctx, j.Claim, queue.Settlement{Status: to, Ending: queue.EndFailed, DueAt: f.now, FinishedAt: f.now}))
				m.jobs[j.JobKey] = to
				delete(m.claimed, j.JobKey)
			},
			"requeue": func(rt *rapid.T) {
				jobs := pick(func(_ queue.JobKey, s queue.Status) bool {
					return s != queue.StatusProcessing && s != queue.StatusPending
				})
				n, err := f.Move(ctx, jobs, queue.Move{To: queue.StatusPending, Now: f.now})
				fail(err)
				if n != len(jobs) {
					rt.Fatalf("requeued %d of %d", n, len(jobs))
				}
				for _, j := range jobs {
					m.jobs[j.JobKey] = queue.StatusPending
				}
			},
			"cancel": func(rt *rapid.T) {
				jobs := pick(func(_ queue.JobKey, s queue.Status) bool { return slices.Contains(queue.Open(), s) })
				n, err := f.Move(ctx, jobs, queue.Move{To: queue.StatusDeadLetter, Reason: "cancelled", Now: f.now})
				fail(err)
				if n != len(jobs) {
					rt.Fatalf("cancelled %d of %d", n, len(jobs))
				}
				for _, j := range jobs {
					m.jobs[j.JobKey] = queue.StatusDeadLetter
					delete(m.claimed, j.JobKey)
				}
			},
			"": func(rt *rapid.T) {
				held, err := f.Heartbeat(ctx, queue.Worker{ID: w, Routes: []string{}, HeartbeatAt: f.now})
				fail(err)
				if len(held) != len(m.claimed) {
					rt.Fatalf("the store holds %d claims, the model %d", len(held), len(m.claimed))
				}
				for _, id := range m.events {
					fail(Counters(ctx, f.Store, id))
					jobs, err := f.Jobs(ctx, id)
					fail(err)
					for _, j := range jobs {
						if j.Status != m.jobs[j.JobKey] {
							rt.Fatalf("%v is %s, the model says %s", j.JobKey, j.Status, m.jobs[j.JobKey])
						}
					}
				}
			},
		})
	})
}
