package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"orchestrate/internal/queue"
	"orchestrate/internal/store"
)

type restoreOptions struct {
	file string
	yes  bool
}

func newRestoreCmd(a *App) *cobra.Command {
	o := &restoreOptions{}
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Replace the database by a backup; the present one is kept",
		Long: `restore puts a copy of FILE into the place of the SQLite database. FILE is what
orchestrate backup wrote, or a database that nobody has open, with its -wal beside
it. It is checked first, as backup does, and brought up to this program's schema.
Jobs that ran when the backup was made are pending again.

Stop serve and process first: while any process has the database open it is
refused, with 5. The present files are renamed, never removed; it prints to what.
Killed at any moment, it leaves the old database or the new one.

What came after the backup is not in it. GitHub keeps deliveries for 3 days: have
those since then sent again. What ran since then runs again.

Where FILE is the present database itself, damaged, this goes on with what can be
read of it, and ends with 8. It asks on a terminal; elsewhere it wants --yes, if there is a database.`,
		Example: `  orchestrate restore /var/backups/orchestrate-2026-11-25.db
  sudo -u orchestrate orchestrate restore --yes --config /etc/orchestrate/config.yaml /var/backups/orchestrate.db`,
		Args: args(1, 1, "a FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.file = args[0]; o.file == "" {
				return usagef("FILE is empty; name the backup to restore")
			}
			return runRestore(cmd.Context(), a, o)
		},
	}
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	return cmd
}

// restored is what restore prints.
type restored struct {
	Database string `json:"database"`
	File     string `json:"file"`
	store.Restored
}

func runRestore(ctx context.Context, a *App, o *restoreOptions) error {
	so, err := a.storeOptions()
	if err != nil {
		return err
	}
	if err := confirmRestore(ctx, a, o, so.Database); err != nil {
		return err
	}
	p := &phases{app: a}
	done, err := store.Restore(ctx, store.RestoreOptions{Options: so, File: o.file, Progress: p.show})
	p.clear()
	if err != nil {
		return err
	}
	if err := printRestored(a, restored{so.Database, o.file, done}); err != nil {
		return err
	}
	var lost error
	if done.Lost != "" {
		a.note("of %s not all could be read: %s", printable(o.file), queue.Printable(done.Lost))
		lost = fmt.Errorf("%w: what could be read of %s was restored, and not more", queue.ErrDamaged, printable(o.file))
	}
	if done.LastReceivedAt != 0 {
		a.note("its last event was received at %s: have GitHub send again what came later", done.LastReceivedAt)
	}
	return errors.Join(lost, damagedPayloads(done.DamagedPayloads))
}

// confirmRestore asks only where there is something to replace.
func confirmRestore(ctx context.Context, a *App, o *restoreOptions, database string) error {
	if _, err := os.Stat(database); o.yes || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !a.interactive() {
		return fmt.Errorf("%w: there is no terminal to ask on; add --yes", queue.ErrRefused)
	}
	return a.confirm(ctx, fmt.Sprintf("Replace %s by %s? The present files are kept under another name.", store.Shown(database), printable(o.file)))
}

func printRestored(a *App, r restored) error {
	if a.output != formatTable {
		return a.printJSON(r)
	}
	s := fmt.Sprintf("restored %s and %s from %s to %s", count(int(r.Events), "event"), count(int(r.Jobs), "job"), printable(r.File), printable(r.Database))
	if r.TakenBack > 0 {
		s += fmt.Sprintf("; %s that ran then pending again", count(int(r.TakenBack), "job"))
	}
	if r.Kept != "" {
		s += "; the one before is now " + printable(r.Kept)
	}
	return a.printLine("%s", s)
}
