package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"orchestrate/internal/queue"

	"modernc.org/sqlite"
)

// SQLite is a queue.Store in one file.
type SQLite struct {
	shared
	pool   *sql.DB // reads
	writes *sql.DB
	w      *writer // the runner

	database string
	leave    func() // tells that it is not in use any more
	closing  sync.Once
}

var _ queue.Store = (*SQLite)(nil)

// readers is how many connections may read at once. They can't write.
const readers = 4

func openSQLite(ctx context.Context, o Options) (*SQLite, error) {
	o = o.withDefaults()
	useOFDLocks(ctx, o.Log)
	if err := checkName(realPath(o.Database)); err != nil {
		return nil, err
	}
	if !o.Create {
		if err := o.mustExist(); err != nil {
			return nil, err
		}
	}
	leave, err := enter(ctx, o)
	if err != nil {
		return nil, o.failed(err)
	}
	s, err := openEntered(ctx, o)
	if err != nil {
		leave()
		return nil, err
	}
	s.leave = leave
	return s, nil
}

func openEntered(ctx context.Context, o Options) (*SQLite, error) {
	if o.Create {
		if _, err := MigrateUp(ctx, o); err != nil {
			return nil, err
		}
	} else if err := settleWAL(ctx, o); err != nil {
		return nil, o.failed(err)
	}
	s := &SQLite{shared: shared{dialect: sqliteDialect, clock: queue.Now}, database: o.Database, leave: func() {}}
	var err error
	if s.pool, err = sql.Open("sqlite", dsn(o.Database, o.Timeout, "query_only(1)")); err != nil {
		return nil, err
	}
	s.pool.SetMaxOpenConns(readers)
	s.pool.SetMaxIdleConns(readers)
	if s.writes, err = sql.Open("sqlite", dsn(o.Database, min(o.Timeout, busyPoll))); err != nil {
		return nil, errors.Join(err, s.pool.Close())
	}
	s.writes.SetMaxOpenConns(1)
	s.w = newWriter(s.writes, o)
	s.runner, s.reads = s.w, reads{s.pool, s.w}
	if err := s.begin(ctx, o); err != nil {
		if err = o.failed(err); errors.Is(err, queue.ErrBroken) || errors.Is(err, queue.ErrDamaged) {
			err = s.w.noteBroken(err)
			s.w.breakWith(err)
		}
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// begin checks what was opened: the pragmas, the schema, and for a process that
// will write, the WAL that the last one left.
func (s *SQLite) begin(ctx context.Context, o Options) error {
	if err := checkOurs(ctx, s.pool); err != nil {
		return err
	}
	if err := checkPragmas(ctx, s.pool, o.Timeout, true); err != nil {
		return err
	}
	if err := s.check(ctx, o); err != nil {
		return err
	}
	s.w.remember()
	if !o.Create {
		return nil
	}
	if err := checkPragmas(ctx, s.writes, min(o.Timeout, busyPoll), false); err != nil {
		return err
	}
	conn, err := s.writes.Conn(ctx)
	if err != nil {
		return err
	}
	_, err = emptyWAL(ctx, conn) // busy beside living processes is an answer, not an error
	if err = errors.Join(err, conn.Close()); err != nil {
		return err
	}
	return errors.Join(s.openReaders(ctx), keepNames(o.Database))
}

// openReaders has them get their file descriptors before others can take all
// that there are.
func (s *SQLite) openReaders(ctx context.Context) (err error) {
	var conns [readers]*sql.Conn
	for i := range conns {
		if conns[i], err = s.pool.Conn(ctx); err != nil {
			break
		}
		defer func() { _ = conns[i].Close() }() // returns it to the pool
		if _, err = one[int64](ctx, conns[i], "SELECT count(*) FROM sqlite_master"); err != nil {
			break
		}
	}
	return err
}

// failed is an error of opening the database.
func (o Options) failed(err error) error {
	return fmt.Errorf("open %s: %w", o.Database, classify(err))
}

// Close waits for the writes that were asked for and closes the file. It may be
// called again. After a failed sync, or of a damaged database, the file is left to
// the end of the process: to close the last connection is a checkpoint, after which
// the log is gone.
func (s *SQLite) Close() error {
	var err error
	s.closing.Do(func() {
		s.w.close()
		if keepsLog(s.w.database, s.w.trusted()) {
			return
		}
		err = errors.Join(s.writes.Close(), s.pool.Close())
		s.leave()
	})
	return err
}

// CheckWrites implements queue.Store. The write of a heartbeat is the first to
// fail where no deliveries come.
func (s *SQLite) CheckWrites(ctx context.Context) error {
	done, ok := s.w.yield()
	done()
	if !ok {
		return errCleaning
	}
	if !s.w.refused.Load() {
		return nil
	}
	_, err := write(ctx, s, op{}, func(ctx context.Context, q querier) (int64, error) {
		return exec(ctx, q, "PRAGMA user_version=0") // nobody reads it, but a page is written
	})
	return err
}

// Broken implements queue.Store.
func (s *SQLite) Broken() <-chan struct{} { return s.w.broken }

// WhyBroken implements queue.Store.
func (s *SQLite) WhyBroken() error {
	select {
	case <-s.w.broken:
		return s.w.why
	default:
		return nil
	}
}

// reads are a pool that ends when the page cache can't be trusted, and that tells
// the writer what it finds damaged: nothing more may be acknowledged into that.
type reads struct {
	*sql.DB
	w *writer
}

// QueryContext implements querier.
func (r reads) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := r.w.trusted(); err != nil {
		return nil, err
	}
	return r.DB.QueryContext(ctx, query, args...)
}

func (r reads) noticed(err error) error { return r.w.noteBroken(err) }

var ofdLocks sync.Once

// useOFDLocks: with POSIX locks, any code in this process that opens and closes
// the file drops all of SQLite's locks, and writes are lost.
func useOFDLocks(ctx context.Context, log *slog.Logger) {
	ofdLocks.Do(func() {
		_, err := sqlite.OFDLocking(true)
		if err != nil || !sqlite.OFDLockingEnabled() {
			log.InfoContext(ctx, "no OFD locks on this system: no other program in this process may open the database file",
				"os", runtime.GOOS)
		}
	})
}

// mustExist keeps a command from making the file that it was to read.
func (o Options) mustExist() error {
	if isPostgres(o.Database) {
		return nil // opening it tells
	}
	_, err := os.Stat(o.Database)
	if errors.Is(err, fs.ErrNotExist) {
		if at, err := unfinished(o.Database); err == nil && at != "" {
			return nil // it is there as soon as somebody enters
		}
		return fmt.Errorf("%w: there is none at %s; start orchestrate serve or orchestrate migrate, or name another with --database",
			queue.ErrUnavailable, o.Database)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
	}
	return nil
}

// dsn names a database with everything that must hold for each connection: a
// PRAGMA run on a pool reaches one connection only.
func dsn(path string, timeout time.Duration, more ...string) string {
	q := url.Values{"_txlock": {"immediate"}, "_pragma": append([]string{
		fmt.Sprintf("busy_timeout(%d)", timeout.Milliseconds()),
		"synchronous(FULL)", "foreign_keys(1)", "wal_autocheckpoint(0)", // see shorten
	}, more...)}
	return "file:" + dsnPath(path) + "?" + q.Encode()
}

func dsnPath(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // a Windows volume
	}
	return (&url.URL{Path: path}).EscapedPath()
}

