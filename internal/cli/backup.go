package cli

import (
	"context"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"orchestrate/internal/store"
)

type backupOptions struct {
	file  string
	force bool
}

func newBackupCmd(a *App) *cobra.Command {
	o := &backupOptions{}
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy the database into a file, while it is in use",
		Long: `backup writes the SQLite database, as it is at one moment, to FILE. serve, process
and other commands go on meanwhile. The copy is read back: its structure, the
numbers of events and jobs, and each payload against its digest. Only then it gets
its name; after an error, Ctrl-C or a crash FILE is not there, or still the one
that was.

Where SQLite finds the structure damaged no FILE is written. Where only payloads
are not what was signed it is, and the exit code is 8. On PostgreSQL take pg_dump.
FILE holds every payload: it is for its owner alone (0600), as the database is.`,
		Example: `  orchestrate backup /var/backups/orchestrate-$(date +%F).db
  orchestrate backup --force /mnt/backups/orchestrate.db`,
		Args: args(1, 1, "a FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.file = args[0]; o.file == "" {
				return usagef("FILE is empty; name the file to write")
			}
			return runBackup(cmd.Context(), a, o)
		},
	}
	cmd.Flags().BoolVar(&o.force, "force", false, "replace FILE if it is there")
	return cmd
}

// backedUp is what backup prints.
type backedUp struct {
	Database string `json:"database"`
	File     string `json:"file"`
	store.Snapshot
}

func runBackup(ctx context.Context, a *App, o *backupOptions) error {
	so, err := a.storeOptions()
	if err != nil {
		return err
	}
	p := &phases{app: a}
	snap, err := store.Backup(ctx, store.BackupOptions{Options: so, File: o.file, Force: o.force, Progress: p.show})
	p.clear()
	if err != nil {
		return err
	}
	if a.output != formatTable {
		err = a.printJSON(backedUp{so.Database, o.file, snap})
	} else {
		err = a.printLine("backed up %s and %s to %s (%s)", count(int(snap.Events), "event"), count(int(snap.Jobs), "job"),
			printable(o.file), humanize.Bytes(uint64(max(0, snap.Bytes))))
	}
	if err != nil {
		return err
	}
	return damagedPayloads(snap.DamagedPayloads)
}
