package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"orchestrate/internal/queue"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// Postgres is a queue.Store on a server. Each operation is a transaction of its
// own; settles that wait together share one.
type Postgres struct {
	shared
	pool    *pgxpool.Pool
	db      *sql.DB // over pool
	session session
	try     time.Duration // how long one may take
	log     *slog.Logger

	intake   chan struct{} // connections that inserts may hold: the others are for settles and heartbeats
	inserts  chan *waiting[delivery, newEvent]
	settles  chan *waiting[settling, bool]
	loads    chan *waiting[int64, loaded]
	doubtful *doubtful
	floors   floors
	ahead    ahead
	notices  chan struct{}
	server   serverClock

	start, closing sync.Once
	stop, stopped  chan struct{}
	background     sync.WaitGroup
	broken         chan struct{}
}

var _ queue.Store = (*Postgres)(nil)

// session is what is asked of the server for each transaction.
type session struct {
	begin statement
	// pooled: a connection is ours for one transaction only, as behind PgBouncer
	// in transaction mode. Nothing can be set for a session, nor listened to.
	pooled bool
	want   map[string]string // settings that must be in force, as pg_settings writes them
}

const (
	// minVersion: before it there are no MATERIALIZED CTEs (12), and nothing
	// older than 13 is tested.
	minVersion = 13_00_00
	// maxConns is how many connections a process opens, unless the URL says
	// pool_max_conns: enough that commits share their syncs.
	maxConns = 16
	// maxStatement bounds a statement: the slowest counts every row.
	maxStatement = 60 * time.Second
	// maxIdleTransaction bounds how long the server keeps the locks of a process
	// that hangs or was cut off: well below a lease, as others may wait for them.
	maxIdleTransaction = 5 * time.Second
	// tryGrace is how much longer a try may take than its waits for locks and
	// connections.
	tryGrace = 5 * time.Second
	// urgentTry is how long a try may take where a lease depends on it, or a
	// sender waits for the answer: a connection that has gone silent must leave
	// time for another.
	urgentTry = 3 * time.Second
	// pingTimeout is how long a connection that was idle may take to show that
	// it lives.
	pingTimeout = time.Second
	// maxConnect is how long one of several hosts may take to answer.
	maxConnect = 3 * time.Second
)

func openPostgres(ctx context.Context, o Options) (p *Postgres, err error) {
	o = o.withDefaults()
	defer func() {
		if err != nil {
			err = fmt.Errorf("open %s: %w", shownURL(o.Database), classify(err))
		}
	}()
	cfg, s, err := postgresConfig(o)
	if err != nil {
		return nil, err
	}
	var pool *pgxpool.Pool
	cfg.ShouldPing = func(ctx context.Context, c pgxpool.ShouldPingParams) bool {
		if c.IdleDuration < pingTimeout {
			return false
		}
		ctx, cancel := context.WithTimeout(ctx, pingTimeout)
		defer cancel()
		if c.Conn.Ping(ctx) != nil {
			pool.Reset() // its siblings are likely to have gone silent, too
			return true  // it fails at once: the connection is closed
		}
		return false
	}
	if pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, err
	}
	p = &Postgres{
		shared: shared{dialect: postgresDialect},
		pool:   pool, db: stdlib.OpenDBFromPool(pool), session: s, try: o.Timeout + tryGrace, log: o.Log,
		intake:   make(chan struct{}, max(1, int(cfg.MaxConns)*3/4)),
		inserts:  make(chan *waiting[delivery, newEvent], maxWaiting),
		settles:  make(chan *waiting[settling, bool], maxWaiting),
		loads:    make(chan *waiting[int64, loaded], maxWaiting),
		floors:   floors{at: map[string]floor{}},
		ahead:    ahead{events: map[int64]arrived{}},
		doubtful: &doubtful{claims: map[queue.Claim]bool{}},
		notices:  make(chan struct{}, 1),
		stop:     make(chan struct{}), stopped: make(chan struct{}), broken: make(chan struct{}),
	}
	p.reads, p.runner, p.clock = pgReads{p}, p, p.server.now
	if err := p.prepare(ctx, o); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// prepare looks at the server, and at the schema or brings it up to date, which