// checkPragmas reads back what dsn asked for: an unknown or misspelt pragma is
// no error to SQLite.
func checkPragmas(ctx context.Context, db *sql.DB, timeout time.Duration, queryOnly bool) error {
	want := []struct {
		name  statement
		value string
	}{
		{"busy_timeout", fmt.Sprint(timeout.Milliseconds())},
		{"synchronous", "2"}, // FULL: a commit returns when the disk has it
		{"foreign_keys", "1"},
		{"wal_autocheckpoint", "0"},
		{"journal_mode", "wal"},
		{"query_only", map[bool]string{true: "1", false: "0"}[queryOnly]},
	}
	for _, p := range want {
		got, err := one[string](ctx, db, "PRAGMA "+p.name)
		if err != nil {
			return fmt.Errorf("read pragma %s: %w", p.name, err)
		}
		if p.name == "journal_mode" && got != p.value { // as in a copy by VACUUM INTO
			return fmt.Errorf("%w: it is in journal mode %s, not in WAL mode; run: orchestrate migrate", queue.ErrUnavailable, got)
		}
		if got != p.value {
			return fmt.Errorf("%w: pragma %s is %s, want %s", queue.ErrUnavailable, p.name, got, p.value)
		}
	}
	return nil
}

// shrinkPages is how many pages one step gives back: a few milliseconds.
const shrinkPages = 100

// Shrink implements queue.Store.
func (s *SQLite) Shrink(ctx context.Context) error {
	for before := int64(math.MaxInt64); ; {
		left, err := write(ctx, s, op{}, func(ctx context.Context, q querier) (int64, error) {
			step := func(*sql.Rows) error { return nil } // each row frees a page
			if err := each(ctx, q, "PRAGMA incremental_vacuum("+digits(shrinkPages)+")", nil, step); err != nil {
				return 0, err
			}
			return one[int64](ctx, q, "PRAGMA freelist_count")
		})
		if err != nil {
			return err
		}
		if left == 0 || left >= before { // a file that was made elsewhere may not be able to
			_, err = write(ctx, s, op{shrinks: true}, func(context.Context, querier) (struct{}, error) { return struct{}{}, nil })
			return err
		}
		before = left
	}
}

// Watch implements queue.Store. data_version moves when another connection has
// committed, in this process or another; reading it costs microseconds, so it
// can be read often.
func (s *SQLite) Watch(ctx context.Context, changed func()) error {
	conn, err := s.pool.Conn(ctx)
	if err != nil {
		return classify(err)
	}
	defer func() { _ = conn.Close() }() // only returns it to the pool
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for last := int64(-1); ; {
		if err := s.w.trusted(); err != nil {
			return err
		}
		var version int64
		if err := conn.QueryRowContext(ctx, "PRAGMA data_version").Scan(&version); err != nil {
			return classify(err)
		}
		if version != last { // at first, too: what was written before is not known to be seen
			changed()
		}
		last = version
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watchInterval is how soon a write of another process is seen.
const watchInterval = 20 * time.Millisecond
