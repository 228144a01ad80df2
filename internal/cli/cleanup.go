package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
	"orchestrate/internal/store"
)

type cleanupOptions struct {
	olderThan   time.Duration
	includeDead bool
	batch       int
	dryRun      bool
}

func newCleanupCmd(a *App) *cobra.Command {
	o := &cleanupOptions{}
	cmd := &cobra.Command{
		Use:   "cleanup --older-than AGE",
		Short: "Delete old completed events",
		Long: `cleanup deletes events that were received longer ago than AGE and whose jobs have
all completed; with --include-dead dead letters, too. What has not finished is
never deleted. It never asks: the age is the consent.

Of an event younger than 7 days the delivery id is kept, so that a redelivery of
it is still known as a duplicate; a later cleanup forgets it.

At most once a day it first checks the SQLite file, for a minute at most: its
structure, and stored payloads against their digests, each time from where it
ended. Damage ends it with 8; from a damaged structure nothing is deleted.

It works on a full disk: it first gives up the room that serve keeps for it beside
the database, and takes that again at its end.`,
		Example: `  orchestrate cleanup --older-than 30d
  orchestrate cleanup --older-than 90d --include-dead --dry-run`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !cmd.Flags().Changed("older-than"):
				return usagef("--older-than is missing: how old must an event be, as in --older-than 30d?")
			case o.batch < 1 || o.batch > maxBatch:
				return usagef("--batch %d: want 1 to %d; each batch makes receiving wait", o.batch, maxBatch)
			}
			return runCleanup(cmd.Context(), a, o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.Var((*config.DurationValue)(&o.olderThan), "older-than", "least `age` of what is deleted, as 30d, 12h or 2w")
	f.Lookup("older-than").DefValue = "" // there is none
	f.BoolVar(&o.includeDead, "include-dead", false, "dead letters, too")
	f.IntVar(&o.batch, "batch", 200, "events in one transaction")
	f.BoolVar(&o.dryRun, "dry-run", false, "only count")
	return cmd
}

// maxBatch keeps the transactions of a cleanup short: senders wait for them.
const maxBatch = 1000

func runCleanup(ctx context.Context, a *App, o *cleanupOptions) error {
	restore, err := a.freeReserve(ctx, o.dryRun)
	if err != nil {
		return err
	}
	defer restore()
	q, err := a.queue(ctx)
	if err != nil {
		return err
	}
	p := a.newProgress("cleaned %d events")
	res, err := q.Cleanup(ctx, queue.CleanupOptions{
		Before: q.Now().Add(-o.olderThan), IncludeDead: o.includeDead, Batch: o.batch, DryRun: o.dryRun,
	}, func(r queue.CleanupResult) { p.show(r.Changed) })
	p.clear()
	if err != nil && (o.dryRun || res.Changed == 0) {
		return err
	}
	done := cleaned(res, o)
	if a.output != formatTable {
		if err := a.printJSON(res); err != nil {
			return err
		}
	} else if err := a.printLine("%s", done); err != nil {
		return err
	}
	if err != nil {
		return partly(ctx, done, err)
	}
	if res.State == queue.CheckUnfinished {
		a.note("the check of the structure took too long and was broken off; orchestrate backup makes all of it, on the copy")
	}
	return damagedPayloads(res.DamagedPayloads)
}

// damagedPayloads is ErrDamaged with the events whose body is not what was signed.
func damagedPayloads(ids []int64) error {
	const most = 20
	if len(ids) == 0 {
		return nil
	}
	words := make([]string, 0, most+1)
	for i, id := range ids {
		if i == most {
			words = append(words, fmt.Sprintf("and %d more", len(ids)-most))
			break
		}
		words = append(words, itoa(id))
	}
	return fmt.Errorf("%w: the payload of %s is not what was signed: %s; a backup from before may have it",
		queue.ErrDamaged, count(len(ids), "event"), strings.Join(words, ", "))
}

// freeReserve makes room for what a cleanup writes. What it returns takes the
// room again.
func (a *App) freeReserve(ctx context.Context, dryRun bool) (restore func(), err error) {
	w, err := a.wire()
	if err != nil {
		return nil, err
	}
	database := w.config.DatabaseURL()
	if dryRun {
		return func() {}, nil
	}
	keep, err := store.FreeReserve(ctx, database)
	return func() {
		var err error
		if a.store != nil {
			err = a.store.Close() // with what is left of the room given back
		}
		if err = errors.Join(err, keep()); err != nil {
			a.note("%s; the next cleanup and the next start of serve try again", err)
		}
	}, err
}

func cleaned(r queue.CleanupResult, o *cleanupOptions) string {
	verb, what := "deleted", "completed event"
	if o.dryRun {
		verb = "would delete"
	}
	if o.includeDead {
		what = "completed or dead event"
	}
	s := fmt.Sprintf("%s %s received before %s; kept %s", verb, count(r.Deleted+r.Purged, what),
		r.Before.Std().Format(time.RFC3339), count(r.Dead, "dead letter"))
	if r.Open > 0 {
		s += fmt.Sprintf(" and %d unfinished", r.Open)
	}
	if r.Forgot > 0 {
		s += "; forgot " + count(r.Forgot, "delivery id")
	}
	if !o.dryRun {
		s += "; " + humanize.Bytes(uint64(max(0, r.Freed))) + " freed"
	}
	return s
}
