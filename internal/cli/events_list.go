package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"orchestrate/internal/queue"
)

type eventsListOptions struct {
	filterOptions
	filter queue.Filter
	path   string // of the command, to print the next one
}

func newEventsListCmd(a *App) *cobra.Command {
	o := &eventsListOptions{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List events, newest first",
		Long: `list prints the events that match all filters, newest first. A list that was cut
by --limit says so on standard error, with the command for the next page.
` + filterHelp,
		Example: `  orchestrate events list
  orchestrate events list --status dead_letter --repo acme/api --since 1d
  orchestrate events list --event pull_request.opened -o json
  orchestrate events list --jq '.[] | select(.number > 100) | .id'
  orchestrate events list --all -o ndjson > events.ndjson`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.all && cmd.Flags().Changed("limit") {
				return usagef("--all lifts the limit; give --all or --limit %d", o.limit)
			}
			if o.all {
				o.limit = 0
			}
			o.path = cmd.CommandPath()
			if o.filter, err = o.parse(cmd.Flags(), queue.Now()); err != nil {
				return err
			}
			return runEventsList(cmd.Context(), a, o)
		},
	}
	printsList(cmd)
	addFilterFlags(a, cmd, &o.filterOptions, 50, "at most `n` events", "no limit")
	return cmd
}

func runEventsList(ctx context.Context, a *App, o *eventsListOptions) error {
	q, err := a.queue(ctx)
	if err != nil {
		return err
	}
	if o.filter.Since, o.filter.Until, err = o.window(q.Now()); err != nil {
		return err
	}
	if err := checkRoute(ctx, a, q, o.filter.Route); err != nil {
		return err
	}
	l := newEventList(a)
	var last, dead int64
	more, err := q.Each(ctx, o.filter, o.limit, func(e *queue.Event) error {
		last = e.ID
		if dead == 0 && e.NDead > 0 {
			dead = e.ID
		}
		return l.Add(e)
	})
	if err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	o.advise(a, l.n, more, last, dead)
	return nil
}

// advise says what else there is, and what to do about dead letters.
func (o *eventsListOptions) advise(a *App, n int, more bool, last, dead int64) {
	if n == 0 && a.output == formatTable {
		a.note("no events match")
	}
	if more {
		next := append([]string{o.path}, wordsExcept(a.flags, o.filter, "cursor")...)
		a.note("more events match; next page: %s --cursor %d", strings.Join(next, " "), last)
	}
	if dead == 0 {
		return
	}
	where := wordsOf(a.flags, o.filter, "config", "database")
	which := wordsOf(a.flags, o.filter, filterFlags()...)
	if len(which) == 0 {
		which = []string{"--all"}
	}
	a.hint("%s. Requeue: orchestrate events requeue-dead %s   Why: orchestrate events show %s", count(n, "event"),
		strings.Join(append(which, where...), " "), strings.Join(append([]string{itoa(dead)}, where...), " "))
}
