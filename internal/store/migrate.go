package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/migrations"

	"github.com/pressly/goose/v3"
)

// Migration is one step of the schema.
type Migration struct {
	Version   int64      `json:"version"`
	Name      string     `json:"name"`
	AppliedAt queue.Time `json:"applied_at"` // zero: pending
}

// schemaVersion is the version that this program is built for.
func (d dialect) schemaVersion() (int64, error) {
	names, err := fs.Glob(migrations.Files, d.dir+"/*.sql")
	if err != nil || len(names) == 0 {
		return 0, fmt.Errorf("embedded migrations: %d files: %w", len(names), err)
	}
	return goose.NumericComponent(names[len(names)-1])
}

// MigrateUp creates the database where there is none and applies what is
// pending; it returns what it applied.
func MigrateUp(ctx context.Context, o Options) ([]Migration, error) {
	var applied []Migration
	_, err := migrate(ctx, o, func(ctx context.Context, p *goose.Provider) error {
		results, err := p.Up(ctx)
		applied = fromResults(results)
		return err
	})
	return applied, err
}

// MigrateDown undoes the steps above a version, newest first, with the data
// that they hold; it returns what it undid.
func MigrateDown(ctx context.Context, o Options, to int64) ([]Migration, error) {
	if err := o.mustExist(); err != nil {
		return nil, err
	}
	if to > 0 {
		if err := refuseMarked(ctx, o); err != nil {
			return nil, err
		}
	}
	var undone []Migration
	_, err := migrate(ctx, o, func(ctx context.Context, p *goose.Provider) error {
		results, err := p.DownTo(ctx, to)
		undone = fromResults(results)
		return err
	})
	return undone, err
}

func fromResults(results []*goose.MigrationResult) []Migration {
	out := make([]Migration, len(results))
	for i, r := range results {
		out[i] = Migration{Version: r.Source.Version, Name: filepath.Base(r.Source.Path), AppliedAt: queue.Now()}
	}
	return out
}

// MigrationStatus lists the steps that this program knows, and the version that
// the database has.
func MigrationStatus(ctx context.Context, o Options) (steps []Migration, version int64, err error) {
	if err := o.mustExist(); err != nil {
		return nil, 0, err
	}
	version, err = migrate(ctx, o, func(ctx context.Context, p *goose.Provider) error {
		status, err := p.Status(ctx)
		for _, m := range status {
			steps = append(steps, Migration{
				Version: m.Source.Version, Name: filepath.Base(m.Source.Path), AppliedAt: queue.At(m.AppliedAt),
			})
		}
		return err
	})
	return steps, version, err
}

// migrate runs fn on a database under a lock, and returns the version it then
// has.
func migrate(ctx context.Context, o Options, fn func(context.Context, *goose.Provider) error) (int64, error) {
	if o = o.withDefaults(); isPostgres(o.Database) {
		return migratePostgres(ctx, o, fn)
	}
	return migrateSQLite(ctx, o, fn)
}

// migrateSQLite creates the file if need be.
func migrateSQLite(ctx context.Context, o Options, fn func(context.Context, *goose.Provider) error) (version int64, err error) {
	if err := checkName(realPath(o.Database)); err != nil {
		return 0, err
	}
	useOFDLocks(ctx, o.Log)
	defer func() {
		if err != nil {
			err = o.failed(err)
		}
		if errors.Is(err, queue.ErrBroken) {
			mark(o.Database)
		}
	}()
	unlock, err := lockMigrations(ctx, o)
	if err != nil {
		return 0, err
	}
	defer unlock()
	leave, err := enter(ctx, o)
	if err != nil {
		return 0, err
	}
	defer leave()
	if err := settleWAL(ctx, o); err != nil {
		return 0, err
	}
	if err := createFile(ctx, o); err != nil {
		return 0, err
	}
	db, err := sql.Open("sqlite", dsn(o.Database, o.Timeout))
	if err != nil {
		return 0, err
	}
	defer func() { err = closeTrusted(db, o.Database, err) }()
	db.SetMaxOpenConns(1)
	return sqliteDialect.step(ctx, db, fn)
}

// step runs fn on a database that is not newer than this program.
func (d dialect) step(ctx context.Context, db *sql.DB, fn func(context.Context, *goose.Provider) error) (int64, error) {
	files, err := fs.Sub(migrations.Files, d.dir)
	if err != nil {
		return 0, err
	}
	p, err := goose.NewProvider(d.goose, db, files, goose.WithTableName(string(d.versions)))
	if err != nil {
		return 0, err
	}
	if err := d.refuseNewer(ctx, db); err != nil {
		return 0, err
	}
	if err := fn(ctx, p); err != nil {
		return 0, fmt.Errorf("migrate: %w", classify(err))
	}
	return d.version(ctx, db)
}

const migrateSuffix = ".migrate-lock"

// lockMigrations keeps two processes from migrating at once. The kernel frees
// the lock when its holder dies. It is a file beside the database: nothing but
// SQLite may open those.
func lockMigrations(ctx context.Context, o Options) (unlock func(), err error) {
	if err := makeStateDir(o); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, max(o.Timeout, time.Second))
	defer cancel()
	lock, err := lockBeside(o.Database+migrateSuffix, realPath(o.Database))
	if err != nil {
		return nil, err
	}
	if _, err := lock.TryLockContext(ctx, lockTick); err != nil {
		return nil, notLocked(lock.Path(), err)
	}
	return func() { _ = lock.Unlock() }, nil // the kernel would do it, too
}

