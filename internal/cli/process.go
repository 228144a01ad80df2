package cli

import (
	"context"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"orchestrate/internal/handler"
	"orchestrate/internal/queue"
)

type processOptions struct {
	once   bool
	limit  int
	routes []string
}

func newProcessCmd(a *App) *cobra.Command {
	o := &processOptions{}
	cmd := &cobra.Command{
		Use:   "process",
		Short: "Process events until stopped, or what is due with --once",
		Long: `process claims jobs and runs their commands, without receiving webhooks. Any number
of them may run beside serve on one database. SIGHUP reads the configuration
again, all of it or none, as serve does. The first SIGINT or SIGTERM drains:
nothing more is claimed, and what runs may end within drain_timeout. The second
one kills what runs and stops at once; what ran then runs again later.

With --once it processes what is due when it starts, and ends with 0 whatever
the commands did: what failed waits for its retry.`,
		Example: `  orchestrate process
  orchestrate process --once
  orchestrate process --route deploy --concurrency 2
  orchestrate process --once --limit 1 -v`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("limit") && o.limit < 1 {
				return usagef("--limit %d: want at least 1", o.limit)
			}
			if cmd.Flags().Changed("route") && (len(o.routes) == 0 || slices.Contains(o.routes, "")) {
				return usagef("--route is empty: name a route, or leave it away for all")
			}
			return runProcess(cmd.Context(), a, o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&o.once, "once", false, "process what is due, then exit")
	f.IntVar(&o.limit, "limit", 0, "exit after `n` attempts")
	f.StringSliceVar(&o.routes, "route", nil, "only these `routes`")
	addWorkerFlags(f)
	must(cmd.RegisterFlagCompletionFunc("route", completeRoutes(a)))
	return cmd
}

func runProcess(ctx context.Context, a *App, o *processOptions) error {
	a.daemon = true
	a.runs = func(route string) bool { return o.routes == nil || slices.Contains(o.routes, route) }
	a.catchHangups()
	keepToOurselves()
	w, err := a.wire()
	if err != nil {
		return err
	}
	if err := o.known(w); err != nil {
		return err
	}
	q, err := a.queue(ctx)
	if err != nil {
		return err
	}
	if err := q.WarnUnknownRoutes(ctx); err != nil {
		return err
	}
	w.warn(ctx)
	work := w.workerOptions()
	work.Once, work.Limit, work.Routes = o.once, o.limit, o.routes
	w.log.InfoContext(ctx, "ready", "database", w.config.Database, "routes", w.queue.RouteNames(), "containment", w.containmentText())
	reloads, stopReloads := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReloads()
	ended := a.startReloads(reloads, q, func(next *wired) (func(), error) { return func() {}, o.known(next) })
	err = q.Work(ctx, work)
	stopReloads()
	awaitReload(ended)
	return err
}

// known refuses the name of a route that the configuration does not have.
func (o *processOptions) known(w *wired) error {
	for _, r := range o.routes {
		if w.queue.Route(r) == nil {
			return queue.UnknownRoute(r, "the configuration has", w.queue.RouteNames())
		}
	}
	return nil
}

// addWorkerFlags are the flags of keys that size a worker.
func addWorkerFlags(f *pflag.FlagSet) {
	addKeyFlag(f, "processor.concurrency", "concurrency")
	addKeyFlag(f, "processor.batch_size", "batch-size")
	addKeyFlag(f, "processor.poll_interval", "poll-interval")
	addKeyFlag(f, "drain_timeout", "drain-timeout")
	addKeyFlag(f, "log.level", "log-level")
	addKeyFlag(f, "log.format", "log-format")
}

// workerOptions are those that the configuration decides.
func (w *wired) workerOptions() queue.WorkerOptions {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost" // only a name that an operator may know it by
	}
	return queue.WorkerOptions{
		Host: host, PID: os.Getpid(), Version: w.version,
		Sweep: func() {
			if err := handler.Sweep(w.attemptsPath()); err != nil {
				w.log.Warn("remove what dead workers left", "error", err.Error())
			}
		},
	}
}
