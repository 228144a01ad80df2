package cli

import (
	"context"

	"github.com/spf13/cobra"

	"orchestrate/internal/queue"
)

func newEventsRequeueDeadCmd(a *App) *cobra.Command {
	o := &bulkOptions{}
	cmd := &cobra.Command{
		Use:   "requeue-dead",
		Short: "Run the dead jobs of many events again",
		Long: `requeue-dead makes the dead jobs of all events that match pending and due now. It
takes the dead letters that there are when it begins: what dies again is not
fed again. Without a filter it wants --all. It asks on a terminal; elsewhere it
wants --yes.
` + filterHelp,
		Example: `  orchestrate events requeue-dead --repo acme/api --since 1d
  orchestrate events requeue-dead --route deploy --dry-run
  orchestrate events requeue-dead --all --yes`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.prepare(a, cmd); err != nil {
				return err
			}
			return runEventsRequeueDead(cmd.Context(), a, o)
		},
	}
	addBulkFlags(a, cmd, o)
	return cmd
}

func runEventsRequeueDead(ctx context.Context, a *App, o *bulkOptions) error {
	q, err := a.queue(ctx)
	if err != nil {
		return err
	}
	return runBulk(ctx, a, q, o, bulkVerb{
		ask: "Requeue", jobs: "dead", done: "requeued", consequence: "Their handlers will run again.",
		from: []queue.Status{queue.StatusDeadLetter}, run: q.RequeueDead,
	})
}