// takes as long as it takes.
func (p *Postgres) prepare(ctx context.Context, o Options) error {
	err := p.look(ctx, o)
	if !o.Create || !errors.Is(err, queue.ErrSchema) {
		return err
	}
	if _, err := postgresUp(ctx, o); err != nil {
		return err
	}
	return p.check(ctx, o)
}

func (p *Postgres) look(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, max(o.Timeout, time.Second))
	defer cancel()
	if err := p.checkServer(ctx, o.Create); err != nil {
		return err
	}
	if err := p.readClock(ctx); err != nil {
		return err
	}
	if off := queue.Now().Sub(p.Now()).Abs(); off > clockWarning {
		p.log.WarnContext(ctx, "this machine's clock and the server's differ; times are told by the server's", "by", off.Round(time.Second).String())
	}
	return p.check(ctx, o)
}

// postgresConfig reads the URL, and with it libpq's variables, service and
// password files.
func postgresConfig(o Options) (*pgxpool.Config, session, error) {
	cfg, err := parseConfig(o.Database)
	if err != nil {
		return nil, session{}, fmt.Errorf("%w: %w", queue.ErrInvalid, err)
	}
	if !strings.Contains(o.Database, "pool_max_conns=") {
		cfg.MaxConns = maxConns
	}
	c := cfg.ConnConfig
	if c.ConnectTimeout == 0 || c.ConnectTimeout > o.Timeout {
		c.ConnectTimeout = min(maxConnect, o.Timeout/time.Duration(2*(1+len(c.Fallbacks))))
	}
	c.DialFunc = dialer.DialContext
	return cfg, sessionOf(c, o.Timeout/2), nil
}

// CheckURL tells what is wrong with a server's URL, or with what completes it:
// libpq's variables, files and parameters. Of a path it knows nothing.
func CheckURL(database string) error {
	if !isPostgres(database) {
		return nil
	}
	_, err := parseConfig(database)
	return err
}

func parseConfig(database string) (*pgxpool.Config, error) {
	if _, err := parseURL(database); err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(database)
	if err != nil {
		return nil, fmt.Errorf("%w; correct the URL's parameters, libpq's variables (PGSERVICE, PGSSLMODE, …) or the service file", withoutURL(err))
	}
	return cfg, nil
}

// sessionOf asks for our settings: at the start of each session, or, behind a
// pooler, of each transaction. A pooler refuses settings at the start.
func sessionOf(c *pgx.ConnConfig, lockTimeout time.Duration) session {
	s := session{
		begin:  "BEGIN ISOLATION LEVEL READ COMMITTED",
		pooled: c.DefaultQueryExecMode != pgx.QueryExecModeCacheStatement,
		want:   map[string]string{"synchronous_commit": "on"},
	}
	for name, d := range map[string]time.Duration{
		"statement_timeout": maxStatement, "lock_timeout": lockTimeout, "idle_in_transaction_session_timeout": maxIdleTransaction,
	} {
		if _, given := c.RuntimeParams[name]; !given {
			s.want[name] = strconv.FormatInt(d.Milliseconds(), 10)
		}
	}
	if _, given := c.RuntimeParams["application_name"]; !given {
		c.RuntimeParams["application_name"] = "orchestrate"
	}
	if s.pooled {
		for name, value := range s.want {
			s.begin += "; SET LOCAL " + statement(name) + " = " + statement(value)
		}
		return s
	}
	s.want["default_transaction_isolation"] = "read committed" // of statements without a BEGIN
	maps.Copy(c.RuntimeParams, s.want)
	for name, value := range map[string]string{"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"} {
		if _, given := c.RuntimeParams[name]; !given { // so that the server, too, gives up a client that went silent
			c.RuntimeParams[name] = value
		}
	}
	return s
}

