package server

import (
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/route"
	"orchestrate/internal/store"
	"orchestrate/internal/webhook"
)

// BenchmarkIntakeOf100Routes compares an intake whose configuration has one
// route with one that has a hundred, from the request to the commit and back,
// request by request by turns. The same single route wants the event; the other
// 99 have filters and don't. The ratio of the medians is what they cost.
func BenchmarkIntakeOf100Routes(b *testing.B) {
	for name, other := range map[string]func(i int) route.Spec{
		"of all types": func(i int) route.Spec {
			return []route.Spec{
				{On: []string{"pull_request"}, Filter: route.Filter{Author: []string{"renovate*", "dependabot[bot]"}, Labels: []string{"dependencies"}}},
				{On: []string{"check_run.completed", "check_suite.completed"}, Filter: route.Filter{Conclusion: []string{"failure", "timed_out"}}},
				{On: []string{"issues.opened"}, Filter: route.Filter{Labels: []string{"agent", "area/*"}}},
				{On: []string{"push"}, Filter: route.Filter{BaseBranch: []string{"main"}, Paths: []string{"src/**", "**/*.go"}}},
				{On: []string{"pull_request_review"}, Filter: route.Filter{BaseBranch: []string{"release/*"}, SkipForks: true}},
			}[i%5]
		},
		"of one type": func(i int) route.Spec {
			return route.Spec{On: []string{"pull_request.opened"}, Filter: route.Filter{
				Repository: []string{"acme/*"}, SkipForks: true, BaseBranch: []string{fmt.Sprintf("release/%d.*", i), "hotfix/*"},
			}}
		},
	} {
		b.Run(name, func(b *testing.B) {
			specs := []route.Spec{{On: []string{"pull_request.opened"}, Filter: route.Filter{BaseBranch: []string{"main"}}}}
			for i := range 99 {
				specs = append(specs, other(i))
			}
			one, hundred := intakeOf(b, specs[:1]), intakeOf(b, specs)
			body := tenKilobytes(b)
			c := client(b)
			var took [2][]time.Duration
			for n := 0; b.Loop(); n++ {
				for i, addr := range []string{one, hundred} {
					at := time.Now()
					resp, answer := do(b, c, delivery(b, addr, body,
						webhook.HeaderEvent, "pull_request", webhook.HeaderDelivery, fmt.Sprint("d", n)))
					took[i] = append(took[i], time.Since(at))
					if resp.status != 200 {
						b.Fatalf("got %d %q", resp.status, answer)
					}
				}
			}
			median := func(d []time.Duration) float64 {
				slices.Sort(d)
				return float64(d[len(d)/2])
			}
			b.ReportMetric(median(took[0]), "ns/1-route")
			b.ReportMetric(median(took[1]), "ns/100-routes")
			b.ReportMetric(median(took[1])/median(took[0]), "ratio")
		})
	}
}

// intakeOf serves an intake over a database of its own and returns its address.
func intakeOf(b *testing.B, specs []route.Spec) string {
	b.Helper()
	cfg := &queue.Config{Routes: make([]queue.Route, len(specs))}
	for i := range specs {
		specs[i].Name = fmt.Sprint("route-", i)
		cfg.Routes[i].Name = specs[i].Name
	}
	table, err := route.Compile(specs)
	if err != nil {
		b.Fatal(err)
	}
	cfg.Matcher = table
	log := slog.New(slog.DiscardHandler)
	db, err := store.Open(b.Context(), store.Options{Database: filepath.Join(b.TempDir(), "q.db"), Create: true, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	return listen(b, newServer(b, queue.New(db, cfg, log), io.Discard, Limits{}).ServeIntake)
}
