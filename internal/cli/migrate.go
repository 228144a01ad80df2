package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"orchestrate/internal/queue"
	"orchestrate/internal/store"
)

func newMigrateCmd(a *App) *cobra.Command {
	cmd := newGroup("migrate", "Bring the database's schema up to date",
		`migrate creates the database where there is none, and applies the steps of the
schema that it lacks; it is the same as migrate up. serve and process do so by
themselves when they start. A schema newer than this program is refused. To move
the queue to another database, see migrate copy.`)
	cmd.Example = `  orchestrate migrate
  orchestrate migrate status
  orchestrate migrate down --to 1
  orchestrate migrate copy orchestrate.db postgres://orchestrate@db/orchestrate`
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return runMigrateUp(cmd.Context(), a) }
	cmd.AddCommand(newMigrateUpCmd(a), newMigrateStatusCmd(a), newMigrateDownCmd(a), newMigrateCopyCmd(a), newMigrateReopenCmd(a))
	return cmd
}

func newMigrateUpCmd(a *App) *cobra.Command {
	return &cobra.Command{
		Use:     "up",
		Short:   "Create the database, or apply what its schema lacks",
		Long:    "up creates the database where there is none, and applies the steps that it lacks.",
		Example: "  orchestrate migrate up --database /var/lib/orchestrate/orchestrate.db",
		Args:    args(0, 0, ""),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runMigrateUp(cmd.Context(), a) },
	}
}

func runMigrateUp(ctx context.Context, a *App) error {
	o, err := a.storeOptions()
	if err != nil {
		return err
	}
	applied, err := store.MigrateUp(ctx, o)
	if err != nil {
		return err
	}
	return a.printSteps(applied, "applied", "the schema is up to date")
}

// printSteps tells what was done to the schema, or that there was nothing.
func (a *App) printSteps(steps []store.Migration, done, nothing string) error {
	if a.output == formatTable {
		if len(steps) == 0 {
			return a.printLine("%s", nothing)
		}
		for _, s := range steps {
			if err := a.printLine("%s %s", done, s.Name); err != nil {
				return err
			}
		}
		return nil
	}
	l := newList[store.Migration](a, nil, nil)
	for _, s := range steps {
		if err := l.Add(s); err != nil {
			return err
		}
	}
	return l.Close()
}

func newMigrateStatusCmd(a *App) *cobra.Command {
	var exitCode bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "List the steps of the schema, and which are applied",
		Long: `status lists the steps of the schema that this program knows and when each was
applied. With --exit-code it ends with 7 unless all are.`,
		Example: `  orchestrate migrate status
  orchestrate migrate status --exit-code || orchestrate migrate`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runMigrateStatus(cmd.Context(), a, exitCode) },
	}
	printsList(cmd)
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "end with 7 unless every step is applied")
	return cmd
}

func runMigrateStatus(ctx context.Context, a *App, exitCode bool) error {
	o, err := a.storeOptions()
	if err != nil {
		return err
	}
	steps, _, err := store.MigrationStatus(ctx, o)
	if err != nil {
		return err
	}
	now, pending := queue.Now(), 0
	l := newList(a, columns("VERSION", "NAME", "APPLIED"), func(m store.Migration) []string {
		applied := "pending"
		if m.AppliedAt != 0 {
			applied = a.moment(m.AppliedAt, now)
		}
		return []string{itoa(m.Version), m.Name, applied}
	})
	for _, s := range steps {
		if s.AppliedAt == 0 {
			pending++
		}
		if err := l.Add(s); err != nil {
			return err
		}
	}
	if err := l.Close(); err != nil {
		return err
	}
	switch {
	case pending == 0:
		return nil
	case exitCode:
		return fmt.Errorf("%w: %s to apply; run: orchestrate migrate", queue.ErrSchema, count(pending, "step"))
	}
	a.note("%s to apply; run: orchestrate migrate", count(pending, "step"))
	return nil
}

type migrateDownOptions struct {
	to  int64
	yes bool
}

func newMigrateDownCmd(a *App) *cobra.Command {
	o := &migrateDownOptions{}
	cmd := &cobra.Command{
		Use:   "down --to N",
		Short: "Undo steps of the schema, with the data they hold",
		Long: `down undoes the steps above version N, newest first, for a return to an older
program. What the undone steps hold is lost: --to 0 deletes every event. Stop
serve and process first. It asks on a terminal; elsewhere it wants --yes.`,
		Example: "  orchestrate migrate down --to 1",
		Args:    args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !cmd.Flags().Changed("to"):
				return usagef("--to is missing: the version to return to; see: orchestrate migrate status")
			case o.to < 0:
				return usagef("--to %d: want 0 or the version of a step; see: orchestrate migrate status", o.to)
			case !o.yes && !a.interactive():
				return fmt.Errorf("%w: there is no terminal to ask on; add --yes", queue.ErrRefused)
			}
			return runMigrateDown(cmd.Context(), a, o)
		},
	}
	f := cmd.Flags()
	f.Int64Var(&o.to, "to", 0, "`version` to return to")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	return cmd
}

func runMigrateDown(ctx context.Context, a *App, o *migrateDownOptions) error {
	so, err := a.storeOptions()
	if err != nil {
		return err
	}
	if !o.yes {
		question := fmt.Sprintf("Undo every step above version %d of %s? What they hold is lost.", o.to, store.Shown(so.Database))
		if err := a.confirm(ctx, question); err != nil {
			return err
		}
	}
	undone, err := store.MigrateDown(ctx, so, o.to)
	if err != nil {
		return err
	}
	return a.printSteps(undone, "undid", fmt.Sprintf("nothing is above version %d", o.to))
}