// parseURL refuses a URL whose parts can't be told apart with certainty: a
// password with special characters would end up in the host or the path, and
// from there in messages.
func parseURL(database string) (*url.URL, error) {
	u, err := url.Parse(database)
	if err != nil || u.Fragment != "" || strings.Count(database, "@") > 1 || strings.ContainsAny(u.Path, "@&=") || u.User == nil && strings.Contains(database, "@") {
		return nil, errors.New("the URL can't be read; write postgres://USER@HOST:PORT/DATABASE, " +
			"with special characters percent-encoded, or leave the password to PGPASSWORD or ~/.pgpass")
	}
	return u, nil
}

// withoutURL drops the URL that the text of a parse error begins with. It has no
// password there, as its parts could be told apart.
func withoutURL(err error) error {
	var parse *pgconn.ParseConfigError
	if !errors.As(err, &parse) {
		return err
	}
	text := parse.Error()
	return errors.New(text[strings.LastIndex(text, "`: ")+len("`: "):])
}

// shownURL is a URL without password and parameters.
func shownURL(database string) string {
	u, err := parseURL(database)
	if err != nil {
		return "postgres://…"
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if name := u.User.Username(); name != "" {
		shown.User = url.User(name)
	}
	if shown.Host == "" && shown.User == nil { // told by libpq's variables
		return u.Scheme + "://" + shown.Path
	}
	return shown.String()
}

// serverSettings are read back: what was asked for, and what the promises rest on.
const serverSettings = `SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('synchronous_commit',
	'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'fsync', 'full_page_writes',
	'default_transaction_isolation', 'server_version_num', 'server_version', 'server_encoding', 'transaction_read_only', 'in_hot_standby')`

// checkServer refuses a server that can't hold what is promised. That it runs
// without fsync is its owner's word, given for the whole server, as for tests:
// it is told at every start, and not refused.
func (p *Postgres) checkServer(ctx context.Context, writes bool) error {
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // back to the pool
	if _, err := simple(ctx, conn, p.session.begin); err != nil {
		return err
	}
	got := map[string]string{}
	err = each(ctx, conn, serverSettings, nil, func(rows *sql.Rows) error {
		var name, value string
		err := rows.Scan(&name, &value)
		got[name] = value
		return err
	})
	if err == nil {
		_, err = simple(ctx, conn, "ROLLBACK")
	}
	if err != nil {
		return err
	}
	if err := refuseServer(got, p.session, writes); err != nil {
		return err
	}
	for _, name := range []string{"fsync", "full_page_writes"} {
		if got[name] == "off" && writes {
			p.log.ErrorContext(ctx, "the server may lose acknowledged webhooks when its machine fails: turn this setting on",
				"setting", name, "value", "off")
		}
	}
	return nil
}

func refuseServer(got map[string]string, s session, writes bool) error {
	version, err := strconv.Atoi(got["server_version_num"])
	switch {
	case err != nil || version < minVersion:
		return fmt.Errorf("%w: the server is PostgreSQL %s; version 13 or newer is needed", queue.ErrUnavailable, queue.Printable(got["server_version"]))
	case got["server_encoding"] != "UTF8":
		return fmt.Errorf("%w: the database's encoding is %s; create one with ENCODING 'UTF8'", queue.ErrUnavailable, queue.Printable(got["server_encoding"]))
	case writes && got["transaction_read_only"] == "on":
		return fmt.Errorf("%w: the server is read-only, as a standby is; name the primary, or add target_session_attrs=read-write to the URL",
			queue.ErrUnavailable)
	}
	for name, want := range s.want {
		if got[name] != want {
			return fmt.Errorf("%w: %s is %s, want %s; behind a pooler, add default_query_exec_mode=exec to the URL",
				queue.ErrUnavailable, name, queue.Printable(got[name]), want)
		}
	}
	return nil
}

// Close waits for the writes that were asked for and closes the connections. It
// may be called again.
func (p *Postgres) Close() error {
	p.closing.Do(func() {
		p.start.Do(func() {}) // from now on nothing starts
		close(p.stop)
		p.background.Wait()
		close(p.stopped)
		_ = p.db.Close() // the pool's wrapper: it holds nothing
		p.pool.Close()
	})
	return nil
}

// CheckWrites implements queue.Store: a server that can't write ends.
func (p *Postgres) CheckWrites(context.Context) error { return nil }

// Broken implements queue.Store. It is never closed: a server that failed to
// sync crashes and recovers by itself.
func (p *Postgres) Broken() <-chan struct{} { return p.broken }

// WhyBroken implements queue.Store.
func (p *Postgres) WhyBroken() error { return nil }

// Shrink implements queue.Store. Autovacuum makes the space of deleted rows
// usable again; giving it back would lock whole tables.
func (p *Postgres) Shrink(context.Context) error { return nil }

// Check implements queue.Store. The server has checksums and amcheck.
func (p *Postgres) Check(context.Context) (queue.Checked, error) {
	return queue.Checked{State: queue.CheckNone}, nil
}

// advisoryLock keeps two processes from migrating at once ("orch").
const advisoryLock = applicationID

func postgresUp(ctx context.Context, o Options) ([]Migration, error) {
	var applied []Migration
	_, err := migrateServer(ctx, o, func(ctx context.Context, p *goose.Provider) error {
		results, err := p.Up(ctx)
		applied = fromResults(results)
		return err
	})
	return applied, err
}

func migratePostgres(ctx context.Context, o Options, fn func(context.Context, *goose.Provider) error) (int64, error) {
	version, err := migrateServer(ctx, o, fn)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", shownURL(o.Database), classify(err))
	}
	return version, nil
}

