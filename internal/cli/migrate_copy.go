package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"orchestrate/internal/config"
	"orchestrate/internal/queue"
	"orchestrate/internal/store"
)

type migrateCopyOptions struct {
	from, to string
	dryRun   bool
}

func newMigrateCopyCmd(a *App) *cobra.Command {
	o := &migrateCopyOptions{}
	cmd := &cobra.Command{
		Use:   "copy FROM TO",
		Short: "Move the queue to another database",
		Long: `copy moves a queue between SQLite and PostgreSQL, either way. FROM and TO are each
a SQLite file or a postgres:// URL; TO is created, or is an empty database.

While a worker lives on FROM, as serve and process do, it only copies ahead: FROM
is read in short pages and goes on as before, TO catches up, and the exit code is
3. Once the last worker has been stopped, the same command makes the move: it
closes FROM to everybody for good, writes what differs, reads both databases back
and compares them, and opens TO. So the time without a service is that of the last
run; what was copied ahead is not written again.

Until then TO is closed: every command refuses to work on half a copy. Broken off
anywhere, by a signal or a crash, the copy goes on when the same command is given
again. Where the databases turn out to differ the exit code is 1, and TO stays
closed. To go on with FROM after all: orchestrate migrate reopen.

The table tells the rows of both sides, and the SHA-256 that both yield.`,
		Example: `  orchestrate migrate copy /var/lib/orchestrate/orchestrate.db postgres://orchestrate@db/orchestrate
  orchestrate migrate copy postgres://orchestrate@db/orchestrate new.db --dry-run`,
		Args: args(2, 2, "two databases, FROM and TO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("database") {
				return usagef("copy takes both databases as arguments, FROM and TO; leave --database away")
			}
			o.from, o.to = args[0], args[1]
			return runMigrateCopy(cmd.Context(), a, o)
		},
	}
	printsList(cmd)
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "only count the rows; no database is written to or made")
	return cmd
}

func runMigrateCopy(ctx context.Context, a *App, o *migrateCopyOptions) error {
	from, err := a.databaseArgument("FROM", o.from)
	if err != nil {
		return err
	}
	to, err := a.databaseArgument("TO", o.to)
	if err != nil {
		return err
	}
	p := &phases{app: a}
	done, err := store.Copy(ctx, store.CopyOptions{From: from, To: to, DryRun: o.dryRun, Progress: p.show})
	p.clear()
	if len(done.Tables) > 0 && (err == nil || ctx.Err() == nil) {
		if err := printCopied(a, done); err != nil {
			return err
		}
	}
	shownFrom, shownTo := store.Shown(from.Database), store.Shown(to.Database)
	switch {
	case err != nil && done.Begun && ctx.Err() != nil:
		return partly(ctx, "the copy is not finished; the same command goes on with it", err)
	case err != nil:
		return err
	case o.dryRun:
		a.note("would copy these rows%s; nothing was written", stillThere(done, shownFrom))
	case len(done.Living) > 0:
		w := done.Living[0]
		return partly(ctx, "copied ahead", fmt.Errorf("worker %s (%s, pid %d) lives on %s: stop serve and process there, then run the same command again to make the move",
			printable(w.ID), printable(w.Host), w.PID, shownFrom))
	default:
		a.note("moved to %s: both sides were read back and are equal; %s is closed. Name the new one as database in the configuration, and start serve", shownTo, shownFrom)
	}
	return nil
}

// stillThere tells of a dry run what a move has to wait for.
func stillThere(done store.Copied, from string) string {
	if len(done.Living) == 0 {
		return ""
	}
	return fmt.Sprintf("; the move waits until no worker lives on %s (%d now)", from, len(done.Living))
}

// databaseArgument is a database that a command line names as --database does.
func (a *App) databaseArgument(name, value string) (store.Options, error) {
	o, err := a.storeOptions()
	if err != nil {
		return o, err
	}
	if o.Database, err = config.ParseDatabase(value); err != nil {
		return o, usagef("%s: %s", name, err.Error())
	}
	return o, nil
}

// phases is the progress of what is done in several steps.
type phases struct {
	app   *App
	doing string
	p     *progress
}

func (p *phases) show(doing string, rows int64) {
	if doing != p.doing {
		p.clear()
		p.doing, p.p = doing, p.app.newProgress(doing+": %d")
	}
	p.p.show(int(rows))
}

func (p *phases) clear() {
	if p.p != nil {
		p.p.clear()
	}
}

// copiedRow is a table of a copy as documents have it.
type copiedRow struct {
	store.CopiedTable
	Equal *bool `json:"equal"` // null: not read back
}

func printCopied(a *App, done store.Copied) error {
	l := newList(a, narrow(columns("TABLE", "ROWS_FROM", "ROWS_TO", "DIGEST"), "DIGEST"), func(t copiedRow) []string {
		digest := string(t.DigestFrom)
		if t.Equal != nil && !*t.Equal {
			digest = "differs"
		}
		return []string{t.Name, itoa(t.RowsFrom), itoa(t.RowsTo), digest}
	})
	for _, t := range done.Tables {
		row := copiedRow{CopiedTable: t}
		if t.DigestFrom != "" {
			equal := t.Equal()
			row.Equal = &equal
		}
		if err := l.Add(row); err != nil {
			return err
		}
	}
	return l.Close()
}

func newMigrateReopenCmd(a *App) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "reopen",
		Short: "Take back that the queue moves to another database",
		Long: `reopen opens a database that migrate copy has closed because its queue moves to
another. If that one is whole and was worked on since, events received there are
not here, and jobs that ran there run here again: the two queues go apart. It asks
on a terminal; elsewhere it wants --yes.`,
		Example: "  orchestrate migrate reopen --database /var/lib/orchestrate/orchestrate.db",
		Args:    args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes && !a.interactive() {
				return fmt.Errorf("%w: there is no terminal to ask on; add --yes", queue.ErrRefused)
			}
			return runMigrateReopen(cmd.Context(), a, yes)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func runMigrateReopen(ctx context.Context, a *App, yes bool) error {
	o, err := a.storeOptions()
	if err != nil {
		return err
	}
	to, err := store.Moved(ctx, o)
	if err != nil {
		return err
	}
	name := store.Shown(o.Database)
	if to != "" && !yes {
		if err := a.confirm(ctx, fmt.Sprintf("Open %s again, though its queue moves to %s? Jobs may run on both.", name, to)); err != nil {
			return err
		}
	}
	if err := store.Reopen(ctx, o); err != nil {
		return err
	}
	if a.output == formatTable {
		return a.printLine("reopened %s", name)
	}
	return a.printJSON(struct {
		Database string `json:"database"`
		MovedTo  string `json:"moved_to"`
	}{name, to})
}
