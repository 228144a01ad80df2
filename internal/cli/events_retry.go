package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/spf13/cobra"

	"orchestrate/internal/queue"
)

type eventsRetryOptions struct {
	queue.RetryOptions
	ids []string
}

func newEventsRetryCmd(a *App) *cobra.Command {
	o := &eventsRetryOptions{}
	cmd := &cobra.Command{
		Use:   "retry ID... | -",
		Short: "Run an event's dead and failed jobs again, now",
		Long: `retry makes the dead and failed jobs of an event pending and due now, with all
their retries before them. Jobs that completed stay so, unless --force is given.
--route takes one route alone, and starts it if the event has no job for it.

Of several events each is tried; what can't be requeued is told, and the exit
code is 3 if only some could. - reads IDs from standard input.
` + idHelp,
		Example: `  orchestrate events retry 1842
  orchestrate events retry 1842 --route deploy --force
  orchestrate events list --status dead_letter -o name | orchestrate events retry -`,
		Args: args(1, -1, "the ID of an event, or -"),
		RunE: func(cmd *cobra.Command, ids []string) error {
			o.ids = ids
			if slices.Contains(ids, "-") && len(ids) > 1 {
				return usagef("- reads the IDs from standard input; give - or IDs")
			}
			if err := notEmpty(cmd.Flags(), "route"); err != nil {
				return err
			}
			return runEventsRetry(cmd.Context(), a, o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Route, "route", "", "only this `route`; started, where the event has no job for it")
	f.BoolVar(&o.Force, "force", false, "completed jobs, too")
	f.BoolVar(&o.DryRun, "dry-run", false, "only tell what would be requeued")
	must(cmd.RegisterFlagCompletionFunc("route", completeRoutes(a)))
	return cmd
}

func runEventsRetry(ctx context.Context, a *App, o *eventsRetryOptions) error {
	q, err := a.queue(ctx)
	if err != nil {
		return err
	}
	r := retryRun{app: a, q: q, o: o, seen: map[int64]bool{}}
	if o.ids[0] == "-" {
		words := wordScanner(a.input(ctx))
		err = r.all(ctx, scanned(words), true)
		if wordErr := words.Err(); errors.Is(wordErr, bufio.ErrTooLong) {
			err = errors.Join(err, usagef("standard input: a word is too long for an ID"))
		} else if wordErr != nil {
			err = errors.Join(err, fmt.Errorf("standard input: %w", wordErr))
		}
	} else {
		err = r.all(ctx, slices.Values(o.ids), len(o.ids) > 1)
	}
	if a.output != formatTable {
		err = errors.Join(err, a.printJSON(r.bulk))
	}
	return r.end(ctx, err)
}

func wordScanner(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Split(bufio.ScanWords)
	return s
}

func scanned(s *bufio.Scanner) iter.Seq[string] {
	return func(yield func(string) bool) {
		for s.Scan() && yield(s.Text()) {
		}
	}
}

// retryRun is one run over any number of events. The counts are of jobs; an
// event of which none could move counts as one that failed.
type retryRun struct {
	app   *App
	q     *queue.Queue
	o     *eventsRetryOptions
	bulk  queue.Bulk
	moved int
	seen  map[int64]bool
	first error // the first refusal
}

// all tries each event; a refusal does not keep others from being tried, but a
// database that is away does. With several events a refusal is told at once.
func (r *retryRun) all(ctx context.Context, refs iter.Seq[string], several bool) error {
	for ref := range refs {
		err := r.one(ctx, ref)
		switch {
		case err == nil:
			continue
		case !errors.Is(err, queue.ErrNotFound) && !errors.Is(err, queue.ErrRefused) && !errors.Is(err, queue.ErrAmbiguous):
			return err
		case several:
			r.app.report(err, false)
		}
		r.bulk.Matched++
		r.bulk.Failed++
		if r.first == nil {
			r.first = err
		}
	}
	return nil
}

func (r *retryRun) one(ctx context.Context, ref string) error {
	id, err := r.q.Resolve(ctx, ref)
	if err != nil {
		return err
	}
	if r.seen[id] {
		return nil // named twice
	}
	r.seen[id] = true
	n, err := r.q.Retry(ctx, id, r.o.RetryOptions)
	if err != nil {
		return err
	}
	r.bulk.Matched += n
	done := "would requeue"
	if !r.o.DryRun {
		r.bulk.Changed += n
		done = "requeued"
	}
	r.moved++
	if r.app.output == formatTable {
		return r.app.printLine("%s %s of event %d", done, count(n, "job"), id)
	}
	return nil
}

// end is the error that the whole run comes to; err is what broke it off.
func (r *retryRun) end(ctx context.Context, err error) error {
	left := fmt.Errorf("%s not requeued", count(r.bulk.Failed, "event"))
	switch {
	case r.moved == 0 && err != nil:
		return err
	case r.moved == 0 && r.bulk.Failed == 1:
		return r.first
	case r.moved == 0 && r.bulk.Failed > 0:
		return fmt.Errorf("%w; the first: %w", left, r.first)
	case err != nil:
		return r.partly(ctx, err)
	case r.bulk.Failed > 0:
		return r.partly(ctx, left)
	case r.moved == 0:
		r.app.note("no IDs on standard input: nothing to do")
	}
	return nil
}

func (r *retryRun) partly(ctx context.Context, rest error) error {
	return partly(ctx, "requeued "+count(r.bulk.Changed, "job")+" of "+count(r.moved, "event"), rest)
}
