package store

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strings"
	"time"

	"orchestrate/internal/queue"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pressly/goose/v3"
)

// Options say which database to open, and how.
type Options struct {
	// Database is the path of a SQLite file, or a URL: postgres://… or
	// postgresql://…, which libpq's variables complete.
	Database string
	// Create makes a SQLite file, and brings an older schema up to date. Without
	// it a missing file is ErrUnavailable and an older schema ErrSchema.
	Create bool
	// Timeout is how long to wait for a lock that another process holds (on a
	// server half of it for a row), and for a connection to a server; 0: 10 s.
	Timeout time.Duration
	Log     *slog.Logger

	copying bool // opens what a copy has closed
}

func (o Options) withDefaults() Options {
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Open opens a database. Its errors are ErrUnavailable, with the database and
// what to do, and ErrSchema.
func Open(ctx context.Context, o Options) (queue.Store, error) {
	// A typed nil would be a store that is not nil.
	if isPostgres(o.Database) {
		s, err := openPostgres(ctx, o)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	s, err := openSQLite(ctx, o)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func isPostgres(database string) bool {
	scheme, _, isURL := strings.Cut(database, "://")
	return isURL && (scheme == "postgres" || scheme == "postgresql")
}

// Shown names a database where people read it: without its password.
func Shown(database string) string {
	if isPostgres(database) {
		return shownURL(database)
	}
	return database
}

// dialect is what the two databases want told differently, beside their schema
// and the clauses that postgres.go puts into the slots of the SQL.
type dialect struct {
	dir      string // of its migrations
	goose    goose.Dialect
	versions statement // the table of applied migrations
	// hasVersions counts that table: a database that was never migrated has none.
	hasVersions statement
	size        statement // bytes on disk

	// closing keeps all others from writing, once those that write have ended;
	// opening takes it back.
	closing, opening []statement
	lastID           statement // the highest id ever given to an event; 0: none
	setLastID        []statement
}

var sqliteDialect = dialect{
	dir: "sqlite", goose: goose.DialectSQLite3, versions: "goose_db_version",
	hasVersions: "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'goose_db_version'",
	size:        "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
	closing: sqliteFence(`CREATE TRIGGER %[1]s_closed_%[2]s BEFORE %[2]s ON %[1]s
		WHEN EXISTS (SELECT 1 FROM webhook_copies WHERE closed = 1) BEGIN SELECT RAISE(ABORT, 'closed by migrate copy'); END`),
	opening: sqliteFence(`DROP TRIGGER %[1]s_closed_%[2]s`),
	lastID:  `SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'webhook_events'), 0)`,
	setLastID: []statement{
		`DELETE FROM sqlite_sequence WHERE name = 'webhook_events' AND seq < $1`,
		`INSERT INTO sqlite_sequence (name, seq) SELECT 'webhook_events', $1
			WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'webhook_events')`,
	},
}

// The table has a name of its own where a database may be shared: another
// program in it may use goose, too.
var postgresDialect = dialect{
	dir: "postgres", goose: goose.DialectPostgres, versions: "orchestrate_schema",
	hasVersions: "SELECT count(*) FROM pg_catalog.pg_class WHERE oid = to_regclass('orchestrate_schema')",
	size: `SELECT coalesce(sum(pg_total_relation_size(to_regclass(name))), 0)::bigint FROM (VALUES ('webhook_events'),
		('webhook_payloads'), ('webhook_jobs'), ('webhook_attempts'), ('workers'), ('webhook_commits')) AS t (name)`,
	closing: postgresFence(`CREATE TRIGGER webhook_closed BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s
		FOR EACH STATEMENT EXECUTE FUNCTION webhook_closed()`),
	opening: postgresFence(`DROP TRIGGER webhook_closed ON %s`),
	lastID:  `SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('webhook_events', 'id')::regclass), 0)`,
	setLastID: []statement{`SELECT setval(s.name, greatest($1, coalesce(pg_sequence_last_value(s.name), 1)))
		FROM (SELECT pg_get_serial_sequence('webhook_events', 'id')::regclass AS name) s WHERE $1 > 0`},
}

// shared is what both databases do alike: reads, and operations that a runner
// makes transactions of.
type shared struct {
	reads querier
	clock func() queue.Time
	runner
	dialect
}

// Now implements queue.Store.
func (s *shared) Now() queue.Time { return s.clock() }

// runner runs an operation in a transaction and returns once the commit has;
// its errors are classified.
type runner interface {
	run(o *op) error
}

// op is one write. fn may be called twice, and must then do the same; what it
// did before has been rolled back, unless inDoubt is set.
type op struct {
	ctx    context.Context // the caller's: an op that nobody waits for is skipped
	fn     func(context.Context, querier) error
	size   int
	intake bool // behind settles, claims, heartbeats and verbs
	// shrinks: the file is cut, on SQLite when the WAL is moved into it.
	shrinks bool

	// statement, on PostgreSQL, is the operation in one statement, which fn would
	// be in several. It puts the mark that it is given, unless that is 0.
	statement func(ctx context.Context, conn *pgxpool.Conn, mark int64) error
	// recall, with a statement that has results, reads them where they were
	// lost with the answer to the commit.
	recall func(ctx context.Context, mark int64) error

	// recognises tells whether fn, when it is called again, sees for itself that
	// its last run was committed after all. For any other operation PostgreSQL
	// commits a mark with it.
	recognises func() bool
	// wakes: afterwards jobs may be claimable.
	wakes bool
	// urgent: a lease depends on it, or a sender waits.
	urgent bool
	// lockTimeout is the longest wait for a row that another transaction holds;
	// 0: the session's.
	lockTimeout time.Duration
	// inDoubt: the connection was lost before the commit was answered.
	inDoubt bool

	done chan error // SQLite's answer
}

// errCommitted is what fn returns when it sees that its last run was committed:
// nothing of this one is kept.
var errCommitted = errors.New("was committed before")

func always() bool { return true }

// write runs fn in a transaction and returns its value once the commit has
// returned.
func write[T any](ctx context.Context, r runner, o op, fn func(context.Context, querier) (T, error)) (T, error) {
	return writeKnowing(ctx, r, &o, fn)
}

// writeKnowing is write for an fn that looks at the operation it runs in.
func writeKnowing[T any](ctx context.Context, r runner, o *op, fn func(context.Context, querier) (T, error)) (T, error) {
	var out, zero T
	o.ctx = ctx
	o.fn = func(ctx context.Context, q querier) (err error) {
		out, err = fn(ctx, q)
		return err
	}
	if err := r.run(o); err != nil {
		return zero, err
	}
	return out, nil
}

// querier runs SQL: in a transaction, or on a reader.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}
