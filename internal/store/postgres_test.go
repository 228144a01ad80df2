package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"os"
	osexec "os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"orchestrate/internal/queue"
	"orchestrate/internal/store/pgtest"
	"orchestrate/internal/store/storetest"
	"orchestrate/migrations"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Each random run is some hundred transactions; more of them take the flag.
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		_ = checks.Value.Set("12")
	}
	os.Exit(pgtest.Main(m))
}

// openServer opens a database of its own of the server that all tests share.
func openServer(t testing.TB, url string) *Postgres {
	t.Helper()
	if url == "" {
		url = migrated(t)
	}
	p, err := openPostgres(t.Context(), Options{Database: url, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// migrated is a database of a test's own, with the schema.
func migrated(t testing.TB) string {
	t.Helper()
	return pgtest.Shared(t).Copy(t, "migrated", func(url string) error {
		_, err := MigrateUp(context.Background(), Options{Database: url})
		return err
	})
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	urls := map[string]string{} // by test: the second time, the same database
	storetest.Run(t, func(t *testing.T) queue.Store {
		if urls[t.Name()] == "" {
			urls[t.Name()] = migrated(t)
		}
		return openServer(t, urls[t.Name()])
	})
}

// TestPooler: behind a pooler in transaction mode nothing relies on a session.
func TestPooler(t *testing.T) {
	t.Parallel()
	poolers := map[string]*pgtest.Pooler{}
	storetest.Run(t, func(t *testing.T) queue.Store {
		if poolers[t.Name()] == nil {
			poolers[t.Name()] = pgtest.NewPooler(t, migrated(t), 2)
		}
		return openServer(t, poolers[t.Name()].URL()+"&default_query_exec_mode=exec")
	})
	for _, mode := range []string{"cache_describe", "simple_protocol"} {
		newWorld(t, openServer(t, pgtest.NewPooler(t, migrated(t), 3).URL()+"&default_query_exec_mode="+mode))
	}
	pooler := pgtest.NewPooler(t, pgtest.Shared(t).Database(t), 3)
	if _, err := Open(t.Context(), Options{Database: pooler.URL()}); !errors.Is(err, queue.ErrUnavailable) || !strings.Contains(err.Error(), "default_query_exec_mode=exec") {
		t.Errorf("without a word: got %v, want the next step", err)
	}
	var log bytes.Buffer
	s, err := openPostgres(t.Context(), Options{ // migrates, too
		Database: pooler.URL() + "&default_query_exec_mode=exec", Create: true, Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	newWorld(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Watch(ctx, func() { t.Error("told of a change") }); !errors.Is(err, context.Canceled) {
		t.Errorf("watch: %v", err)
	}
	if n := strings.Count(log.String(), "polling"); n != 1 {
		t.Errorf("polling was logged %d times, want once:\n%s", n, log.String())
	}
	if pooler.Named.Load() > 0 || pooler.Transactions.Load() == 0 {
		t.Errorf("%d named statements in %d transactions, want none", pooler.Named.Load(), pooler.Transactions.Load())
	}
}

func TestWatchHearsOtherProcess(t *testing.T) {
	server := pgtest.Shared(t)
	url := migrated(t)
	proxy := pgtest.NewProxy(t, server)
	a, b := openServer(t, proxy.URL(url)), openServer(t, url)
	heard := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- a.Watch(ctx, func() {
			select {
			case heard <- struct{}{}:
			default:
			}
		})
	}()
	<-heard // it listens
	for i := range 3 {
		if _, err := b.Insert(t.Context(), deliveryOf(fmt.Sprint("d", i), "{}", "a")); err != nil {
			t.Fatal(err)
		}
		<-heard
	}
	proxy.Cut()
	<-heard // again, as something may have been missed
	if _, err := b.Insert(t.Context(), deliveryOf("last", "{}", "a")); err != nil {
		t.Fatal(err)
	}
	<-heard
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
}

// TestMigrateAtOnce: ten that start at once make one schema.
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	if url := os.Getenv("ORCHESTRATE_TEST_MIGRATE"); url != "" { // one of the processes below
		if _, err := openPostgres(t.Context(), Options{Database: url, Create: true, Timeout: time.Minute}); err != nil {
			t.Fatal(err)
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, start := range map[string]func(string) error{
		"goroutines": func(url string) error {
			s, err := openPostgres(t.Context(), Options{Database: url, Create: true, Timeout: time.Minute})
			if err != nil {
				return err
			}
			return s.Close()
		},
		"processes": func(url string) error {
			cmd := osexec.Command(self, "-test.run=^TestMigrateAtOnce$")
			cmd.Env = append(os.Environ(), "ORCHESTRATE_TEST_MIGRATE="+url)
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := pgtest.Shared(t).Database(t)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if err := start(url); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			s := openServer(t, url)
			versions, err := all(t.Context(), s.db, "SELECT version_id FROM orchestrate_schema WHERE version_id > 0 ORDER BY id", nil,
				func(rows *sql.Rows, v *int64) error { return rows.Scan(v) })
			last, _ := postgresDialect.schemaVersion()
			if err != nil || int64(len(versions)) != last || len(slices.Compact(versions)) != len(versions) {
				t.Errorf("applied: %v, %v; want each of %d steps once", versions, err, last)
			}
		})
	}
}

// TestSchemasHaveTheSameNumbers: a copy from one database to the other goes by
// them.
func TestSchemasHaveTheSameNumbers(t *testing.T) {
	a, err1 := fs.ReadDir(migrations.Files, "sqlite")
	b, err2 := fs.ReadDir(migrations.Files, "postgres")
	names := func(entries []fs.DirEntry) (out []string) {
		for _, e := range entries {
			out = append(out, e.Name())
		}
		return out
	}
	if err := errors.Join(err1, err2); err != nil || !slices.Equal(names(a), names(b)) {
		t.Errorf("sqlite has %v, postgres %v, %v; want the same", names(a), names(b), err)
	}
}

func TestServerSchemaVersions(t *testing.T) {
	url := pgtest.Shared(t).Database(t)
	if _, err := Open(t.Context(), Options{Database: url}); !errors.Is(err, queue.ErrSchema) || !strings.Contains(err.Error(), "orchestrate migrate") {
		t.Errorf("an empty database: got %v, want ErrSchema with the next step", err)
	}
	s := openServer(t, url)
	undone, err := MigrateDown(t.Context(), Options{Database: url}, 0)
	if err != nil || len(undone) == 0 {
		t.Fatalf("migrate down: %v, %v", undone, err)
	}
	if err := s.CheckSchema(t.Context()); !errors.Is(err, queue.ErrSchema) {
		t.Errorf("an older schema: got %v, want ErrSchema", err)
	}
	if _, err := s.List(t.Context(), queue.Filter{}, 1); !errors.Is(err, queue.ErrSchema) {
		t.Errorf("list without tables: got %v, want ErrSchema", err)
	}
	applied, err := MigrateUp(t.Context(), Options{Database: url})
	if err != nil || len(applied) != len(undone) {
		t.Errorf("migrate up: got %v, %v", applied, err)
	}
	steps, version, err := MigrationStatus(t.Context(), Options{Database: url})
	if err != nil || int(version) != len(steps) || steps[0].AppliedAt == 0 {
		t.Errorf("status: got %v at %d, %v", steps, version, err)
	}
	if _, err := s.db.ExecContext(t.Context(), "INSERT INTO orchestrate_schema (version_id, is_applied) VALUES (99999, true)"); err != nil {
		t.Fatal(err)
	}
	for _, create := range []bool{false, true} {
		if _, err := Open(t.Context(), Options{Database: url, Create: create}); !errors.Is(err, queue.ErrSchema) {
			t.Errorf("open a newer schema, create %v: got %v, want ErrSchema", create, err)
		}
	}
}

// TestOpenServerRefuses: each refusal names the database and the next step, and
// none the password.
func TestOpenServerRefuses(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	const password = "hunter2"
	server.Exec(t, "postgres", "CREATE ROLE weak LOGIN PASSWORD '"+password+"'")
	name := strings.TrimPrefix(must1(url.Parse(server.Database(t))).Path, "/")
	server.Exec(t, name, "REVOKE ALL ON SCHEMA public FROM PUBLIC", "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
	readOnly := must1(url.Parse(server.Database(t))).Path[1:]
	server.Exec(t, "postgres", "ALTER DATABASE "+readOnly+" SET default_transaction_read_only = on")
	locked := must1(url.Parse(server.Database(t))).Path[1:]
	server.Exec(t, "postgres", "ALTER DATABASE "+locked+" CONNECTION LIMIT 0")
	at := func(user, database string) string {
		return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/%s?sslmode=disable", user, password, server.Port, database)
	}
	closed := pgtest.NewProxy(t, server)
	closed.Refuse(true)
	tests := []struct {
		name, url, want string
		is              error
	}{
		{"no database", strings.TrimSuffix(at("postgres", "nowhere"), "?sslmode=disable"), "createdb", queue.ErrUnavailable},
		{"no user", at("nobody", name), "password", queue.ErrUnavailable},
		{"no privilege", at("weak", name), "GRANT", queue.ErrUnavailable},
		{"encoding", at("postgres", "latin"), "UTF8", queue.ErrUnavailable},
		{"read-only", at("postgres", readOnly), "primary", queue.ErrUnavailable},
		{"full", at("weak", locked), "max_connections", queue.ErrUnavailable},
		{"no server", "postgres://u:" + password + "@127.0.0.1:1/db", "is the server running", queue.ErrUnavailable},
		{"cut", closed.URL(at("postgres", name)), "", queue.ErrUnavailable},
		{"bad port", "postgres://u:" + password + "@127.0.0.1:x/db", "percent-encoded", queue.ErrInvalid},
		{"slash in the password", "postgres://u:12/" + password + "@127.0.0.1/db", "percent-encoded", queue.ErrInvalid},
		{"at sign in the password", "postgres://u:12@" + password + "@127.0.0.1/db", "percent-encoded", queue.ErrInvalid},
		{"no such setting", server.URL("postgres") + "&nonesuch=1", "check the URL's parameters", queue.ErrUnavailable},
		{"question mark in the password", "postgres://u:12?" + password + "@127.0.0.1/db", "percent-encoded", queue.ErrInvalid},
		{"bad parameter", at("postgres", name) + "&connect_timeout=" + password[:2] + "x", "connect_timeout", queue.ErrInvalid},
		{"bad mode", at("postgres", name) + "&default_query_exec_mode=none", "query_exec_mode", queue.ErrInvalid},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Open(t.Context(), Options{Database: test.url, Create: true, Timeout: 5 * time.Second})
			if !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %v with %q", err, test.is, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %v", err)
			}
			if err != nil && (strings.Contains(err.Error(), password) || strings.Contains(Shown(test.url), password)) {
				t.Errorf("the password is shown: %v; %s", err, Shown(test.url))
			}
		})
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestRefuseServer(t *testing.T) {
	good := map[string]string{"server_version_num": "150018", "server_encoding": "UTF8", "transaction_read_only": "off", "synchronous_commit": "on"}
	for name, change := range map[string][2]string{
		"":                          {"", ""},
		"version 13 or newer":       {"server_version_num", "120022"},
		"read-only":                 {"transaction_read_only", "on"},
		"synchronous_commit is off": {"synchronous_commit", "off"},
		"UTF8":                      {"server_encoding", "SQL_ASCII"},
	} {
		got := maps.Clone(good)
		got[change[0]] = change[1]
		err := refuseServer(got, session{want: map[string]string{"synchronous_commit": "on"}}, true)
		if name == "" && err != nil || name != "" && (err == nil || !strings.Contains(err.Error(), name)) {
			t.Errorf("%v: got %v, want %q", change, err, name)
		}
	}
}

// TestSettings: what was asked for is in force on every connection, whatever
// the database's own are, and a server without fsync is told of.
func TestSettings(t *testing.T) {
	server := pgtest.Shared(t)
	u := server.Database(t)
	server.Exec(t, "postgres", "ALTER DATABASE "+must1(url.Parse(u)).Path[1:]+" SET synchronous_commit = off")
	for _, params := range []string{"", "&default_query_exec_mode=exec"} {
		var log bytes.Buffer
		s, err := openPostgres(t.Context(), Options{Database: u + params, Create: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "setting=fsync") {
			t.Errorf("fsync is off, and the log says %q", log.String())
		}
		got, err := write(t.Context(), s, op{recognises: always}, func(ctx context.Context, q querier) (string, error) {
			return one[string](ctx, q, "SELECT current_setting('synchronous_commit') || current_setting('lock_timeout') || current_setting('application_name')")
		})
		if want := "on5sorchestrate"; err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", params, got, err, want)
		}
	}
}

// TestNewDeliveriesTakeOneStatement: were it wrong, each would quietly take the
// slower way.
func TestNewDeliveriesTakeOneStatement(t *testing.T) {
	var log bytes.Buffer
	s, err := openPostgres(t.Context(), Options{Database: migrated(t), Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	in := deliveryOf("d", "{}", "a", "b")
	in.Event.Action, in.Event.Number, in.Jobs[1].ErrorMessage = `"opened"\u0001`, 7, "é"
	r, err := s.Insert(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.Event(t.Context(), r.EventID)
	if err != nil || e.Action != in.Event.Action || e.Number != 7 || !slices.Equal(e.Routes, []string{"a", "b"}) {
		t.Errorf("got %+v, %v", e, err)
	}
	must(t, s.Close())
	if log.Len() > 0 {
		t.Errorf("the group failed: %s", log.String())
	}
}

func TestFigures(t *testing.T) {
	s := openServer(t, "")
	newWorld(t, s)
	holder, err := s.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Close() }()
	for _, statement := range []string{"ANALYZE", "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"} {
		if _, err := holder.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	newWorldAgain, err := s.Insert(t.Context(), deliveryOf("later", "{}", "a"))
	if err != nil || newWorldAgain.Duplicate {
		t.Fatal(newWorldAgain, err)
	}
	f, err := s.Figures(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f.OldestXminAge == 0 || f.Connections == 0 || f.MaxConnections != 200 || len(f.Tables) != 6 {
		t.Errorf("got %+v, want a transaction that holds rows, connections of 200, and six tables", f)
	}
	for _, table := range f.Tables {
		if table.Bytes == 0 {
			t.Errorf("%s takes no space", table.Name)
		}
	}
}

// TestBodiesShrink: a body takes less of the server than it has bytes, where that
// is cheap.
func TestBodiesShrink(t *testing.T) {
	t.Parallel()
	p := openServer(t, "")
	body := benchBody(100 << 10)
	in := benchInsertion("big", body)
	r, err := p.Insert(t.Context(), in)
	must(t, err)
	stored := must1(one[int](t.Context(), p.reads, "SELECT pg_column_size(body) FROM webhook_payloads"))
	can := must1(one[bool](t.Context(), p.reads, `SELECT count(*) > 0 FROM pg_settings
		WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)`))
	if can && stored > len(body)/2 || !can && stored < len(body) {
		t.Errorf("a body of %d bytes takes %d; lz4: %v", len(body), stored, can)
	}
	got, err := p.Payload(t.Context(), r.EventID)
	must(t, err)
	if !bytes.Equal(got.Body, body) {
		t.Error("it was not read back as it was")
	}
}

// TestEventComesWithItsClaim: of one that is not large, once. Later it is read.
func TestEventComesWithItsClaim(t *testing.T) {
	t.Parallel()
	p := openServer(t, "")
	must(t, p.Register(t.Context(), queue.Worker{ID: "w", StartedAt: 1}, ""))
	want := map[int64]error{} // when the payload is gone after the claim
	for _, size := range []int{2, maxAhead, maxAhead + 1} {
		body := make([]byte, size)
		in := benchInsertion(fmt.Sprint(size), body)
		r := must1(p.Insert(t.Context(), in))
		want[r.EventID] = nil
		if size > maxAhead {
			want[r.EventID] = queue.ErrNotFound
		}
	}
	now := p.Now()
	jobs := must1(p.Claim(t.Context(), queue.ClaimParams{Route: "a", Now: now, DueBy: now, Limit: 10, WorkerID: "w"}))
	if len(jobs) != len(want) {
		t.Fatalf("%d jobs were claimed, want %d", len(jobs), len(want))
	}
	must1(p.db.ExecContext(t.Context(), "DELETE FROM webhook_payloads"))
	for _, j := range jobs {
		e, payload, err := p.Load(t.Context(), j.EventID)
		if !errors.Is(err, want[j.EventID]) {
			t.Errorf("event %d: got %v, want %v", j.EventID, err, want[j.EventID])
		}
		if err == nil && (e.Status != queue.StatusProcessing || int64(len(payload.Body)) != e.BodySize || payload.Headers["Content-Type"] == "") {
			t.Errorf("event %d: got %+v with %d bytes, want it as it was after the claim", j.EventID, e, len(payload.Body))
		}
		if _, _, err := p.Load(t.Context(), j.EventID); !errors.Is(err, queue.ErrNotFound) {
			t.Errorf("event %d, again: got %v, want what is stored", j.EventID, err)
		}
	}
}