// migrateServer runs fn under a lock that a transaction holds on a connection of
// its own: unlike a session's, it ends with its holder behind a pooler, too.
func migrateServer(ctx context.Context, o Options, fn func(context.Context, *goose.Provider) error) (version int64, err error) {
	cfg, s, err := postgresConfig(o)
	if err != nil {
		return 0, err
	}
	if !s.pooled {
		cfg.ConnConfig.RuntimeParams["statement_timeout"] = "0" // a step may rewrite a table
	}
	db := stdlib.OpenDB(*cfg.ConnConfig)
	defer func() { err = errors.Join(err, db.Close()) }()
	lock, err := db.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := lockServer(ctx, lock, o.Timeout); err != nil {
		return 0, fmt.Errorf("wait for another process that migrates: %w", err)
	}
	defer func() {
		if _, rollback := simple(context.WithoutCancel(ctx), lock, "ROLLBACK"); err == nil {
			err = rollback
		}
	}()
	return postgresDialect.step(ctx, db, fn)
}

// lockServer begins a transaction that holds the lock. Those that wait give
// their connection back meanwhile: behind a pooler the holder needs another.
func lockServer(ctx context.Context, conn *sql.Conn, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for wait := firstWait; ; {
		_, err := simple(ctx, conn, "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
		if err != nil {
			return err
		}
		locked, err := one[bool](ctx, conn, "SELECT pg_try_advisory_xact_lock($1)", int64(advisoryLock))
		if err != nil {
			return err
		}
		if locked {
			return oneSchema(ctx, conn)
		}
		if _, err := simple(ctx, conn, "ROLLBACK"); err != nil {
			return err
		}
		if !pause(ctx, &wait) {
			return waited(ctx)
		}
	}
}

// oneSchema refuses to make a second queue in a schema that has come to stand
// before that of ours in the search_path.
func oneSchema(ctx context.Context, conn *sql.Conn) error {
	type place struct{ ours, first string }
	found, err := all(ctx, conn, `SELECT n.nspname, coalesce(current_schema(), '') FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('orchestrate_schema')`, nil,
		func(rows *sql.Rows, p *place) error { return rows.Scan(&p.ours, &p.first) })
	if err != nil {
		return err
	}
	for _, p := range found {
		if p.ours != p.first {
			return fmt.Errorf("%w: the queue is in schema %q, and %q comes before it: add search_path=%s to the URL",
				queue.ErrUnavailable, p.ours, p.first, url.QueryEscape(p.ours))
		}
	}
	return nil
}
