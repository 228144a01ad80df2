package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"orchestrate/internal/queue"
)

// bulkOptions are those of a verb over many jobs.
type bulkOptions struct {
	filterOptions
	filter queue.Filter
	ids    []string
	dryRun bool
	yes    bool
}

func addBulkFlags(a *App, cmd *cobra.Command, o *bulkOptions) {
	addFilterFlags(a, cmd, &o.filterOptions, 0, "at most `n` jobs, the oldest first; 0: no limit", "every event, where no filter is given")
	printsList(cmd)
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "only list the events that would be changed")
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
}

// prepare checks a command line that could mean too much.
func (o *bulkOptions) prepare(a *App, cmd *cobra.Command) (err error) {
	if o.filter, err = o.parse(cmd.Flags(), queue.Now()); err != nil {
		return err
	}
	chosen := len(o.ids) > 0 || !o.filter.IsZero()
	switch {
	case !o.dryRun && (a.output == formatName || a.output == formatTSV):
		return usagef("-o %s lists events, with --dry-run; what was changed is only counted", a.output)
	case !chosen && !o.all:
		return usagef("%s without a filter would take every event; give a filter, or --all", cmd.Name())
	case chosen && o.all:
		return usagef("--all means every event; leave away --all or the filters")
	case !o.yes && !o.dryRun && !a.interactive():
		return fmt.Errorf("%w: there is no terminal to ask on; add --yes, or look first with --dry-run", queue.ErrRefused)
	}
	return nil
}

// bulkVerb is what differs between them.
type bulkVerb struct {
	ask         string // "Requeue"
	jobs        string // what kind of jobs it takes: "dead"
	consequence string
	done        string
	from        []queue.Status
	run         func(context.Context, queue.Filter, queue.BulkOptions) (queue.Bulk, error)
}

func runBulk(ctx context.Context, a *App, q *queue.Queue, o *bulkOptions, v bulkVerb) (err error) {
	if o.filter.Since, o.filter.Until, err = o.window(q.Now()); err != nil {
		return err
	}
	if err := checkRoute(ctx, a, q, o.filter.Route); err != nil {
		return err
	}
	if o.dryRun {
		return dryRun(ctx, a, q, o, v)
	}
	if !o.yes {
		s, err := look(ctx, q, o, v)
		if err != nil {
			return err
		}
		if s.jobs > 0 {
			if err := a.confirm(ctx, fmt.Sprintf("%s %s? %s", v.ask, s.describe(v), v.consequence)); err != nil {
				return err
			}
		}
	}
	p := a.newProgress(v.done + " %d jobs")
	b, err := v.run(ctx, o.filter, queue.BulkOptions{Limit: o.limit, Progress: func(b queue.Bulk) { p.show(b.Changed) }})
	p.clear()
	return endBulk(ctx, a, b, err, v)
}

func endBulk(ctx context.Context, a *App, b queue.Bulk, err error, v bulkVerb) error {
	done := fmt.Sprintf("%s %d", v.done, b.Changed)
	if err != nil && b.Changed == 0 {
		return err
	}
	if a.output == formatTable {
		if err := a.printLine("%s", done); err != nil {
			return err
		}
	} else if err := a.printJSON(b); err != nil {
		return err
	}
	if err == nil && b.Failed > 0 {
		err = fmt.Errorf("%s moved meanwhile; look again and repeat", count(b.Failed, "job"))
	}
	if err != nil {
		return partly(ctx, done, err)
	}
	return nil
}

// survey is what a verb would take.
type survey struct {
	jobs   int
	events []int64 // ascending
	routes map[string]int
}

func look(ctx context.Context, q *queue.Queue, o *bulkOptions, v bulkVerb) (survey, error) {
	s := survey{routes: map[string]int{}}
	err := q.EachJob(ctx, o.filter, v.from, o.limit, func(jobs []queue.Job) error {
		for _, j := range jobs {
			s.jobs++
			s.routes[j.Route]++
			if n := len(s.events); n == 0 || s.events[n-1] != j.EventID {
				s.events = append(s.events, j.EventID)
			}
		}
		return nil
	})
	return s, err
}

// describe counts the jobs by route, most first.
func (s survey) describe(v bulkVerb) string {
	var routes []string
	for r := range s.routes {
		routes = append(routes, r)
	}
	slices.SortFunc(routes, func(a, b string) int {
		if d := s.routes[b] - s.routes[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for i, r := range routes {
		routes[i] = fmt.Sprintf("%s %d", printable(r), s.routes[r])
	}
	return fmt.Sprintf("%s (%s) of %s", count(s.jobs, v.jobs+" job"), strings.Join(routes, ", "), count(len(s.events), "event"))
}

// dryRun lists the events that have a job to take, newest first.
func dryRun(ctx context.Context, a *App, q *queue.Queue, o *bulkOptions, v bulkVerb) error {
	s, err := look(ctx, q, o, v)
	if err != nil {
		return err
	}
	slices.Reverse(s.events)
	l := newEventList(a)
	for ids := range slices.Chunk(s.events, 200) {
		if _, err := q.Each(ctx, queue.Filter{IDs: ids}, 0, l.Add); err != nil {
			return err
		}
	}
	if err := l.Close(); err != nil {
		return err
	}
	if s.jobs == 0 {
		a.note("no events match")
		return nil
	}
	a.note("would %s %s; nothing was changed", strings.ToLower(v.ask), s.describe(v))
	return nil
}

// confirm asks on the terminal; anything but yes is a refusal.
func (a *App) confirm(ctx context.Context, question string) error {
	a.say("%s [y/N] ", question)
	line, err := bufio.NewReader(a.input(ctx)).ReadString('\n')
	if err != nil {
		a.say("\n") // nobody has ended the line
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return fmt.Errorf("%w: not confirmed, nothing was changed", queue.ErrRefused)
}
