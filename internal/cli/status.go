package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"orchestrate/internal/queue"
)

func newStatusCmd(a *App) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Count jobs by route and state, and list the workers",
		Long: `status counts the jobs of each route by their state, tells when the oldest one
that waits is due, and lists the workers. One that is silent has not shown itself
for longer than its lease: it may be dead, and another takes over its jobs. One
without slots only receives. CONFIG names the configuration that it follows, as
config validate does, RELOADS counts how often it took another, and what it
refused last is told. Jobs that wait for a route without a worker are told, too.
What is wrong with routes and sources of the configuration does not keep it.`,
		Example: `  orchestrate status
  orchestrate status -o json | jq '.routes[] | select(.dead_letter > 0)'`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runStatus(cmd.Context(), a) },
	}
}

func runStatus(ctx context.Context, a *App) error {
	q, err := a.queueWithoutRoutes(ctx)
	if err != nil {
		return err
	}
	s, err := q.Stats(ctx)
	if err != nil {
		return err
	}
	if a.output != formatTable {
		return a.printJSON(s)
	}
	now := q.Now()
	if err := a.printLine("%s, %s\n", count(int(s.Events), "event"), humanize.Bytes(uint64(max(0, s.Bytes)))); err != nil {
		return err
	}
	if err := printRoutes(a, s.Routes, now); err != nil {
		return err
	}
	if err := printWorkers(a, s, now); err != nil {
		return err
	}
	for _, w := range s.Workers {
		if w.ReloadError != "" {
			a.note("worker %s refused its last reload: %s", printable(w.ID), printable(w.ReloadError))
		}
	}
	for _, r := range s.Routes {
		if n := r.Pending + r.Failed; n > 0 && !served(s.Workers, r.Route) {
			a.note("no worker runs route %s: %s; start orchestrate serve or process, or see: orchestrate events cancel --help",
				printable(r.Route), count(int(n), "waiting job"))
		}
	}
	return nil
}

func reloads(r queue.Reloads) string {
	if r.ReloadsFailed == 0 {
		return itoa(int64(r.ReloadCount))
	}
	return fmt.Sprintf("%d, %d refused", r.ReloadCount, r.ReloadsFailed)
}

func served(workers []queue.Worker, route string) bool {
	return slices.ContainsFunc(workers, func(w queue.Worker) bool { return !w.Silent && slices.Contains(w.Routes, route) })
}

func printRoutes(a *App, routes []queue.RouteStats, now queue.Time) error {
	if len(routes) == 0 {
		return a.printLine("no jobs")
	}
	cols := narrow(columns("ROUTE", "PENDING", "PROCESSING", "FAILED", "DEAD_LETTER", "COMPLETED", a.timeColumn("DUE", "OLDEST_DUE")), "ROUTE")
	l := newList(a, cols, func(r queue.RouteStats) []string {
		return []string{
			r.Route, itoa(r.Pending), itoa(r.Processing), itoa(r.Failed), itoa(r.DeadLetter), itoa(r.Completed),
			a.due(r.OldestDue, now),
		}
	})
	for _, r := range routes {
		if err := l.Add(r); err != nil {
			return err
		}
	}
	return l.Close()
}

func printWorkers(a *App, s queue.Stats, now queue.Time) error {
	if len(s.Workers) == 0 {
		return a.printLine("\nno workers")
	}
	if err := a.printLine(""); err != nil {
		return err
	}
	cols := narrow(columns("WORKER", "HOST", "PID", "VERSION", "SLOTS", a.timeColumn("UP", "STARTED"), "HEARTBEAT", "CONFIG", "RELOADS", "ROUTES"), "WORKER", "HOST", "ROUTES")
	l := newList(a, cols, func(w queue.Worker) []string {
		beat := a.when(w.HeartbeatAt, now)
		if w.Silent {
			beat += " (silent)"
		}
		return []string{
			string(w.ID), w.Host, itoa(int64(w.PID)), w.Version, itoa(int64(w.Slots)), a.when(w.StartedAt, now),
			beat, string(w.ConfigHash), reloads(w.Reloads), strings.Join(w.Routes, ", "),
		}
	})
	for _, w := range s.Workers {
		if err := l.Add(w); err != nil {
			return err
		}
	}
	return l.Close()
}