// creation makes a database ours by one commit: auto_vacuum writes the first page,
// and what a power loss leaves between that and application_id would be another
// program's.
var creation = []statement{
	"PRAGMA page_size=" + digits(pageSize),
	"BEGIN",
	"PRAGMA auto_vacuum=INCREMENTAL",
	"PRAGMA application_id=" + digits(applicationID),
	"COMMIT",
	"PRAGMA journal_mode=WAL",
}

// createFile makes an empty database with what can be set only then, by
// statements in this order on one connection: the driver sorts the pragmas of a
// DSN by name, and page_size would stay as it is.
func createFile(ctx context.Context, o Options) (err error) {
	f, err := os.OpenFile(o.Database, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil { // SQLite has not opened it yet: no lock is lost
		return err
	}
	db, err := sql.Open("sqlite", "file:"+dsnPath(o.Database)+fmt.Sprintf("?_pragma=busy_timeout(%d)", o.Timeout.Milliseconds()))
	if err != nil {
		return err
	}
	defer func() { err = closeTrusted(db, o.Database, err) }()
	db.SetMaxOpenConns(1)
	// Not the size of the file: a creation that the power ended may be undone by this.
	pages, err := one[int64](ctx, db, "PRAGMA page_count")
	if err != nil {
		return err
	}
	statements := []statement{"PRAGMA journal_mode=WAL"} // a copy by VACUUM INTO is not in that mode
	if pages == 0 {
		statements = creation
		err = syncDirs(filepath.Dir(o.Database))
	} else {
		err = checkOurs(ctx, db)
	}
	if err != nil {
		return err
	}
	for _, s := range statements {
		if _, err := exec(ctx, db, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// syncDirs makes the names of a new database and of the directories that it is in
// last: an fsync of a file does not keep its name, and SQLite's own of a directory
// reaches the one that holds the WAL. Who made the directories, and when, can't be
// told, so it goes on to the root. A directory that this user may enter only, or
// that its filesystem doesn't sync, is passed by.
func syncDirs(dir string) error {
	if runtime.GOOS == "windows" { // a directory can't be opened for that
		return nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for ; ; dir = filepath.Dir(dir) {
		err := syncDir(dir)
		if err != nil && !isNoSync(err) {
			return fmt.Errorf("sync directory %s: %w", dir, syncFailure(err))
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // G304: the operator names it
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// pageSize in bytes: 28 % faster than the default, 4096.
const pageSize = 8192

// applicationID marks a file as ours ("orch"): nothing is ever written to
// another program's database.
const applicationID = 0x6f726368

func checkOurs(ctx context.Context, q querier) error {
	id, err := one[int64](ctx, q, "PRAGMA application_id")
	if err != nil {
		return classify(err)
	}
	if id != applicationID {
		return fmt.Errorf("%w: it is the database of another program; name another file with --database", queue.ErrUnavailable)
	}
	return nil
}

// CheckSchema implements queue.Store. A database that a copy has closed is
// ErrUnavailable.
func (s *shared) CheckSchema(ctx context.Context) error {
	if err := s.checkVersion(ctx); err != nil {
		return err
	}
	return refuseClosed(ctx, s.reads)
}

// check is CheckSchema for who opens a database.
func (s *shared) check(ctx context.Context, o Options) error {
	if o.copying {
		return s.checkVersion(ctx)
	}
	return s.CheckSchema(ctx)
}

func (s *shared) checkVersion(ctx context.Context) error {
	got, err := s.version(ctx, s.reads)
	if err != nil {
		return err
	}
	return s.compareVersion(got)
}

func (d dialect) compareVersion(got int64) error {
	want, err := d.schemaVersion()
	switch {
	case err != nil:
		return err
	case got > want:
		return fmt.Errorf("%w: the database has version %d, this program knows %d; use the newer program", queue.ErrSchema, got, want)
	case got < want:
		return schemaError{got, want}
	}
	return nil
}

// schemaError is ErrSchema of a database that is older than this program.
type schemaError struct{ got, want int64 }

func (e schemaError) Error() string {
	return fmt.Sprintf("%s: the database has version %d, this program needs %d; run: orchestrate migrate", queue.ErrSchema, e.got, e.want)
}

func (e schemaError) Unwrap() error { return queue.ErrSchema }

func (d dialect) refuseNewer(ctx context.Context, q querier) error {
	got, err := d.version(ctx, q)
	if err != nil {
		return err
	}
	if want, err := d.schemaVersion(); err != nil || got <= want {
		return err
	}
	return d.compareVersion(got)
}

// version is 0 for a database that was never migrated.
func (d dialect) version(ctx context.Context, q querier) (int64, error) {
	n, err := one[int64](ctx, q, d.hasVersions)
	if err != nil || n == 0 {
		return 0, classify(err)
	}
	v, err := one[int64](ctx, q, "SELECT coalesce(max(version_id), 0) FROM "+d.versions+" WHERE is_applied")
	return v, classify(err)
}
