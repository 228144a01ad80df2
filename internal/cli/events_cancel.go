package cli

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"slices"

	"github.com/spf13/cobra"

	"orchestrate/internal/queue"
)

type eventsCancelOptions struct {
	bulkOptions
	reason string
}

func newEventsCancelCmd(a *App) *cobra.Command {
	o := &eventsCancelOptions{}
	cmd := &cobra.Command{
		Use:   "cancel [ID...]",
		Short: "End what has not finished of events",
		Long: `cancel moves the jobs that are pending, processing or failed to the dead letters,
with who did it and why. A handler that runs is stopped by its worker, within
its next heartbeat. Without an ID or a filter it wants --all. It asks on a
terminal; elsewhere it wants --yes.
` + idHelp + "\n" + filterHelp,
		Example: `  orchestrate events cancel 1842
  orchestrate events cancel --route old-route --reason "route was removed" --yes
  orchestrate events cancel --repo acme/web --dry-run`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			o.ids = ids
			if err := o.prepare(a, cmd); err != nil {
				return err
			}
			return runEventsCancel(cmd.Context(), a, o)
		},
	}
	addBulkFlags(a, cmd, &o.bulkOptions)
	cmd.Flags().StringVar(&o.reason, "reason", "", "`why`, kept with the jobs")
	return cmd
}

func runEventsCancel(ctx context.Context, a *App, o *eventsCancelOptions) error {
	q, err := a.queue(ctx)
	if err != nil {
		return err
	}
	if len(o.ids) > 0 {
		if o.filter.IDs, err = resolve(ctx, q, o.ids); err != nil {
			return err
		}
	}
	v := bulkVerb{ask: "Cancel", jobs: "unfinished", done: "cancelled", consequence: "They go to the dead letters.", from: queue.Open()}
	v.run = func(ctx context.Context, f queue.Filter, b queue.BulkOptions) (queue.Bulk, error) {
		ended, err := endedOf(ctx, q, f.IDs)
		if err != nil {
			return queue.Bulk{}, err
		}
		done, err := q.Cancel(ctx, f, reason(o.reason), b)
		switch {
		case err != nil || len(f.IDs) == 0:
		case len(ended) > 0:
			err = fmt.Errorf("event %d: %w: nothing of it is unfinished", ended[0], queue.ErrRefused)
		case done.Matched == 0:
			err = fmt.Errorf("%w: the filters leave out what is named", queue.ErrRefused)
		}
		return done, err
	}
	slices.Sort(o.filter.IDs)
	return runBulk(ctx, a, q, &o.bulkOptions, v)
}

// endedOf are those of the events of which nothing is unfinished.
func endedOf(ctx context.Context, q *queue.Queue, ids []int64) ([]int64, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	ended := slices.Clone(ids)
	err := q.EachJob(ctx, queue.Filter{IDs: ids}, queue.Open(), 0, func(jobs []queue.Job) error {
		for _, j := range jobs {
			ended = slices.DeleteFunc(ended, func(id int64) bool { return id == j.EventID })
		}
		return nil
	})
	return ended, err
}

// reason tells who cancels, and why.
func reason(why string) string {
	who := "uid " + itoa(int64(os.Getuid()))
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	if why == "" {
		return "cancelled by " + who
	}
	return "cancelled by " + who + ": " + why
}
